"""Recurrent layers as the generic executor composes them on a GPU; on any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastmaml as fm
import pytest
import torch
from fastmaml.executors import generic
from fastmaml.executors.generic import recurrent
from generic_models import Recurrent
from small_problems import EXACT
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.filterwarnings("ignore::fastmaml.GenericNote")


class Composed(TorchFunctionMode):
    """Everything composed, as on a GPU; it counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in recurrent.COMPOSED:
            self.calls += 1
            assert not kwargs
            return recurrent.COMPOSED[func](*args)
        return func(*args, **(kwargs or {}))


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "RNN": nn.RNN,
    "RNN of ReLU": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "LSTM with projections": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=2, **options),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"num_layers": 2, "batch_first": True, "bidirectional": True}],
    ids=str,
)
def test_layers_are_torchs(name: str, options: dict[str, Any]):
    torch.manual_seed(0)
    layer, x = LAYERS[name](3, 4, **options).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    expected, mode = layer(x)[0], Composed()
    with mode:
        actual = layer(x)[0]
    assert mode.calls == 1
    torch.testing.assert_close(actual, expected, **EXACT)


def test_packed_sequences_are_torchs():
    torch.manual_seed(0)
    layer = nn.GRU(3, 4).double()
    x = pack_sequence([torch.randn(n, 3, dtype=torch.float64) for n in (4, 2)])
    with Composed():
        actual, _ = layer(x)
    assert isinstance(actual, PackedSequence)
    assert torch.equal(actual.data, layer(x)[0].data)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_are_torchs(cell: type[nn.RNNCellBase], bias: bool):
    torch.manual_seed(0)
    module, x = cell(3, 4, bias=bias).double(), torch.randn(5, 3, dtype=torch.float64)
    state = torch.randn(5, 4, dtype=torch.float64)
    state = (state, state.flip(0)) if cell is nn.LSTMCell else state
    expected, mode = module(x, state), Composed()
    with mode:
        actual = module(x, state)
    assert mode.calls == 1
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_composed_layers_run_in_the_first_gear(monkeypatch, layer: type[nn.RNNBase]):
    """With the gradients that the layers as they are have on a CPU."""

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        model = Recurrent(layer).double()
        data = [torch.randn(3, 4, *shape, dtype=torch.float64) for shape in ((3, 3), (2,))]
        maml = fm.MAML(model, 0.1, 2, loss="mse", backend="generic")
        maml(*data, *data).loss.backward()
        assert f"in {generic.GEARS[0].name}" in str(maml.plan(data[0], data[0]))
        return [parameter.grad for parameter in model.parameters()]

    expected, calls = gradients(), []

    def override(own: Callable[..., Any]) -> Callable[..., Any]:
        def method(_mode: object, *args: Any) -> Any:
            calls.append(own)
            return recurrent.COMPOSED[own](*args)

        return method

    table = {own: override(own) for own in recurrent.COMPOSED}
    monkeypatch.setattr(generic.overrides, "_OVERRIDES", generic.overrides._OVERRIDES | table)
    torch.testing.assert_close(gradients(), expected, **EXACT)
    assert calls

"""`traced` remembers programs, and notices when a model has changed."""

from __future__ import annotations

import copy
import dataclasses
import gc
import operator
import pickle
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fastmaml.program import TraceError, trace, traced
from torch import Tensor, nn
from traced_models import Doubled, function, kinds


@dataclasses.dataclass
class Settings:
    depths: list[int]


class Configured(nn.Module):
    rate = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.5
        self.act = F.relu
        self.scales = [1.5, 2.5]
        self.settings = Settings([1, 2])
        self.space = SimpleNamespace(factor=3.0)
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.drop = nn.Dropout(0.5)
        self.slope = nn.LeakyReLU(0.1)
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("gain", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        x = self.norm(self.slope(self.drop(x * self.scale * self.rate * self.gain)))
        return self.space.factor * x * self.scales[1] * self.settings.depths[0]


def _untie(model: Configured) -> None:
    model.layers[0].weight = nn.Parameter(torch.ones(5, 5))


def _tie(model: Configured) -> None:
    model.layers[0].weight = model.layers[1].weight


CHANGES: dict[str, Callable[[Configured], object]] = {
    "evaluation": lambda model: model.eval(),
    "one module in evaluation": lambda model: model.drop.eval(),
    "p": lambda model: setattr(model.drop, "p", 0.25),
    "slope": lambda model: setattr(model.slope, "negative_slope", 0.2),
    "eps": lambda model: setattr(model.norm, "eps", 0.2),
    "number": lambda model: setattr(model, "scale", 0.75),
    "number of the class": lambda model: setattr(model, "rate", 3.0),
    "function": lambda model: setattr(model, "act", torch.tanh),
    "list": lambda model: operator.setitem(model.scales, 1, 9.0),
    "dataclass": lambda model: operator.setitem(model.settings.depths, 0, 7),
    "namespace": lambda model: setattr(model.space, "factor", 4.0),
    "scalar buffer": lambda model: model.gain.data.fill_(5.0),
    "another module": lambda model: operator.setitem(model.layers, 1, nn.Identity()),
    "one more module": lambda model: model.layers.append(nn.Linear(5, 5)),
    "no bias": lambda model: setattr(model.layers[0], "bias", None),
    "another parameter": _untie,
    "tied": _tie,
    "class": lambda model: setattr(model.layers[0], "__class__", Doubled),
    "shape": lambda model: setattr(model.norm, "weight", None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_noticed(change: Callable[[Configured], object]) -> None:
    model = Configured()
    program = traced(model, (5,))
    assert traced(model, (5,)) is program
    change(model)
    again = traced(model, (5,))
    assert again is not program
    assert again.ops == trace(model, (5,)).ops
    assert traced(model, (5,)) is again


def test_a_parameter_that_grew_is_noticed() -> None:
    model = nn.Linear(5, 4)
    assert traced(model, (5,)).slots[0].shape == (4, 5)
    model.weight.data = torch.ones(4, 6)
    assert traced(model, (6,)).slots[0].shape == (4, 6)
    with pytest.raises(TraceError, match="wants 6 features"):
        traced(model, (5,))


def test_another_forward_of_the_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Doubled(5, 4))
    assert kinds(traced(model, (5,))) == ["linear", "scale"]
    monkeypatch.setattr(Doubled, "forward", nn.Linear.forward)
    assert kinds(traced(model, (5,))) == ["linear"]


def test_what_does_not_matter_is_not_noticed() -> None:
    model = Configured()
    program = traced(model, (5,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    model.norm(torch.randn(4, 5))  # moves its running statistics
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.requires_grad_(False)
    model.unrelated = None
    del model.unrelated
    assert traced(model, (5,)) is program


def test_shapes_and_modes_have_programs_of_their_own() -> None:
    model = nn.Sequential(nn.Dropout(), nn.ReLU())
    first, second = traced(model, (5,)), traced(model, (3, 5))
    assert (first.values[0], second.values[0]) == ((5,), (3, 5))
    model.eval()
    evaluation = traced(model, (5,))
    assert kinds(evaluation) == ["relu"]
    model.train()
    assert traced(model, torch.Size((5,))) is first
    assert traced(model, (3, 5)) is second
    assert traced(model.eval(), (5,)) is evaluation


def test_the_memory_is_bounded() -> None:
    model = nn.ReLU()
    programs = [weakref.ref(traced(model, (size,))) for size in range(1, 40)]
    gc.collect()
    assert sum(program() is not None for program in programs) <= 8
    assert traced(model, (39,)) is programs[-1]()


def test_models_are_neither_kept_nor_changed() -> None:
    model = Configured()
    model.method = model._get_name  # a bound method refers to the model, as does the list
    model.itself = [model]
    attributes = set(vars(model))
    program = traced(model, (5,))
    assert set(vars(model)) == attributes
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert traced(clone, (5,)) is not program
        assert traced(clone, (5,)).ops == program.ops
    gone = weakref.ref(model), weakref.ref(program)
    del model, program, clone
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_an_error_leaves_no_trace() -> None:
    model = function(lambda self, x: torch.cumsum(self.fc(x), 1), fc=nn.Linear(5, 5))
    for _ in range(2):
        with pytest.raises(TraceError):
            traced(model, (5,))
    assert model.fc(torch.ones(2, 5)).shape == (2, 5)
    assert type(model.fc.weight) is nn.Parameter

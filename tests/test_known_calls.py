"""Calls like an earlier one are found by their signature; any that differ are checked anew."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from fastmaml import functional as fm
from fastmaml.extension import extension
from fastmaml.functional import known
from fastmaml.functional.prepared import Prepared
from fastmaml.program import facts
from torch import Tensor, nn
from torch.testing import assert_close

pytestmark = pytest.mark.skipif(extension is None, reason="calls are found by the extension")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Prepared]:
    """Every call that was prepared."""
    made: list[Prepared] = []
    init = Prepared.__init__

    def counted(self: Prepared, *args: object) -> None:
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(Prepared, "__init__", counted)
    return made


# --- signatures -----------------------------------------------------------------------------------

ONE = torch.ones(2, 3)
LIKE_ONE = [torch.zeros(2, 3), torch.zeros(3, 2).t(), torch.zeros(1, 3).expand(2, 3)]
UNLIKE_ONE = [
    torch.zeros(3, 2),
    torch.zeros(6),
    torch.zeros(2, 3, 1),
    torch.zeros(2, 3).double(),
    torch.zeros(2, 3, dtype=torch.int32),
    torch.zeros(2, 3, requires_grad=True),
    torch.zeros(2, 3, device="meta"),
    torch.zeros(2, 3).to_sparse(),
    nn.Parameter(torch.zeros(2, 3), requires_grad=False),
    None,
    1.0,
]


@pytest.mark.parametrize("value", LIKE_ONE)
def test_tensors_of_one_signature(value: Tensor) -> None:
    assert extension.Signature.of(ONE).fits(value)
    assert extension.Signature.of(value).fits(ONE)


@pytest.mark.parametrize("value", UNLIKE_ONE)
def test_tensors_of_another_signature(value: object) -> None:
    assert not extension.Signature.of(ONE).fits(value)
    signature = extension.Signature.of(value)
    assert signature is None or not signature.fits(ONE)


PLAIN = [None, True, 1, 1.0, 0.0, "a", "b", (), (1, "a"), (1, ("a",)), {}, {"a": 1}, {"b": 1}]


def test_plain_values_fit_themselves_alone() -> None:
    signatures = [extension.Signature.of(value) for value in PLAIN]
    fits = [[signature.fits(value) for value in PLAIN] for signature in signatures]
    assert fits == [[i == j for j in range(len(PLAIN))] for i in range(len(PLAIN))]


class Subclass(Tensor):
    pass


@pytest.mark.parametrize(
    "value",
    [
        [],
        {1},
        object(),
        torch.float32,
        (1, []),
        {"a": []},
        Subclass(),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_change_or_has_no_memory_has_no_signature(value: object) -> None:
    assert extension.Signature.of(value) is None


def test_a_signature_keeps_no_tensor_alive() -> None:
    tensor = torch.zeros(2, 3)
    before = sys.getrefcount(tensor)
    signature = extension.Signature.of((tensor, {"a": tensor}))
    assert signature.fits((tensor, {"a": tensor}))
    assert sys.getrefcount(tensor) == before


# --- calls ----------------------------------------------------------------------------------------


def grad(model: nn.Module, episode: tuple[Tensor, ...], **options: object) -> list[Tensor]:
    loss = fm.meta_loss(model, *episode, **{"lr": 0.1, "steps": 2, **options}).loss
    wanted = [p for p in model.parameters() if p.requires_grad]
    return [loss, *torch.autograd.grad(loss, wanted)]


def fresh(model: nn.Module, episode: tuple[Tensor, ...], **options: object) -> list[Tensor]:
    """The same of a call that nothing is known of."""
    known._known.pop(model, None)
    return grad(model, episode, **options)


def test_the_same_call_is_prepared_once(model, episode, made) -> None:
    first = grad(model, episode)
    again = grad(model, tuple(tensor.clone() for tensor in episode))
    assert_close(first, again, rtol=0, atol=0)
    assert len(made) == 1


def test_calls_that_alternate_are_prepared_once_each(model, episode, made) -> None:
    for _ in range(3):
        for steps in (1, 2, 3):
            grad(model, episode, steps=steps)
    assert len(made) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.2},
        {"lr": torch.tensor(0.1, dtype=torch.float64)},
        {"steps": 3},
        {"momentum": 0.5},
        {"first_order": True},
        {"step_weights": (0.0, 1.0, 1.0)},
        {"inner_parameters": "0.*"},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"backend": "reference"},
    ],
    ids=str,
)
def test_another_option_is_another_call(model, episode, made, change) -> None:
    grad(model, episode)
    changed = grad(model, episode, **change)
    assert len(made) == 2
    assert_close(changed, fresh(model, episode, **change))


def test_a_change_of_the_model_is_seen(model, episode, made) -> None:
    grad(model, episode)
    first = next(iter(model.parameters()))
    changes = [
        lambda: first.requires_grad_(False),
        lambda: first.requires_grad_(True),
        lambda: model.append(nn.ReLU()),
        lambda: model.float(),
    ]
    for count, change in enumerate(changes):
        change()
        data = tuple(t.to(first.dtype) if t.is_floating_point() else t for t in episode)
        changed = grad(model, data)
        assert len(made) == count + 2
        assert_close(changed, fresh(model, data))
        made.pop()  # that of the fresh one


def test_values_that_are_checked_are_checked_every_time(model, episode) -> None:
    sx, sy, qx, qy = episode
    rate = torch.tensor(0.1, dtype=sx.dtype)
    grad(model, episode, lr=rate)
    with pytest.raises(ValueError, match="lr must not be NaN"):
        grad(model, episode, lr=rate * float("nan"))
    with pytest.raises(ValueError, match="query_y must hold class indices"):
        grad(model, (sx, sy, qx, qy + 100), lr=rate)


def test_a_tensor_that_stands_for_its_negative(backend: str) -> None:
    model = nn.Linear(1, 1)
    x = torch.complex(torch.tensor([[[1.0]]]), torch.tensor([[[2.0]]])).conj().imag
    y = torch.zeros(1, 1, 1)
    assert x.is_neg()
    assert x.is_contiguous()
    options = {"lr": 0.1, "loss": "mse", "backend": backend}
    assert_close(
        fm.meta_loss(model, x, y, x, y, **options).loss,
        fm.meta_loss(model, x.resolve_neg(), y, x.resolve_neg(), y, **options).loss,
    )


def test_tensors_are_read_by_their_attributes_where_torch_is_older() -> None:
    """Before torch 2.10 a tensor had no `__dlpack_c_exchange_api__`."""
    program = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
import tests.test_known_calls as here
from fastmaml.functional import known
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
x, y = torch.randn(2, 5, 3), torch.randint(2, (2, 5))
strided = torch.randn(2, 3, 5).transpose(1, 2)
for data in ((x, y, x, y), (strided, y, strided, y)):
    one = here.grad(model, data)
    two = here.grad(model, tuple(tensor.contiguous() for tensor in data))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(one, here.grad(model, data, backend="reference"))
assert len(known._known[model]) == 2, known._known[model]
for value in here.LIKE_ONE:
    here.test_tensors_of_one_signature(value)
for value in here.UNLIKE_ONE:
    here.test_tensors_of_another_signature(value)
here.test_a_tensor_that_stands_for_its_negative("native")
print("read")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["read"], done.stderr


# --- facts ----------------------------------------------------------------------------------------


class Unusual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_buffer("buffer", torch.zeros(1))
        self.number, self.word, self.nothing = 1.5, "word", None
        self.items = [1, {"a": self.inner}]
        self.function = torch.sin


CHANGES = {
    "nothing": lambda m: None,
    "a number": lambda m: setattr(m, "number", 2.5),
    "a number of another type": lambda m: setattr(m, "number", True),
    "an attribute more": lambda m: setattr(m, "more", 1),
    "an attribute less": lambda m: delattr(m, "word"),
    "another function": lambda m: setattr(m, "function", torch.cos),
    "an item": lambda m: m.items.append(2),
    "an item within": lambda m: m.items[1].update(b=1),
    "training": lambda m: m.inner.eval(),
    "a parameter": lambda m: setattr(m.inner, "weight", nn.Parameter(torch.zeros(2, 2))),
    "no parameter": lambda m: setattr(m.inner, "bias", None),
    "a buffer": lambda m: m.register_buffer("buffer", torch.ones(1)),
    "a module": lambda m: setattr(m, "inner", nn.Linear(2, 2)),
    "a hook": lambda m: m.inner.register_forward_hook(lambda *_: None),
    "its class": lambda m: setattr(m.inner, "__class__", Renamed),
    "its forward": lambda m: setattr(Unusual, "forward", nn.Identity.forward),
}


class Renamed(nn.Linear):
    pass


@pytest.mark.parametrize("change", CHANGES)
def test_facts_are_looked_at_in_the_extension_as_in_python(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unusual, "forward", Unusual.forward)  # to be put back
    model = Unusual()
    of_model = tuple(facts.of_module(module) for module in model.modules())
    of_model += tuple(facts.no_hooks(module) for module in model.modules())
    assert facts.hold(of_model)
    CHANGES[change](model)
    assert facts.hold(of_model) == facts.hold_in_python(of_model) == (change == "nothing")


def test_facts_of_a_model_that_is_gone_do_not_hold() -> None:
    of_model = (facts.of_module(nn.Linear(1, 1)),)
    assert not facts.hold(of_model)
    assert not facts.hold_in_python(of_model)

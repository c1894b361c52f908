"""Random calls of the functional API agree with plain PyTorch, or are refused by name.

A short run of `tests/fuzz.py`; FASTMAML_FUZZ_CALLS sets its length.
"""

from __future__ import annotations

import os

import pytest
import torch
from fuzz import check, compare, nudged, run
from plain_calls import plain, with_gradients
from random_calls import Call, Residual, random_call
from torch import nn

CALLS = int(os.environ.get("FASTMAML_FUZZ_CALLS", "1500"))
BLOCK = 100

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


@pytest.mark.parametrize("first", range(0, CALLS, BLOCK))
def test_random_calls(first):
    for seed in range(first, min(first + BLOCK, CALLS)):
        try:
            check(random_call(seed))
        except Exception as failure:
            raise AssertionError(f"call of seed {seed}: {failure!r}") from failure


def test_the_calls_are_of_every_kind():
    outcomes = [check(random_call(seed)) for seed in range(100)]
    assert all(outcomes.count(kind) >= 5 for kind in ("agrees", "compared", "refused"))


def test_a_result_may_err_twice_as_much_as_pytorchs_and_no_more():
    """The two products cancel; where the inputs are moved by a unit in the last place, PyTorch's
    float32 is off by about 1e-3."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 1e4)
    call = Call("predict", {"model": model, "query_x": torch.tensor([[[1.1, -1.1]]])})
    results = run(call)
    prediction = results["prediction"]
    compare(call, results | {"prediction": prediction + 1e-3}, plain, torch.float32)
    with pytest.raises(AssertionError, match="prediction"):
        compare(call, results | {"prediction": prediction + 1e-1}, plain, torch.float32)


def test_a_derivative_may_err_as_its_function_is_rounded_and_no_more():
    """1 - tanh(18.5)² is two units in the last place of 1."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[0].weight, 18.5)
    nn.init.constant_(model[2].weight, 1e12)
    call = Call("predict", {"model": model.double(), "query_x": torch.ones(1, 1, 1).double()})
    results = run(call)
    gradient = results["grad model 0.weight"]
    compare(call, results | {"grad model 0.weight": 2 * gradient}, plain, torch.float64)
    with pytest.raises(AssertionError, match=r"grad model 0\.weight"):
        compare(call, results | {"grad model 0.weight": 8 * gradient}, plain, torch.float64)


def call_with(**arguments):
    """An `adapt` of a small network, which is taken for spoilt."""
    x, y = torch.ones(1, 3, 2).double(), torch.zeros(1, 3, 2).double()
    arguments = {"model": Residual(2).double(), "loss": "mse", "lr": 0.1, "seed": 0} | arguments
    return Call("adapt", {"support_x": x, "support_y": y} | arguments, spoilt=("lr",))


UNREAD = {
    "sparse": lambda: torch.ones(2).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([[1.0], [1.0, 2.0]]),
    "meta": lambda: torch.ones(2, device="meta"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_the_rate_of_what_is_not_adapted_may_be_any_tensor(kind):
    rates = {"once.weight": 0.1, "once.bias": UNREAD[kind]().requires_grad_()}
    call = call_with(lr=rates, inner_parameters="*weight")
    assert check(call) == "compared"
    assert all("grad lr once.bias" not in results for results in nudged(call, torch.float64, run))


def test_a_sparse_leaf_is_not_read():
    lr = UNREAD["sparse"]().requires_grad_()
    with pytest.raises(AssertionError, match="lr  is read"):
        with_gradients(call_with(lr=lr), {"sum": torch.sum(lr)})


def test_a_gradient_is_rounded_as_its_leaf_is():
    """adapt hands `unused` back as it was given; its gradient is the sum's weights, in half."""
    unused = torch.ones(2, dtype=torch.float16, requires_grad=True)
    call = call_with(parameters={"unused": unused})
    assert check(call) == "compared"
    results = run(call)
    gradient = results["grad parameters unused"]
    with pytest.raises(AssertionError, match="grad parameters unused"):
        compare(call, results | {"grad parameters unused": 1.01 * gradient}, run, torch.float64)

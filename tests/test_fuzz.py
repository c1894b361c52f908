"""Random calls of the functional API agree with plain PyTorch, or are refused by name.

A short run of `tests/fuzz.py`; FASTMAML_FUZZ_CALLS sets its length.
"""

from __future__ import annotations

import os

import pytest
import torch
from fuzz import check, compare, run
from plain_calls import plain
from random_calls import Call
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
            check(seed)
        except Exception as failure:
            raise AssertionError(f"call of seed {seed}: {failure!r}") from failure


def test_the_calls_are_of_every_kind():
    outcomes = [check(seed) for seed in range(100)]
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

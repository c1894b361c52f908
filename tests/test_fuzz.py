"""Random calls of the functional API agree with plain PyTorch, or are refused by name.

A short run of `tests/fuzz.py`; FASTMAML_FUZZ_CALLS sets its length.
"""

from __future__ import annotations

import os

import pytest
from fuzz import check

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

"""What a contender is: it makes of a workload a function that computes one meta-gradient.

How that is timed, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .workloads import Workload

Gradients = dict[str, Any]
"""Arrays by the names of the model's parameters, of whatever library."""

Step = Callable[[], Gradients]
"""Computes the meta-gradient anew."""

Contender = Callable[[Workload, torch.device, torch.dtype], Step]


_WARM_SECONDS = 0.01
"""Of untimed calls before several that are timed."""


class Unavailable(Exception):
    """This machine cannot run the contender; the message says why."""


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "cross_entropy": F.cross_entropy,
}
"""In torch, by the name that a workload has for them."""


def samples_of(workload: Workload, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """support x, support y, query x, query y, each [T, n, ...], on the device."""
    return tuple(tensor.to(device) for tensor in workload.samples(dtype))


def time_calls(step: Step, calls: int) -> list[float]:
    """The seconds of each of so many calls.

    Before several come some that are not timed, until it is back in the caches, and its threads
    awake, as between other calls.
    """
    if calls > 1:
        end = time.perf_counter() + _WARM_SECONDS
        step()
        while time.perf_counter() < end:
            step()
    return [_seconds(step) for _ in range(calls)]


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start

"""Tensors that hold one number: rates and the shares of tasks, which most calls have in common."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def constant(number: float, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[count] times the same number, kept for later calls.

    A CUDA graph that is captured has one of its own: what is made in a capture holds nothing
    before the first replay, and what is kept here may be gone before the last.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return torch.full((count,), number, dtype=dtype, device=device)
    return _kept(number, count, dtype, device)


@lru_cache
def _kept(number: float, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # it must not be bound to a caller's inference mode
    with torch.inference_mode(False):
        tensor = torch.full((count,), number, dtype=dtype, device=device)
    if device.type == "cuda":  # other streams will not wait for this one
        torch.cuda.current_stream(device).synchronize()
    return tensor

"""dropout: y = x * mask / (1 - p), the mask a hash of where it is read, so that it replays.

The mask is the same for every executor. It has no state: element e of pass `pass_index` of
task `task` in dropout `stream` draws the 32 bits mix(mix(e ^ key) + key), with
key = mix(mix(mix(mix(seed) ^ task) ^ stream) ^ pass_index).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from .rules import Context, Draw, LinearMap, Operands

_LOW_32_BITS = 0xFFFFFFFF
_Integer = TypeVar("_Integer", int, Tensor)


class Dropout(LinearMap):
    """x [n, ...]; y of its shape."""

    def forward(self, context: Context, operands: Operands) -> Tensor:
        (x,) = operands
        return drop_out(x, context.attributes["p"], context.draw, context.attributes["stream"])

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        return (self.forward(context, (y_bar,)),)


def drop_out(x: Tensor, p: float, draw: Draw, stream: int) -> Tensor:
    """x with each element kept, and divided by 1 - p, if its 32 bits are at or above p of their
    range. Differentiable by x; under torch.func.vmap, `draw.task` may be a tensor."""
    key = key_of(draw.seed, draw.task, stream, draw.pass_index)
    element = torch.arange(x.numel(), device=x.device).reshape(x.shape) & _LOW_32_BITS
    bits = _mix((_mix(element ^ key) + key) & _LOW_32_BITS)
    return x * (bits >= int(p * 2**32)) * (1 / (1 - p) if p < 1 else 0.0)


def key_of(*parts: int | Tensor) -> int | Tensor:
    """32 bits that every part moves."""
    key = 0
    for part in parts:
        # an integer on the left of a tensor does not run under vmap
        key = _mix(part ^ key if isinstance(part, Tensor) else key ^ part)
    return key


def _mix(h: _Integer) -> _Integer:
    """A permutation of the 32-bit integers in which every bit of h moves every bit of the result.

    Tensors hold them in int64: a product that overflows it still has the right low 32 bits.
    """
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _LOW_32_BITS
    h = h ^ (h >> 15)
    h = (h * 0x846CA68B) & _LOW_32_BITS
    return h ^ (h >> 16)

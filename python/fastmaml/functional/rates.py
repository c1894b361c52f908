"""What users may give as `lr`, as one rate tensor a slot.

A rate's rank tells what it means. For a parameter of shape [*shape]:

==================  ==========================================================
number or [ ]       one rate
[*shape]            one rate an element (Meta-SGD, Li et al. 2017)
[S, 1, ..., 1]      one rate a step, with the parameter's rank plus one
                    (MAML++, Antoniou et al. 2019)
[S, *shape]         one rate an element and step
==================  ==========================================================

Step k reads row min(k, S-1), so that more steps than rows repeat the last one. Given to all
parameters at once, a rate is a number, [] or [S].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .. import checks
from ..program import InnerLoop, Slot
from .constants import constant

Rate: TypeAlias = "float | Tensor"


def as_it_is(tensor: Tensor) -> Tensor:
    """No cast."""
    return tensor


def are_given(lr: Rate | Mapping[str, Rate] | None) -> bool:
    """Whether a rate is a tensor, which may hold anything."""
    return isinstance(lr, Tensor) or (
        isinstance(lr, Mapping) and any(isinstance(rate, Tensor) for rate in lr.values())
    )


def resolve(
    lr: Rate | Mapping[str, Rate],
    model: nn.Module,
    loop: InnerLoop,
    dtype: torch.dtype,
    device: torch.device,
    cast: Callable[[Tensor], Tensor] = as_it_is,
) -> tuple[Tensor | None, ...]:
    """The rate of each slot as `Inputs.rates` wants it; None where a slot is not adapted, and
    everywhere if there is no step.

    Args:
        cast: what is done to tensors under autocast.

    Raises:
        TypeError: a rate is neither a number nor a tensor of the parameters' dtype.
        ValueError: a number is negative or not finite, a shape fits none of the above, an
            adapted parameter has no rate, or a name is not a parameter of the model.
    """
    program, adapted = loop.program, loop.adapted
    if not isinstance(lr, Mapping):
        rate = _shared("lr", lr, dtype, device, cast)
        return tuple(rate if flag and loop.steps else None for flag in adapted)
    if not lr.keys() <= {slot.name for slot in program.slots}:
        known = {name for name, _ in model.named_parameters()}
        for name in lr:
            if name not in known:
                raise ValueError(f"lr names {name!r}, which is not a parameter of the model")
    rates: list[Tensor | None] = []
    for slot, flag in zip(program.slots, adapted, strict=True):
        if flag and slot.name not in lr:
            raise ValueError(
                f"lr must have a rate for every adapted parameter, got none for {slot.name!r}"
            )
        rates.append(_of_slot(lr[slot.name], slot, dtype, device, cast) if flag else None)
    return tuple(rates) if loop.steps else (None,) * len(rates)


def _shared(
    name: str,
    rate: Rate,
    dtype: torch.dtype,
    device: torch.device,
    cast: Callable[[Tensor], Tensor],
) -> Tensor:
    if not isinstance(rate, Tensor):
        rate = checks.number(name, rate, minimum=0.0)
        if rate > torch.finfo(dtype).max:
            raise ValueError(f"{name} must be finite in {dtype}, got {rate!r}")
        return constant(rate, 1, dtype, device)
    rate = cast(rate)
    checks.alike(name, rate, dtype, device)
    if rate.dim() > 1 or rate.numel() == 0:
        raise ValueError(
            f"{name} must be a number, a tensor [] or one rate a step [S], "
            f"got shape {tuple(rate.shape)}"
        )
    return rate.reshape(-1)


def _of_slot(
    rate: Rate,
    slot: Slot,
    dtype: torch.dtype,
    device: torch.device,
    cast: Callable[[Tensor], Tensor],
) -> Tensor:
    name = f"lr[{slot.name!r}]"
    if not isinstance(rate, Tensor) or rate.dim() == 0:
        return _shared(name, rate, dtype, device, cast)
    rate = cast(rate)
    checks.alike(name, rate, dtype, device)
    shape, rank = slot.shape, len(slot.shape)
    if rate.shape == shape:
        return rate.unsqueeze(0)
    if rate.dim() == rank + 1 and rate.shape[0] > 0:
        if rate.shape[1:] == shape:
            return rate
        if rate[0].numel() == 1:
            return rate.reshape(-1)
    steps = ["S", *[1] * rank]
    raise ValueError(
        f"{name} must be a number, [] , {list(shape)} an element, {steps} a step or "
        f"{['S', *shape]} an element and step, got shape {tuple(rate.shape)}"
    )

"""Calls like an earlier one, found by their signature.

Nothing is remembered without the extension, whose signatures these are: every call is then checked
anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..extension import extension
from ..program import Guards, Program, guards_of, modules_lock
from .prepared import Prepared, is_autocast_on

_MOST = 32
"""Calls of one model; past that their shapes probably never come again."""


class Given(NamedTuple):
    """What a call is given, beside the model."""

    options: tuple[Any, ...]
    lr: Any
    parameters: Mapping[str, Tensor] | None
    data: tuple[Tensor | None, ...]
    """x, y and weights of the support, then of the query, None where there is none."""
    sizes: tuple[Any, ...]
    """Of the support and the query. Calls that have any are not remembered."""


class _Known(NamedTuple):
    given: Any
    """The signature of what the call was given."""
    own: Any
    """That of the model's own parameters."""
    parameters: tuple[weakref.ref[nn.Parameter], ...]
    guards: Guards
    prepared: Prepared


_known: weakref.WeakKeyDictionary[nn.Module, tuple[_Known, ...]] = weakref.WeakKeyDictionary()
"""The latest first."""


def find(model: Any, given: Given) -> tuple[Prepared, list[Tensor]] | None:
    """What was prepared for an earlier call with the same options and shapes, on a model that has
    not changed, and the tensors of this one in its order; None if there was none."""
    calls = _known.get(model) if isinstance(model, nn.Module) else None
    if calls is None:
        return None
    if calls[0].prepared.device.type == "cpu":
        extension.rouse()  # while we look, and prepare
    with modules_lock:
        for call in calls:
            if call.given.fits(given) and call.guards.hold():
                own = tuple([reference() for reference in call.parameters])
                if call.own.fits(own):
                    return _again(call.prepared, model, own, given)
    return None


def _again(
    prepared: Prepared, model: nn.Module, own: Sequence[Tensor], given: Given
) -> tuple[Prepared, list[Tensor]] | None:
    if is_autocast_on(prepared.device.type):
        return None
    if given.parameters is not None:
        slots = prepared.loop.program.slots
        own = [given.parameters.get(slot.name, p) for slot, p in zip(slots, own, strict=True)]
    return prepared, prepared.tensors(model, own, given.lr, given.data)


def remember(model: nn.Module, given: Given, own: Sequence[Tensor], prepared: Prepared) -> None:
    """Keep a call as long as its model.

    Not one that runs the model as it is, whose loss could hold the model.

    Args:
        own: the model's parameters, one a slot.
    """
    program = prepared.loop.program
    has_sizes = any(size is not None for size in given.sizes)
    if extension is None or not isinstance(program, Program) or has_sizes:
        return
    signature, of_own = extension.Signature.of(given), extension.Signature.of(tuple(own))
    if signature is None or of_own is None or is_autocast_on(prepared.device.type):
        return
    parameters = tuple([weakref.ref(parameter) for parameter in own])
    call = _Known(signature, of_own, parameters, guards_of(model, program), prepared)
    _known[model] = (call, *_known.get(model, ())[: _MOST - 1])

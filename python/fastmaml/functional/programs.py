"""Which program a call runs: the model traced, or the model as it is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .. import checks
from ..plan import BackendError
from ..program import (
    LOSS_KINDS,
    Loss,
    ModuleProgram,
    Program,
    TraceError,
    module_program,
    traced,
)


def takes_scalars(x: Any, backend: str) -> bool:
    """Whether samples may be numbers without an axis, as tokens are."""
    is_tokens = isinstance(x, Tensor) and checks.may_be_tokens(x)
    return backend == "generic" or (backend == "auto" and is_tokens)


def program_of(
    model: nn.Module,
    x_name: str,
    x: Tensor,
    parameters: Mapping[str, Tensor] | None,
    *,
    backend: str,
    loss: Loss | None,
    size: Any,
    cast: Callable[[Tensor], Tensor],
) -> Program | ModuleProgram:
    """The program for samples x [T, n, *sample].

    Args:
        size: how many samples of each task are real, not yet checked; padding is not looked at.
        cast: what is done to tensors under autocast.

    Raises:
        TraceError: the model cannot be traced, and may not, or cannot, run as it is either.
        BackendError: it cannot run as it is, which was asked for.
        TypeError: x holds integers, and the model does not take them.
        ValueError: x and the parameters do not belong together, or a model that runs as it is
            would run without numbers.
    """
    why = _why_not_traced(x_name, x, backend, loss)
    trace_error = None
    if why is None:
        try:
            return traced(model, tuple(x.shape[2:]))
        except TraceError as error:
            why = f"{error} (traced for {x_name}, whose samples are {list(x.shape[2:])})"
            trace_error = TraceError(why)
            if backend != "auto":
                raise trace_error from error
    tensors = {
        name: cast(_of_first_task(parameter, parameters, name))
        for name, parameter in model.named_parameters()
    }
    like = next(iter(tensors.values()), x)
    if checks.may_be_tokens(x):
        checks.on_device(x_name, x, like.device)
    else:
        checks.alike(x_name, x, like.dtype, like.device)
    if x.is_meta:
        raise ValueError(
            f"{x_name} must be where numbers are, since {type(model).__name__} runs as it is "
            f"({why}), got device {x.device}"
        )
    try:
        return module_program(model, x[0, : _real(size, x)], tensors, why)
    except Exception as error:
        said = f"forward raised {type(error).__name__}: {error}"
        if trace_error is not None:
            raise TraceError(f"{trace_error}; nor does it run as it is: {said}") from error
        if checks.may_be_tokens(x):
            raise TypeError(
                f"{x_name} must be {like.dtype} like the parameters, got {x.dtype}, which the "
                f"model does not take: {said}"
            ) from error
        raise BackendError(
            f"cannot run {type(model).__name__} as it is ({why}): {said}, for samples of one task "
            f"of {x_name}, of shape {tuple(x.shape)}"
        ) from error


def _why_not_traced(x_name: str, x: Tensor, backend: str, loss: Loss | None) -> str | None:
    if backend == "generic":
        return "backend='generic' was asked for"
    if loss is not None and loss.kind == "callable":
        kinds = ", ".join(repr(kind) for kind in LOSS_KINDS)
        return f"loss {loss.name!r} is none of {kinds}, which have rules of their own"
    if backend == "auto" and checks.may_be_tokens(x):
        return f"{x_name} holds {x.dtype}"
    return None


def _of_first_task(
    parameter: nn.Parameter, parameters: Mapping[str, Tensor] | None, name: str
) -> Tensor:
    given = parameters.get(name) if isinstance(parameters, Mapping) else None
    if not isinstance(given, Tensor):
        return parameter
    return given[0] if given.dim() > parameter.dim() else given


def _real(size: Any, x: Tensor) -> int:
    """How many samples of the first task are real; all where `size` is not valid."""
    try:
        real = operator.index(size[0])
    except (TypeError, IndexError):
        return x.shape[1]
    return real if 1 <= real <= x.shape[1] else x.shape[1]

"""Checks of what users hand in: each error names the argument, what it got and what it wants.

Everything here looks at types, shapes and numbers on the host, and is safe on tensors inside
torch.func transforms. Only `labels` and `rate_values` read data; they run on plain tensors.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .extension import extension
from .program import Loss, ModuleProgram, Program, Samples

LABELS = torch.int64
"""The dtype of class indices, as in torch."""


def integer(name: str, value: Any, *, minimum: int, bits: int | None = None) -> int:
    """An integer that is at least `minimum`, and below 2**bits; a bool is none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if bits is not None and number >= 2**bits:
        raise ValueError(f"{name} must be below 2**{bits}, got {number}")
    return number


def number(name: str, value: Any, *, minimum: float = -math.inf) -> float:
    """A finite number that is at least `minimum`; a bool is none."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int past what a float holds
        number = math.inf
    if not math.isfinite(number) or number < minimum:
        wanted = "finite" if minimum == -math.inf else f"finite and at least {minimum:g}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def choice(name: str, value: Any, options: Collection[str]) -> str:
    """One of the options."""
    if not isinstance(value, str) or value not in options:
        wanted = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {wanted}, got {value!r}")
    return value


def seed(value: Any) -> int:
    """A seed for dropout's masks, 0..2^32-1."""
    return integer("seed", value, minimum=0, bits=32)


def steps(value: Any) -> int:
    """K, 0..2^31-1: dropout's masks count two passes a step in 32 bits."""
    return integer("steps", value, minimum=0, bits=31)


def memory_budget(value: Any) -> int | None:
    """Bytes, at least one; None: as many as it takes."""
    return None if value is None else integer("memory_budget", value, minimum=1, bits=63)


def step_weights(value: Sequence[float] | None, steps: int) -> tuple[float, ...]:
    """c_0..c_K, or () for None."""
    if value is None:
        return ()
    try:
        weights = tuple(value)
    except (TypeError, RuntimeError):  # the latter from nested tensors
        raise TypeError(f"step_weights must be a sequence of numbers, got {value!r}") from None
    if len(weights) != steps + 1:
        raise ValueError(
            f"step_weights must hold one weight for each of phi_0..phi_{steps}, "
            f"{steps + 1} in all for steps={steps}, got {len(weights)}"
        )
    return tuple(number(f"step_weights[{step}]", weight) for step, weight in enumerate(weights))


def tensor(name: str, value: Any) -> None:
    """A dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided or value.is_nested:
        kind = "a nested one" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {kind}")


def alike(name: str, value: Any, dtype: torch.dtype, device: torch.device) -> None:
    """A dense tensor of the parameters' dtype and on their device."""
    tensor(name, value)
    if value.dtype is not dtype:
        raise TypeError(f"{name} must be {dtype} like the parameters, got {value.dtype}")
    on_device(name, value, device)


def x(name: str, value: Any, *, scalars: bool = False) -> None:
    """[T, n, ...] with at least one task, one sample and, unless `scalars`, one axis of
    features."""
    tensor(name, value)
    if value.dim() < (2 if scalars else 3):
        raise ValueError(
            f"{name} must be [T, n, ...]: tasks, samples and the shape of one sample, "
            f"got shape {tuple(value.shape)}"
        )
    if 0 in value.shape[:2]:
        what = "task" if value.shape[0] == 0 else "sample"
        raise ValueError(f"{name} must hold at least one {what}, got shape {tuple(value.shape)}")
    if 0 in value.shape:
        raise ValueError(
            f"{name} must hold samples of at least one number, got shape {tuple(value.shape)}"
        )


def samples(
    role: str,
    x: Tensor,
    y: Any,
    weights: Any,
    size: Any,
    *,
    program: Program | ModuleProgram,
    loss: Loss | None,
    dtype: torch.dtype,
    device: torch.device,
    tasks: int,
) -> Samples:
    """The support or the query of T tasks; `x` has passed the check of the same name.

    Args:
        role: "support" or "query".
        x: [T, n, *sample].
        y: targets, see `Loss`; not looked at where `loss` is None.
        weights: [T, n] or None.
        size: how many samples of each task are real, a sequence of T ints or None.
        program: whose input and output the samples must fit.
        loss: what compares the prediction with y; None: nothing does.
        dtype: of the parameters.
        device: of the parameters.
        tasks: T.
    """
    data(f"{role}_x", x, program, dtype, device)
    count = x.shape[1]
    wanted = (tasks, count, *program.sample_shape)
    if x.shape != wanted:
        raise ValueError(f"{role}_x must be {list(wanted)}, got shape {tuple(x.shape)}")
    if loss is not None:
        _targets(f"{role}_y", y, loss, (tasks, count), program, dtype, device)
    if weights is not None:
        name = "weights" if role == "support" else "query_weights"
        if loss is not None and loss.kind == "callable":
            raise ValueError(
                f"{name} must be None with loss {loss.name!r}, which returns one number for all "
                "samples of a task: there is nothing to weigh"
            )
        alike(name, weights, dtype, device)
        if weights.shape != (tasks, count):
            raise ValueError(
                f"{name} must be [T, n] = {[tasks, count]}, got shape {tuple(weights.shape)}"
            )
    if size is not None:
        size = _sizes(f"{role}_size", size, tasks, count)
    _batch_norm(f"{role}_size" if size else f"{role}_x", min(size) if size else count, program)
    return Samples(x, y if loss is not None else None, weights, size)


def data(
    name: str,
    x: Any,
    program: Program | ModuleProgram,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """A dense tensor of the parameters' dtype; one of integers, say, where a model that is not
    traced takes it."""
    if isinstance(program, ModuleProgram) and isinstance(x, Tensor) and may_be_tokens(x):
        tensor(name, x)
        on_device(name, x, device)
    else:
        alike(name, x, dtype, device)


def may_be_tokens(x: Tensor) -> bool:
    """Whether x holds integers or booleans."""
    return not x.is_floating_point() and not x.is_complex()


def labels(name: str, y: Tensor, size: tuple[int, ...] | None, classes: int) -> None:
    """Class indices on the CPU are within 0..C-1; only those of real samples are looked at."""
    if size is not None:
        y = y[torch.arange(y.shape[1]) < torch.tensor(size)[:, None]]
    if extension is not None and extension.labels_within(y, classes):
        return
    low, high = (int(bound) for bound in torch.aminmax(y))
    if low < 0 or high >= classes:
        raise ValueError(
            f"{name} must hold class indices 0..{classes - 1}, as the model has {classes} "
            f"outputs, got {low if low < 0 else high}"
        )


def rate_values(rates: Iterable[Tensor]) -> None:
    """No rate on the CPU is NaN. Learned rates may be negative."""
    if any(_holds_nan(rate) for rate in rates):
        raise ValueError("lr must not be NaN, got a tensor that holds NaN")


def _holds_nan(rate: Tensor) -> bool:
    is_readable = extension is not None and rate.dtype in (torch.float32, torch.float64)
    if is_readable and extension.is_free_of_nan(rate, rate.dtype is torch.float64):
        return False
    return bool(rate.isnan().any())


def on_device(name: str, value: Tensor, device: torch.device) -> None:
    """Where the parameters are."""
    if value.device != device:
        raise ValueError(f"{name} must be on {device} like the parameters, got {value.device}")


def _targets(
    name: str,
    y: Any,
    loss: Loss,
    leading: tuple[int, int],
    program: Program | ModuleProgram,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    output = program.output_shape
    tensor(name, y)
    if loss.kind == "callable":
        if y.shape[:2] != leading:
            raise ValueError(f"{name} must be {[*leading, '...']}, got shape {tuple(y.shape)}")
        on_device(name, y, device)
        return
    if output is None:
        raise ValueError(
            f"loss {loss.kind!r} wants a model that returns one tensor [n, ...]; give a callable "
            "for any other"
        )
    if loss.kind == "cross_entropy":
        if len(output) != 1:
            raise ValueError(
                "loss 'cross_entropy' wants a model whose output is [C] for each sample, "
                f"got {list(output)}"
            )
        by_index = y.dtype is LABELS
        wants = f"int64 class indices [T, n] or {dtype} probabilities [T, n, C]"
        if (not by_index and y.dtype is not dtype) or (not by_index and y.dim() == 2):
            raise TypeError(f"{name} must be {wants}, got {y.dtype} of shape {tuple(y.shape)}")
        wanted = leading if by_index else (*leading, *output)
    else:
        wants = f"{dtype} of the prediction's shape"
        if y.dtype is not dtype:
            raise TypeError(f"{name} must be {wants} for loss {loss.kind!r}, got {y.dtype}")
        wanted = (*leading, *output)
    if y.shape != wanted:
        raise ValueError(f"{name} must be {wants}, {list(wanted)}, got shape {tuple(y.shape)}")
    on_device(name, y, device)


def _sizes(name: str, size: Any, tasks: int, count: int) -> tuple[int, ...]:
    if isinstance(size, Tensor):
        tensor(name, size)
        if size.device.type != "cpu":
            raise ValueError(f"{name} must be on the host, got a tensor on {size.device}")
        size = size.tolist()
    try:
        sizes = tuple(operator.index(value) for value in size)
    except TypeError:
        raise TypeError(f"{name} must hold {tasks} integers, one a task, got {size!r}") from None
    if len(sizes) != tasks:
        raise ValueError(f"{name} must hold {tasks} integers, one a task, got {len(sizes)}")
    for value in sizes:
        if not 1 <= value <= count:
            raise ValueError(f"{name} must lie within 1..{count}, got {value}")
    return sizes


def _batch_norm(name: str, fewest: int, program: Program | ModuleProgram) -> None:
    """Batch statistics want more than one number a channel."""
    if fewest > 1 or isinstance(program, ModuleProgram):  # a module's own forward asks for them
        return
    for op in program.ops:
        if op.kind == "batch_norm" and math.prod(program.values[op.inputs[0]][1:]) == 1:
            raise ValueError(
                f"{name} must hold at least two samples of each task, "
                "for the model has a BatchNorm, got a task with one"
            )

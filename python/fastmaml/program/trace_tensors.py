"""Rules for arithmetic and for the shapes of tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch

from .trace_builder import SAMPLES, ProgramBuilder, TraceError, Value, describe, format_shape
from .trace_rules import attribute, axis_of, converts, number, solve_sizes


def _scale(builder: ProgramBuilder, x: Value, factor: float) -> Value:
    x = builder.read(x)
    return x.copy() if factor == 1 else builder.emit("scale", x, factor=factor)


@converts(operator.add, torch.add, "add", in_place=(operator.iadd, "add_"))
def _add(builder: ProgramBuilder, input: object, other: object, *, alpha: object = 1) -> Value:
    factor = attribute("alpha", alpha)
    if isinstance(input, Value) and isinstance(other, Value):
        if input.shape != other.shape:
            raise TraceError(
                f"wants two values of one shape, got {format_shape(input.shape)} and "
                f"{format_shape(other.shape)}"
            )
        return builder.emit("add", builder.read(input), _scale(builder, other, factor))
    if isinstance(input, Value) and number(builder, other) == 0:
        return _scale(builder, input, 1)
    if isinstance(other, Value) and number(builder, input) == 0:
        return _scale(builder, other, factor)
    raise TraceError(
        f"wants two values, got {describe(input)} and {describe(other)}; "
        f"no op adds a constant or a bare parameter"
    )


@converts(operator.sub, torch.sub, "sub", in_place=(operator.isub, "sub_"))
def _sub(builder: ProgramBuilder, input: object, other: object, *, alpha: object = 1) -> Value:
    return _add(builder, input, other, alpha=-attribute("alpha", alpha))


@converts(operator.neg, torch.neg, "neg", in_place=(torch.neg_, "neg_"))
def _neg(builder: ProgramBuilder, input: object) -> Value:
    return _scale(builder, input, -1.0)


@converts(operator.mul, torch.mul, "mul", in_place=(operator.imul, "mul_"))
def _mul(builder: ProgramBuilder, input: object, other: object) -> Value:
    x, operand = (input, other) if isinstance(input, Value) else (other, input)
    factor = number(builder, operand)
    if factor is None:
        raise TraceError(f"wants a number to scale with, got {describe(operand)}")
    return _scale(builder, x, factor)


@converts(operator.truediv, torch.div, "div", in_place=(operator.itruediv, "div_"))
def _div(builder: ProgramBuilder, input: object, other: object) -> Value:
    divisor = number(builder, other)
    if not divisor:
        raise TraceError(f"wants a number other than 0 to divide by, got {describe(other)}")
    return _scale(builder, input, 1 / divisor)


@converts("contiguous")
def _contiguous(builder: ProgramBuilder, input: object) -> Value:
    return builder.read(input).alias()


@converts(torch.clone, "clone")
def _clone(builder: ProgramBuilder, input: object) -> Value:
    return builder.read(input).copy()


@converts(torch.flatten, "flatten")
def _flatten(
    builder: ProgramBuilder, input: object, start_dim: object = 0, end_dim: object = -1
) -> Value:
    x = builder.read(input)
    start, end = axis_of(x, start_dim), axis_of(x, end_dim)
    if start < 0 < end + 1:
        raise TraceError(f"would merge the sample axis of {describe(x)}; use start_dim=1")
    if start >= end:
        return x.alias()
    merged = math.prod(x.shape[start : end + 1])
    return builder.reshape(x, (*x.shape[:start], merged, *x.shape[end + 1 :]))


@converts("view", "reshape")
def _view(builder: ProgramBuilder, input: object, *shape: object) -> Value:
    nested = len(shape) == 1 and isinstance(shape[0], list | tuple)
    return _reshape(builder, input, shape[0] if nested else shape)


@converts(torch.reshape)
def _reshape(builder: ProgramBuilder, input: object, shape: Sequence[object]) -> Value:
    x = builder.read(input)
    total = math.prod(x.shape)
    first, rest = (shape[0], shape[1:]) if shape else (None, ())
    if first is SAMPLES:
        return builder.reshape(x, solve_sizes(rest, total))
    # [-1, ...] keeps the samples apart if what follows holds exactly one of them.
    if first == -1 and -1 not in rest:
        return builder.reshape(x, solve_sizes(rest, total))
    raise TraceError(
        f"wants x.shape[0] or -1 first, which keeps the sample axis of {describe(x)}, "
        f"got {describe(first)}"
    )


@converts(torch.unflatten, "unflatten")
def _unflatten(builder: ProgramBuilder, input: object, dim: object, sizes: object) -> Value:
    x = builder.read(input)
    axis = axis_of(x, dim)
    if axis < 0 or not isinstance(sizes, list | tuple):
        raise TraceError(f"wants an axis of {describe(x)} after the first, and its sizes")
    sizes = solve_sizes(sizes, x.shape[axis])
    return builder.reshape(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


@converts(torch.squeeze, "squeeze")
def _squeeze(builder: ProgramBuilder, input: object, dim: object) -> Value:
    x = builder.read(input)
    axis = axis_of(x, dim)
    if axis < 0:
        raise TraceError(f"would drop the sample axis of {describe(x)} when n is 1")
    if x.shape[axis] != 1:
        return x.alias()
    return builder.reshape(x, (*x.shape[:axis], *x.shape[axis + 1 :]))


@converts(torch.unsqueeze, "unsqueeze")
def _unsqueeze(builder: ProgramBuilder, input: object, dim: object) -> Value:
    x = builder.read(input)
    axis = axis_of(x, dim, axes=len(x.shape) + 2)
    if axis < 0:
        raise TraceError(f"would put an axis before the sample axis of {describe(x)}")
    return builder.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))

"""How the functions, methods and operators that a model calls become ops.

A rule has the signature of what it converts, so that binding its arguments, by position or by
keyword, is Python's own. Its `inplace` argument is obeyed by `convert`, for all rules alike.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .graph import OP_KINDS
from .trace_builder import (
    Constant,
    Parameter,
    ProgramBuilder,
    SampleCount,
    TraceError,
    Value,
    describe,
)

Target = Callable[..., Any] | str
"""A function or operator, or the name of a tensor method."""


@dataclass(frozen=True)
class _Rule:
    convert: Callable[..., Value]
    in_place: bool


_RULES: dict[Target, _Rule] = {}


def converts(*targets: Target, in_place: tuple[Target, ...] = ()) -> Callable[..., Any]:
    """Register a rule for functions (as objects) and tensor methods (by name).

    `in_place`: targets of the same signature that also overwrite their first argument.
    """

    def register(rule: Callable[..., Value]) -> Callable[..., Value]:
        _RULES.update(dict.fromkeys(targets, _Rule(rule, False)))
        _RULES.update(dict.fromkeys(in_place, _Rule(rule, True)))
        return rule

    return register


def convert(
    builder: ProgramBuilder, target: Target, args: Sequence[object], kwargs: Mapping[str, object]
) -> Value:
    """Append what a call computes to the program; its operands are values, parameters, numbers.

    Raises:
        TraceError: no op computes this, or the operands do not fit together.
    """
    name = _name(target, args)
    rule = _RULES.get(target)
    if rule is None:
        known = Value | Parameter | Constant | SampleCount
        operands = ", ".join(describe(a) for a in args if isinstance(a, known))
        raise TraceError(
            f"{name} has no op{f' (on {operands})' if operands else ''}; "
            f"build the model from these: {', '.join(OP_KINDS)}"
        )
    try:
        bound = inspect.signature(rule.convert).bind(builder, *args, **kwargs)
    except TypeError as error:
        raise TraceError(f"this form of {name} is not supported: {error}") from None
    try:
        result = rule.convert(*bound.args, **bound.kwargs)
        if rule.in_place or bound.arguments.get("inplace"):
            result = builder.overwrite(bound.args[1], result)
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    return result


def _name(target: Target, args: Sequence[object]) -> str:
    if target is getattr:
        return f"tensor attribute .{args[1]}"
    return f"Tensor.{target}" if isinstance(target, str) else target.__name__


def number(builder: ProgramBuilder, operand: object) -> float | None:
    """A Python number, or a tensor of the model that holds just one; else None."""
    if isinstance(operand, Constant) and operand.is_scalar:
        return builder.scalars.setdefault(operand.tensor, float(operand.tensor))
    return float(operand) if isinstance(operand, int | float) else None


def attribute(name: str, operand: object) -> float:
    if not isinstance(operand, int | float):
        raise TraceError(f"wants a Python number as {name}, got {describe(operand)}")
    return float(operand)


def parameter(name: str, operand: object, shape: tuple[int, ...]) -> Parameter | None:
    if operand is None:
        return None
    if not isinstance(operand, Parameter):
        raise TraceError(f"wants a parameter of the model as {name}, got {describe(operand)}")
    if operand.shape != shape:
        raise TraceError(
            f"wants a {name} of shape {list(shape)}, "
            f"got parameter '{operand.name}' of shape {list(operand.shape)}"
        )
    return operand


def axis_of(value: Value, dim: object, axes: int | None = None) -> int:
    """A tensor's axis as an axis of its value: the sample axis is -1, the next 0."""
    axes = len(value.shape) + 1 if axes is None else axes
    if not isinstance(dim, int) or not -axes <= dim < axes:
        raise TraceError(f"wants an axis of a tensor of {axes} axes, got {describe(dim)}")
    return dim % axes - 1


def solve_sizes(sizes: Sequence[object], total: int) -> tuple[int, ...]:
    """`sizes`, at most one of them -1, as a shape of `total` numbers."""
    if not all(isinstance(size, int) for size in sizes):
        raise TraceError(f"wants integers as sizes, got {', '.join(map(describe, sizes))}")
    known = math.prod(size for size in sizes if size != -1)
    if list(sizes).count(-1) == 1 and known > 0 and total % known == 0:
        sizes = [total // known if size == -1 else size for size in sizes]
    if min(sizes, default=1) < 1 or math.prod(sizes) != total:
        raise TraceError(f"cannot arrange the {total} numbers there are as {list(sizes)}")
    return tuple(sizes)

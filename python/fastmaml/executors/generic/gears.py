"""The gears: ways to differentiate a `Pass`, from all tasks at once to one after another.

All differentiation of a pass stays inside of the vmap. From outside of it, torch.func is wrong in
silence through norms (tests/test_norm_faults.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.utils._pytree import tree_map

from .objective import Pass, Tensors

_run_backward = torch.autograd.Variable._execution_engine.run_backward

Arguments: TypeAlias = tuple[Tensors, ...]
"""moving, resting and constant of `Pass`, with a task axis where `Axes` says so."""
MOVING, RESTING, CONSTANT = range(3)
"""The places of `Arguments`."""
Axes: TypeAlias = tuple[dict[str, int | None], ...]
"""0 where a tensor has a task axis, None where all tasks share it.

None in the place of `Axes`: the arguments are those of one task, without a task axis."""
OfTask: TypeAlias = Callable[..., Any]
Gradient: TypeAlias = tuple[Tensors, Tensors, Tensors]
"""By moving, by resting, and what the pass found."""
Tangent: TypeAlias = tuple[Tensors, Tensors]
"""The tangents of the gradients by moving and by resting."""
Record: TypeAlias = tuple[Tensors, Callable[[Tensors], Tangent]]


@dataclass(frozen=True)
class Gear:
    """Values and derivatives of a pass for all tasks of a chunk, with a task axis in front if the
    arguments have one."""

    name: str
    is_batched: bool
    gradient_of: Callable[[Pass], OfTask]
    tangent_of: Callable[[Pass], OfTask]
    record: Callable[[Pass, Arguments], Record] | None = None
    """Of one task, without a task axis: the gradient by what moves, and what its tangent is along
    any u: the same as by `tangent`, from a graph that is kept."""

    def value(self, run: Pass, arguments: Arguments, axes: Axes | None) -> Tensors:
        """What the pass finds."""
        with torch.no_grad():
            return self._map(lambda *tensors: run(*tensors)[1], run, arguments, axes)

    def gradient(self, run: Pass, arguments: Arguments, axes: Axes | None) -> Gradient:
        """Of the value, by what moves and what rests; and what the pass finds."""
        return self._map(self.gradient_of(run), run, arguments, axes)

    def tangent(self, run: Pass, arguments: Arguments, axes: Axes | None, u: Tensors) -> Tangent:
        """The derivative of the gradient along u, which holds one for each tensor that moves."""
        u = {key: packed(tensor) for key, tensor in u.items()}
        with_u = None if axes is None else (*axes, dict.fromkeys(u, 0))
        return self._map(self.tangent_of(run), run, (*arguments, u), with_u)

    def _map(self, of_task: OfTask, run: Pass, arguments: Arguments, axes: Axes | None) -> Any:
        if axes is None:
            run.prepare(arguments[CONSTANT]["task"])
            return of_task(*arguments)
        if self.is_batched:
            return vmap(of_task, in_dims=axes)(*arguments)
        results = [
            self._map(of_task, run, tasks_of(arguments, axes, index), None)
            for index in range(len(arguments[CONSTANT]["task"]))
        ]
        return tree_map(lambda *tensors: torch.stack(tensors), *results)


def packed(tensor: Tensor) -> Tensor:
    """The same numbers in order, from the start of a memory.

    Forward mode copies a tangent to the layout of its tensor where they differ, which fails if the
    tensor is expanded over tasks. Of two that are packed they do not.
    """
    if tensor.is_contiguous() and tensor.storage_offset() == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def tasks_of(arguments: Arguments, axes: Axes, tasks: slice | int) -> Arguments:
    """The arguments for some of the tasks; for one that a number names, without a task axis."""
    return tuple(
        {key: tensor if dims[key] is None else tensor[tasks] for key, tensor in tensors.items()}
        for tensors, dims in zip(arguments, axes, strict=True)
    )


def _grad(run: Pass) -> OfTask:
    def of_task(moving: Tensors, resting: Tensors, constant: Tensors) -> Gradient:
        (by_moving, by_resting), found = grad(run, argnums=(0, 1), has_aux=True)(
            moving, resting, constant
        )
        return by_moving, by_resting, found

    return of_task


def _jvp_of_grad(run: Pass) -> OfTask:
    def of_task(moving: Tensors, resting: Tensors, constant: Tensors, u: Tensors) -> Tangent:
        def gradient(moving: Tensors) -> tuple[Tensors, Tensors]:
            return grad(run, argnums=(0, 1), has_aux=True)(moving, resting, constant)[0]

        return jvp(gradient, (moving,), (u,))[1]

    return of_task


def _grad_of_grad(run: Pass) -> OfTask:
    """The gradient of <gradient, u>, since second derivatives are symmetric."""

    def slope(moving: Tensors, resting: Tensors, constant: Tensors, u: Tensors) -> Tensor:
        by_moving = grad(run, has_aux=True)(moving, resting, constant)[0]
        return sum((by_moving[key] * u[key]).sum() for key in u)

    return lambda *tensors: grad(slope, argnums=(0, 1))(*tensors)


def _backward(run: Pass) -> OfTask:
    """Classic autograd, as `_grad`."""
    run = replace(run, is_classic=True)

    @torch.enable_grad()
    def of_task(moving: Tensors, resting: Tensors, constant: Tensors) -> Gradient:
        moving, resting = _leaves(moving), _leaves(resting)
        value, found = run(moving, resting, constant)
        found = {key: tensor.detach() for key, tensor in found.items()}
        return *_by([value], moving, resting), found

    return of_task


def _double_backward(run: Pass) -> OfTask:
    """Classic autograd, as `_grad_of_grad`."""
    run = replace(run, is_classic=True)

    @torch.enable_grad()
    def of_task(moving: Tensors, resting: Tensors, constant: Tensors, u: Tensors) -> Tangent:
        moving, resting = _leaves(moving), _leaves(resting)
        value, _ = run(moving, resting, constant)
        gradient = _grad_or_none([value], list(moving.values()), create_graph=True)
        moved = [
            (g, bar)
            for g, bar in zip(gradient, u.values(), strict=True)
            if g is not None and g.requires_grad
        ]
        return _by([g for g, _ in moved], moving, resting, [bar for _, bar in moved])

    return of_task


def _record(run: Pass, arguments: Arguments) -> Record:
    """As `_double_backward`, its first half now and its second when u is there."""
    run = replace(run, is_classic=True)
    moving, resting, constant = arguments
    run.prepare(constant["task"])
    with torch.enable_grad():
        moving, resting = _leaves(moving), _leaves(resting)
        value, _ = run(moving, resting, constant)
        found = _grad_or_none([value], list(moving.values()), create_graph=True)
    gradient = dict(zip(moving, map(_or_zeros, found, moving.values()), strict=True))

    def tangent(u: Tensors) -> Tangent:
        moved = [key for key in gradient if gradient[key].requires_grad]
        return _by([gradient[key] for key in moved], moving, resting, [u[key] for key in moved])

    return {key: tensor.detach() for key, tensor in gradient.items()}, tangent


def _leaves(tensors: Tensors) -> Tensors:
    return {key: tensor.detach().requires_grad_() for key, tensor in tensors.items()}


def _by(
    values: Sequence[Tensor],
    moving: Tensors,
    resting: Tensors,
    bars: Sequence[Tensor] | None = None,
) -> tuple[Tensors, Tensors]:
    """The gradient of sum <bar, value>, zero where nothing depends on a leaf."""
    leaves = [*moving.values(), *resting.values()]
    found = list(map(_or_zeros, _grad_or_none(values, leaves, bars), leaves))
    return (
        dict(zip(moving, found[: len(moving)], strict=True)),
        dict(zip(resting, found[len(moving) :], strict=True)),
    )


def _grad_or_none(
    values: Sequence[Tensor],
    leaves: Sequence[Tensor],
    bars: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
) -> Sequence[Tensor | None]:
    if not leaves or not any(value.requires_grad for value in values):
        return [None] * len(leaves)
    if bars is None:
        return torch.autograd.grad(values, leaves, create_graph=create_graph, allow_unused=True)
    # What torch.autograd.grad does after it has looked at every bar, for as long as a small pass.
    return _run_backward(
        tuple(values), tuple(bars), create_graph, create_graph, tuple(leaves), True, False
    )


def _or_zeros(gradient: Tensor | None, leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if gradient is None else gradient


DOUBLE_BACKWARD = Gear("double backward, task by task", False, _backward, _double_backward, _record)
"""What PyTorch does with create_graph=True: the others are checked against it."""

GEARS = (
    Gear("vmap(jvp(grad))", True, _grad, _jvp_of_grad),
    Gear("vmap(grad(grad))", True, _grad, _grad_of_grad),
    Gear("jvp(grad), task by task", False, _grad, _jvp_of_grad),
    DOUBLE_BACKWARD,
)

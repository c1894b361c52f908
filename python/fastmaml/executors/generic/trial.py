"""Which gear runs a pass: the fastest that agrees with task-by-task double backward.

Tried on the first tasks of a call, once for each model, loss and shape, and remembered as long as
the model and the loss live. The check is in float64, on copies, so that a wrong second derivative
shows; where the module does not run in float64, in its own dtype with a tolerance to match.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves, tree_map

from ...program import Loss, ModuleProgram
from ..errors import BackendError
from .autograd_graph import look, python_functions
from .gears import (
    CONSTANT,
    DOUBLE_BACKWARD,
    GEARS,
    MOVING,
    Arguments,
    Axes,
    Gear,
    Gradient,
    Tangent,
    tasks_of,
)
from .heap import settle
from .note import note, reasons, warn_of_second_derivatives
from .objective import Pass

TASKS = 2
"""How many tasks a trial runs."""
ROUNDS = 4
"""How often a gear that is right is timed."""
TOLERANCE = 1e-8
"""Of the check in float64, relative to the largest entry of a tensor."""
FINITE_DIFFERENCE_TOLERANCE = 1e-2
"""Of second derivatives against differences of first ones: for what is missing, not for digits."""

VALUE, GRADIENT, TANGENT = range(3)
"""The orders of derivative that a pass is run for."""


@dataclass(frozen=True)
class Choice:
    """The gear of a pass, and what the trial found."""

    gear: Gear
    passed_over: Mapping[str, str]
    """Why not the other gears, by name."""
    task_bytes: int
    """What autograd keeps of one task's pass."""


def choose(
    run: Pass,
    order: int,
    arguments: Arguments,
    axes: Axes,
    fitting: Callable[[int], int],
    is_batched: bool | None = None,
) -> Choice:
    """The gear for a pass that is differentiated `order` times.

    Args:
        run: the pass.
        order: VALUE, GRADIENT or TANGENT.
        arguments: of all tasks of the call, or of those with as many samples.
        axes: theirs.
        fitting: how many tasks a chunk may have, by what autograd keeps of one task's pass.
        is_batched: whether the other passes of the call run all tasks of a chunk side by side, or
            each alone; None: there are no others yet.

    Raises:
        BackendError: PyTorch cannot differentiate it so often, or it is not the same function
            every time.
        Exception: what forward or the loss raises.
    """
    tasks = 1 if is_batched is False else min(len(arguments[CONSTANT]["task"]), fitting(0))
    # how much there is to gain from many tasks at once, which need not be said exactly
    key = (*_key(run, order, arguments, axes), tasks.bit_length(), is_batched)
    memory = _memory(run.program, run.loss)
    choice = memory.get(key)
    if choice is None:
        few = tasks_of(arguments, axes, slice(0, TASKS))
        if order > VALUE:
            few = (*few[:CONSTANT], _with_bars_of_one(few[CONSTANT]))
        choice, is_conclusive = _try_gears(run, order, few, axes, tasks, fitting, is_batched)
        settle()
        if is_conclusive:
            memory[key] = choice
        if order > VALUE:
            note(run.program, choice.gear.name, choice.passed_over)
    return choice


def describe(program: ModuleProgram) -> str | None:
    """The gear that is remembered of a program's derivatives, and why not another."""
    known = {}
    for memory in _memories.get(program, {}).values():
        known |= {key[0]: choice for key, choice in memory.items() if key[0] > VALUE}
    if not known:
        return None
    choice = known[max(known)]
    return choice.gear.name + reasons(choice.passed_over)


def _try_gears(
    run: Pass,
    order: int,
    few: Arguments,
    axes: Axes,
    tasks: int,
    fitting: Callable[[int], int],
    is_batched: bool | None,
) -> tuple[Choice, bool]:
    """The choice, and whether its check says something: with a NaN in the data it does not."""
    DOUBLE_BACKWARD.value(run, few, axes)  # what the user's own code raises comes through here
    try:
        task_bytes = look(run, few, axes, order)
        own = _evaluate(DOUBLE_BACKWARD, run, order, few, axes)
        again = _evaluate(DOUBLE_BACKWARD, run, order, few, axes)
    except BackendError:
        raise
    except Exception as error:
        raise _not_differentiable(run, order, few, axes, error) from error
    rough = 10 * torch.finfo(_float_type(few)).eps ** 0.5
    if _error(again, own) > rough:
        raise BackendError(
            f"{_name(run)} gives other numbers in a second pass with the same parameters, data and "
            "seed; draw random numbers from torch's default generator, which is set to replay"
        )
    try:
        double = tree_map(_to_double, few)
        exact = _evaluate(DOUBLE_BACKWARD, run, order, double, axes)
        tolerance = TOLERANCE
    except Exception:
        double, exact, tolerance = few, own, rough
    if order == TANGENT and double is not few:
        _compare_with_finite_differences(run, double, axes, exact)
    passed_over: dict[str, str] = {}
    right = [DOUBLE_BACKWARD]
    for gear in GEARS[:-1]:
        reason = _fault(gear, run, order, double, axes, exact, tolerance)
        if reason is None and double is not few:  # right: does it run in its own dtype too?
            reason = _fault(gear, run, order, few, axes, own, math.inf)
        if reason is None:
            right.append(gear)
        else:
            passed_over[gear.name] = reason
    if is_batched is not None:
        right = [gear for gear in right if gear.is_batched == is_batched] or right
    tasks = min(tasks, fitting(task_bytes))
    seconds = seconds_a_task(right, run, order, few, axes, tasks)
    choice = min(seconds, key=seconds.get)
    for gear in right:
        if gear is not choice:
            ratio = seconds[gear] / max(seconds[choice], 1e-9)
            passed_over[gear.name] = f"it takes {ratio:.1f} times as long"
    is_conclusive = all(bool(t.isfinite().all()) for t in tree_leaves(exact))
    return Choice(choice, MappingProxyType(passed_over), task_bytes), is_conclusive


def seconds_a_task(
    gears: Sequence[Gear], run: Pass, order: int, few: Arguments, axes: Axes, tasks: int
) -> dict[Gear, float]:
    """What a pass of `tasks` tasks will take, over their number, by gear: the time of one that a
    chunk shares, and that by which each more task lengthens it.

    The gears take turns, and the shortest time of each counts: a busy moment slows all of them.
    """
    alone = tasks_of(few, axes, 0)
    one = tasks_of(few, axes, slice(0, 1))
    first, both = dict.fromkeys(gears, math.inf), dict.fromkeys(gears, math.inf)
    for _ in range(ROUNDS):
        for gear in gears:
            if not gear.is_batched:
                first[gear] = min(first[gear], _seconds(gear, run, order, alone, None))
                continue
            first[gear] = min(first[gear], _seconds(gear, run, order, one, axes))
            if tasks > 1:
                both[gear] = min(both[gear], _seconds(gear, run, order, few, axes))
    seconds = dict(first)
    for gear in gears:
        if gear.is_batched and tasks > 1:
            more = max(0.0, both[gear] - first[gear])
            seconds[gear] = more + max(0.0, first[gear] - more) / tasks
    return seconds


def _seconds(gear: Gear, run: Pass, order: int, few: Arguments, axes: Axes | None) -> float:
    """Of a pass as the inner loop runs it: its gradient, and the tangent of that if it is asked
    for."""
    u = _direction(few) if order == TANGENT else {}
    _wait_for(run.device)
    start = time.perf_counter()
    if order == TANGENT and gear.record is not None:
        _, tangent = gear.record(run, few)
        tangent(u)
    elif order == TANGENT:
        gear.gradient(run, few, axes)
        gear.tangent(run, few, axes, u)
    else:
        _evaluate(gear, run, order, few, axes)
    _wait_for(run.device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _fault(
    gear: Gear, run: Pass, order: int, few: Arguments, axes: Axes, exact: Any, tolerance: float
) -> str | None:
    try:
        error = _error(_evaluate(gear, run, order, few, axes), exact)
    except Exception as failure:
        return f"{type(failure).__name__}: {_first_line(failure)}"
    if error > tolerance:
        return f"its derivatives are off by {error:.1e} of the largest"
    return None


def _evaluate(gear: Gear, run: Pass, order: int, few: Arguments, axes: Axes) -> Any:
    if order == VALUE:
        return gear.value(run, few, axes)
    if order == GRADIENT:
        return gear.gradient(run, few, axes)
    return gear.tangent(run, few, axes, _direction(few))


def _direction(few: Arguments) -> dict[str, Tensor]:
    """u, from the normal distribution."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        for key, tensor in few[MOVING].items()
    }


def _compare_with_finite_differences(
    run: Pass, double: Arguments, axes: Axes, exact: Tangent
) -> None:
    """Warn where double backward, the judge of all gears, is wrong itself.

    Only if the gradients are those of the loss, which they are not meant to be where forward
    stops them on purpose, as straight-through estimators do. A step that crosses a kink, of a
    ReLU say, finds nothing out: the shortest has to agree.
    """
    (moving, *rest), u, errors = double, _direction(double), []

    def gradient(step: float) -> Gradient:
        moved = {key: tensor + step * u[key] for key, tensor in moving.items()}
        return DOUBLE_BACKWARD.gradient(run, (moved, *rest), axes)

    slope = sum((g * u[key]).flatten(1).sum(1) for key, g in gradient(0.0)[0].items())
    for step in (1e-5, 1e-8, 1e-10):
        *ahead, found_ahead = gradient(step)
        *behind, found_behind = gradient(-step)
        if step == 1e-5:
            loss_slope = (found_ahead["loss"] - found_behind["loss"]) / (2 * step)
            if _error(loss_slope, slope) > FINITE_DIFFERENCE_TOLERANCE:
                return
        difference = tree_map(lambda a, b, step=step: (a - b) / (2 * step), ahead, behind)
        errors.append(_error(difference, list(exact)))
        if errors[-1] < FINITE_DIFFERENCE_TOLERANCE:
            return
    warn_of_second_derivatives(_name(run), min(errors))


def _error(actual: Any, exact: Any) -> float:
    """The largest error of a tensor, relative to its largest entry; infinite where one is NaN
    and the other is not. A thousandth of the largest of all tensors is the least scale."""
    pairs = list(zip(tree_leaves(actual), tree_leaves(exact), strict=True))
    floor = 1e-3 * max((_largest(reference) for _, reference in pairs), default=0.0)
    worst = 0.0
    for tensor, reference in pairs:
        if tensor.shape != reference.shape or not torch.equal(tensor.isnan(), reference.isnan()):
            return float("inf")
        difference = _largest(tensor.double() - reference.double())
        worst = max(worst, difference / (max(_largest(reference), floor) or 1.0))
    return worst


def _largest(tensor: Tensor) -> float:
    return float(tensor.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if tensor.numel() else 0.0


def _not_differentiable(
    run: Pass, order: int, few: Arguments, axes: Axes, error: Exception
) -> BackendError:
    """Names the operation: torch's message does, unless it is a user's autograd.Function."""
    times = "twice" if order == TANGENT else "once"
    functions = python_functions(run, few, axes)
    among = f" (autograd.Functions in it: {', '.join(functions)})" if functions else ""
    return BackendError(
        f"PyTorch cannot differentiate {_name(run)} {times}{among}: {_first_line(error)}"
    )


def _name(run: Pass) -> str:
    loss = "" if run.loss is None else f" with loss {run.loss.name!r}"
    return f"{type(run.program.module).__name__}{loss}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _to_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _float_type(few: Arguments) -> torch.dtype:
    tensors = (tensor for part in few for tensor in part.values())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)


def _with_bars_of_one(constant: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cotangents that may be zero would show no fault."""
    return {k: torch.ones_like(t) if k.endswith("_bar") else t for k, t in constant.items()}


_Memory = dict[tuple[Any, ...], Choice]
_memories: weakref.WeakKeyDictionary[ModuleProgram, weakref.WeakKeyDictionary[object, _Memory]] = (
    weakref.WeakKeyDictionary()
)


def _memory(program: ModuleProgram, loss: Loss | None) -> _Memory:
    """What is remembered for a program and a loss; nothing that keeps either alive."""
    function = None if loss is None else loss.function
    owner = program if function is None else getattr(function, "__self__", None) or function
    try:
        of_program = _memories.setdefault(program, weakref.WeakKeyDictionary())
        return of_program.setdefault(owner, {})
    except TypeError:  # a callable that no weak reference or no dict takes
        return {}


def _key(run: Pass, order: int, arguments: Arguments, axes: Axes) -> tuple[Any, ...]:
    loss = run.loss
    kind = None
    if loss is not None:  # two methods of one object have their names
        kind = loss.kind, loss.label_smoothing, getattr(loss.function, "__qualname__", None)
    shapes = (
        (key, tensor.shape if axis is None else tensor.shape[1:], tensor.dtype, tensor.device)
        for tensors, dims in zip(arguments, axes, strict=True)
        for (key, tensor), axis in zip(tensors.items(), dims.values(), strict=True)
    )
    # forward mode does not nest: inside of it, the gears that use it fail
    is_inside = forward_ad._current_level >= 0
    return order, kind, is_inside, len(arguments[0]), len(arguments[1]), *shapes

"""Chooses the executor of a call, and says what it chose, why, and what the call will cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from . import executors
from .executors.errors import BackendError
from .program import InnerLoop, Inputs, ModuleProgram, Program, Samples

_EXECUTORS: Mapping[str, ModuleType] = MappingProxyType(
    {
        "native": executors.native,
        "reference": executors.reference,
        "generic": executors.generic,
    }
)
"""The fastest first."""

BACKENDS = ("auto", "native", "triton", "reference", "generic")
"""What `backend` may be."""


def choose(loop: InnerLoop, inputs: Inputs, backend: str = "auto") -> ModuleType:
    """The executor that runs a call: the fastest that can, or the one that was asked for.

    Raises:
        BackendError: it refuses, with its reason and with what would run; or each does.
    """
    names = _EXECUTORS if backend == "auto" else (backend,)
    refusals = {}
    for name in names:
        reason = _refusal(name, loop, inputs)
        if reason is None:
            return _EXECUTORS[name]
        refusals[name] = reason
    others = (name for name in _EXECUTORS if name not in refusals)
    able = next((name for name in others if _refusal(name, loop, inputs) is None), None)
    hint = "" if able is None else f"; backend={able!r} can"
    raise BackendError(_list(refusals) + hint)


def plan(loop: InnerLoop, inputs: Inputs, backend: str = "auto") -> Plan:
    """What `choose` chooses and the cost of a call with its gradient.

    Raises:
        BackendError: as `choose` does.
    """
    executor = choose(loop, inputs, backend).__name__.rpartition(".")[2]
    refusals = {}
    for name in BACKENDS[1:]:
        reason = _refusal(name, loop, inputs)
        if name != executor and reason is not None:
            refusals[name] = reason
    adapted = sum(
        slot.size for slot, flag in zip(loop.program.slots, loop.adapted, strict=True) if flag
    )
    tasks, support, query = inputs.tasks, _count(inputs.support), _count(inputs.query)
    number, program = inputs.dtype.itemsize, loop.program
    is_traced = not isinstance(program, ModuleProgram)
    layers = executors.native.layers(loop, inputs) if executor == "native" else ()
    dual = {layer.op: layer for layer in layers if layer.is_dual}
    numbers_of_phi = adapted + sum(
        math.prod(layer.coefficients) - program.slots[layer.slot].size for layer in dual.values()
    )
    why = "the fastest that runs this call" if backend == "auto" else "asked for by name"
    gear = None if is_traced else executors.generic.describe(program)
    states = 2 if loop.momentum else 1
    return Plan(
        executor=executor,
        why=why if gear is None else f"{why}, in {gear}",
        refusals=MappingProxyType(refusals),
        tasks=tasks,
        steps=loop.steps,
        support=support,
        query=query,
        adapted=adapted,
        parameters=sum(slot.size for slot in loop.program.slots),
        forms=MappingProxyType({program.slots[layer.slot].name: _form(layer) for layer in layers}),
        arithmetic=_arithmetic(loop, program, tasks, support, query, dual) if is_traced else {},
        placement=executors.native.placement(loop, inputs) if executor == "native" else None,
        trajectory=executors.native.trajectory(loop, inputs) if executor == "native" else None,
        trajectory_bytes=number * states * (loop.steps + 1) * numbers_of_phi,
        tape_bytes=number * _tape(loop, program, support, query) if is_traced else None,
    )


@dataclass(frozen=True)
class Plan:
    """What runs a call, why, and what it costs. `print` it."""

    executor: str
    why: str
    refusals: Mapping[str, str]
    """Why each of the other backends does not run, by name; those that would are absent."""
    tasks: int
    steps: int
    support: int
    query: int
    adapted: int
    """Numbers that the inner loop adapts, of one task."""
    parameters: int
    """Numbers that the model uses."""
    forms: Mapping[str, str]
    """Of the native executor: the form of each layer that reads the samples, by the name of its
    weight, and what it costs a task beside the other forms."""
    arithmetic: Mapping[str, int]
    """Floating-point operations of the matrix products of a call, 2mnk each, by pass; empty
    where the model is not traced."""
    trajectory_bytes: int
    """phi_0..phi_K of one task, and the momentum beside them, where all are kept; of a layer in the
    dual form its coefficients, not its weight."""
    placement: str | None
    """Of the native executor: on a CPU whether the tasks run in lockstep, on a GPU the threads of a
    task and where its memory is."""
    trajectory: executors.native.Trajectory | None
    """Of the native executor on a CPU: what is kept of the inner steps, and in how much memory."""
    tape_bytes: int | None
    """The largest pass of one task: its values, their cotangents and the tangents of both; None
    where the model is not traced."""

    def __str__(self) -> str:
        arithmetic, tape = "of a model that is not traced is not known", "not known"
        if self.arithmetic:
            parts = ", ".join(f"{name} {_flop(count)}" for name, count in self.arithmetic.items())
            arithmetic = f"{_flop(sum(self.arithmetic.values()))} a call with its gradient: {parts}"
        if self.tape_bytes is not None:
            tape = _size(self.tape_bytes)
        lines = [
            ("executor", f"{self.executor}: {self.why}"),
            *(("not", f"{name}: {reason}") for name, reason in self.refusals.items()),
            (
                "tasks",
                f"{self.tasks}, each {self.support} support and {self.query} query samples, "
                f"{self.steps} inner steps",
            ),
            ("adapts", f"{self.adapted:,} of the {self.parameters:,} numbers that the model uses"),
            *(("form", f"{name}: {form}") for name, form in self.forms.items()),
            *((("placement", self.placement),) if self.placement else ()),
            *((("trajectory", _kept(self.trajectory, self.steps)),) if self.trajectory else ()),
            ("arithmetic", arithmetic),
            (
                "memory",
                f"a task in flight: trajectory {_size(self.trajectory_bytes)}, largest pass {tape}",
            ),
        ]
        return "\n".join(f"{label:<11}{text}" for label, text in lines)


def _refusal(name: str, loop: InnerLoop, inputs: Inputs) -> str | None:
    if name in _EXECUTORS:
        return _EXECUTORS[name].refusal(loop, inputs)
    return "not part of this version of fastmaml"


def _list(refusals: Mapping[str, str]) -> str:
    reasons = "; ".join(f"backend={name!r}: {reason}" for name, reason in refusals.items())
    return f"cannot run this call with {reasons}"


def _count(samples: Samples | None) -> int:
    return 0 if samples is None else samples.x.shape[1]


def _form(layer: executors.native.Layer) -> str:
    costs = {
        form: f"{_flop(cost.flop)} and {_size(cost.moved)} moved"
        for form, cost in layer.costs.items()
    }
    others = "; ".join(f"{form}: {cost}" for form, cost in costs.items() if form != layer.form)
    why = others if layer.refusal is None else f"not dual: {layer.refusal}"
    return f"{layer.form}, {costs[layer.form]} a task ({why})"


def _kept(trajectory: executors.native.Trajectory, steps: int) -> str:
    """What is kept of the inner steps, and what is computed again."""
    segment, lanes = trajectory.segment, trajectory.threads // trajectory.teams
    if segment == 0 or steps == 0:
        what = "nothing of the steps kept, since no gradient reads it"
    elif segment >= steps:
        what = f"kept of all {steps} steps"
    else:
        again = f"{steps - segment} of {steps} steps computed again"
        what = f"{math.ceil(steps / segment)} checkpoints of {segment} steps, {again}"
    if segment and trajectory.activations == 0:
        what += ", no activations kept"
    elif trajectory.activations < min(segment, steps):
        what += f", activations of the last {trajectory.activations}"
    each = "a thread" if lanes == 1 else f"for {lanes} threads"
    count = f"{trajectory.threads} thread{'s' * (trajectory.threads > 1)}"
    kept, whole = _size(trajectory.kept), _size(trajectory.bytes)
    return f"{what}; {kept} {each}, {whole} a call on {count}"


def _arithmetic(
    loop: InnerLoop,
    program: Program,
    tasks: int,
    support: int,
    query: int,
    dual: Mapping[int, executors.native.Layer],
) -> dict[str, int]:
    """The passes of the mathematics (`program.inner_loop`), none of them run twice; layers in the
    dual form apart.

    A linear op is y = x W^T; one product of its activations and a matrix of its weight's size
    makes each of: y; the cotangents of x and W; x' W and x W' for the tangent of y; y_bar' W and
    y_bar W' for that of x_bar; y_bar' x and y_bar x' for that of W_bar.
    """
    steps = loop.steps
    varies = [False] * len(program.values)  # with an adapted parameter
    learns = [False] * len(program.values)  # with any parameter
    forward = backward = query_backward = tangent = 0
    for index, op in enumerate(program.ops):
        slots = [slot for slot in op.parameters if slot is not None]
        is_adapted = any(loop.adapted[slot] for slot in slots)
        x_varies = any(varies[value] for value in op.inputs)
        x_learns = any(learns[value] for value in op.inputs)
        if op.kind == "linear" and index not in dual:
            out, width = program.slots[slots[0]].shape
            product = 2 * out * width * (program.features(op.inputs[0]) // width)
            forward += product
            backward += product * (is_adapted + x_varies)
            query_backward += product * (1 + x_learns)
            tangent += product * (is_adapted + x_varies)  # y'
            tangent += product * (1 + x_varies)  # of the weight's cotangent
            tangent += product * x_learns * (1 + is_adapted)  # of x's
        varies[op.output] = is_adapted or x_varies
        learns[op.output] = bool(slots) or x_learns
    losses = sum(1 for step in range(steps + 1) if loop.step_weight(step))
    of_dual = tasks * sum(layer.cost.flop for layer in dual.values())
    return ({"layers in the dual form": of_dual} if dual else {}) | {
        "inner steps": tasks * support * steps * (forward + backward),
        "query loss": tasks * query * losses * (forward + query_backward),
        "Hessian-vector products": 0 if loop.first_order else tasks * support * steps * tangent,
    }


def _tape(loop: InnerLoop, program: Program, support: int, query: int) -> int:
    numbers = sum(math.prod(value) for value in program.values)
    kinds = 2 if loop.first_order else 4
    return numbers * max(kinds * support, 2 * query)


def _flop(count: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}FLOP"
    return f"{count:.0f} FLOP"


def _size(count: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"

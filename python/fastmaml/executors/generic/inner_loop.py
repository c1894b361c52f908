"""The inner loop of a chunk of tasks, forward and adjoint, as `program.inner_loop` states it.

What is kept of the forward loop is a set of the adapted parameters a step (two where gradients of
rates are wanted), and no graph that reaches over steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunk import Chunk
from .gears import Tangent
from .gradients import ChunkGradients
from .objective import Tensors
from .trial import GRADIENT, TANGENT, VALUE, Choice, choose

GRAPH_BYTES = 96 * 2**20
"""The memory that the graphs of single steps of one task may take, where the call has no
memory_budget."""


@dataclass(frozen=True)
class Choices:
    """How the passes of a call run, from a trial on its first tasks."""

    inner: Choice | None
    """The support's gradient, and its tangent where one is needed."""
    query: Choice | None

    @classmethod
    def of(cls, chunk: Chunk) -> Choices:
        """Those of the tasks of a chunk, and of all with as many samples."""
        loop, phi, inner, query = chunk.loop, chunk.initial(), None, None
        if loop.steps > 0 and phi:
            call = chunk.support(phi, 0)
            if needs_tangents(chunk):
                call = chunk.support(phi, 0, for_tangent=True)
            order = TANGENT if needs_tangents(chunk) else GRADIENT
            inner = choose(call.run, order, call.arguments, call.axes, chunk.fitting)
        if chunk.inputs.query is not None:
            call = chunk.query(phi, loop.steps)
            order = GRADIENT if call.is_differentiated else VALUE
            is_batched = None if inner is None else inner.gear.is_batched
            query = choose(call.run, order, call.arguments, call.axes, chunk.fitting, is_batched)
        return cls(inner, query)


@dataclass(frozen=True)
class Results:
    """What a chunk's inner loops lead to."""

    adapted: Tensors
    """phi_K."""
    task_loss: Tensor | None
    """[B]"""
    prediction: tuple[Tensor, ...]
    """Its leaves, [B, ...] each; none without a query."""


def needs_tangents(chunk: Chunk) -> bool:
    """Whether the adjoint multiplies by Hessians of the support loss."""
    return chunk.goes_back and not chunk.loop.first_order


def run(chunk: Chunk, choices: Choices, gradients: Tensors) -> Results:
    """The inner loops of a chunk; adds its part to the gradients."""
    trajectory, velocities, tangents = _forward(chunk, choices)
    adjoint = _Adjoint(chunk, choices, ChunkGradients(chunk, gradients))
    steps, losses, prediction = chunk.loop.steps, {}, ()
    for step in range(steps, -1, -1):
        if step < steps:
            if not chunk.goes_back and not chunk.loop.step_weights:
                break
            if chunk.goes_back:
                velocity = velocities.pop(step + 1, {})
                adjoint.step_back(trajectory[step], velocity, step, tangents.pop(step, None))
        if chunk.inputs.query is not None and (step == steps or chunk.loop.step_weight(step)):
            found = adjoint.query(trajectory[step], step)
            losses[step] = found.get("loss")
            if step == steps:
                prediction = tuple(found[f"prediction:{leaf}"] for leaf in range(_leaves(found)))
    adjoint.finish()
    return Results(trajectory[-1], _task_loss(chunk, losses), prediction)


def product(chunk: Chunk, choice: Choice, u: Tensors) -> Tensors:
    """H u at phi_0."""
    call = chunk.support(chunk.initial(), 0)
    return choice.gear.tangent(call.run, call.arguments, call.axes, u)[0]


def _forward(
    chunk: Chunk, choices: Choices
) -> tuple[list[Tensors], dict[int, Tensors], dict[int, Callable[[Tensors], Tangent]]]:
    """phi_0..phi_K; s_1..s_K where they are needed; tangents by step where graphs are kept.

    What nobody will read is left empty.
    """
    loop, phi = chunk.loop, chunk.initial()
    keeps_velocities = any(key.startswith("rate:") for key in chunk.wanted)
    keeps_steps = chunk.goes_back or loop.step_weights
    keeps_graphs = _keeps_graphs(chunk, choices)
    trajectory, velocities, velocity, tangents = [phi], {}, {}, {}
    for step in range(loop.steps):
        after = {}
        if phi:
            call = chunk.support(phi, step, for_tangent=keeps_graphs)
            gear = choices.inner.gear
            if keeps_graphs:
                gradient, tangents[step] = gear.record(call.run, call.arguments)
            else:
                gradient, _, _ = gear.gradient(call.run, call.arguments, call.axes)
            if loop.momentum and velocity:
                lists = _in_order(phi, gradient, velocity)
                gradient = _by_key(phi, torch._foreach_add(*lists, alpha=loop.momentum))
            velocity = gradient
            lists = _in_order(phi, phi, chunk.minus_rates[step], velocity)
            after = _by_key(phi, torch._foreach_addcmul(*lists))
        if keeps_velocities:
            velocities[step + 1] = velocity
        if not keeps_steps:
            trajectory[-1] = {}
        trajectory.append(after)
        phi = after
    return trajectory, velocities, tangents


def _keeps_graphs(chunk: Chunk, choices: Choices) -> bool:
    """Whether the graph of each step's gradient is kept until the adjoint comes by: of one task at
    a time, and while they fit. Every graph ends at its own phi_k."""
    inner = choices.inner
    if inner is None or inner.gear.record is None or not needs_tangents(chunk):
        return False
    budget, most = chunk.loop.memory_budget, GRAPH_BYTES
    if budget is not None:
        most = budget - chunk.task_bytes(inner.task_bytes)
    return chunk.is_alone and chunk.loop.steps * inner.task_bytes <= most


class _Adjoint:
    """v and r of the recursion, from phi_K back to phi_0."""

    def __init__(self, chunk: Chunk, choices: Choices, gradients: ChunkGradients) -> None:
        self._chunk = chunk
        self._choices = choices
        self._gradients = gradients
        self._v: Tensors = {}
        """Zero where it is not there."""
        self._r: Tensors = {}
        """As v."""
        self._sums: set[str] = set()
        """Where v was added up here, in memory that nobody else reads."""
        given = None if chunk.cotangents is None else chunk.cotangents.adapted
        if not chunk.goes_back or given is None:
            return
        for slot, key in chunk.parameters(adapted=True):
            if given[slot] is not None:
                self._v[key] = given[slot][chunk.tasks]

    def query(self, phi: Tensors, step: int) -> Tensors:
        """What the query's pass finds; its gradient goes to v, and to all else that it reads."""
        call = self._chunk.query(phi, step)
        gear = self._choices.query.gear
        if not call.is_differentiated:
            return gear.value(call.run, call.arguments, call.axes)
        by_moving, by_resting, found = gear.gradient(call.run, call.arguments, call.axes)
        self._absorb("query", (by_moving, by_resting))
        return found

    def step_back(
        self,
        phi: Tensors,
        velocity: Tensors,
        step: int,
        tangent: Callable[[Tensors], Tangent] | None,
    ) -> None:
        """From v_{k+1} and r_{k+1} to v_k and r_k, but for the query's part."""
        chunk, loop, u = self._chunk, self._chunk.loop, {}
        minus_rates = chunk.minus_rates[step]
        shared = self._shared(minus_rates)
        for slot, key in chunk.parameters(adapted=True):
            v, r, minus_rate = self._v.get(key), self._r.get(key), minus_rates[key]
            if shared is not None:
                u[key] = v
            elif v is None:
                u[key] = phi[key].new_zeros(phi[key].shape) if r is None else r
            else:
                u[key] = minus_rate * v if r is None else torch.addcmul(r, minus_rate, v)
            if velocity and v is not None:
                self._gradients.add_rate(slot, step, v, velocity[key])
            if loop.momentum:
                self._r[key] = loop.momentum * u[key]
        if tangent is not None:
            self._absorb("support", tangent(u), shared)
        elif u and not loop.first_order:
            call = chunk.support(phi, step, for_tangent=True)
            gear = self._choices.inner.gear
            found = gear.tangent(call.run, call.arguments, call.axes, u)
            self._absorb("support", found, shared)

    def finish(self) -> None:
        """v_0 is the gradient of phi_0."""
        self._gradients.add_parameters(self._v)

    def _shared(self, minus_rates: Tensors) -> Tensor | None:
        """The rate times -1 where it is one number for all: H u = -rate H v then, and v need not be
        scaled. With momentum, u is another."""
        if self._chunk.loop.momentum or not minus_rates or not self._v.keys() >= minus_rates.keys():
            return None
        first, *others = minus_rates.values()
        is_one = first.numel() == 1 and all(other is first for other in others)
        return first if is_one else None

    def _absorb(self, role: str, bars: Tangent, scale: Tensor | None = None) -> None:
        """Adds the bars, times `scale`."""
        by_moving, by_resting = bars
        sums, added = _in_order(by_moving.keys() & self._sums, self._v, by_moving)
        if sums and scale is None:
            torch._foreach_add_(sums, added)
        elif sums:
            torch._foreach_addcmul_(sums, added, [scale] * len(sums))
        for key in by_moving.keys() - self._sums:
            v, bar = self._v.get(key), by_moving[key]
            if v is None:
                self._v[key] = bar if scale is None else scale * bar
            else:
                self._v[key] = v + bar if scale is None else torch.addcmul(v, bar, scale)
                self._sums.add(key)
        if scale is not None:
            by_resting = {key: scale * bar for key, bar in by_resting.items()}
        self._gradients.add_resting(role, by_resting)


def _task_loss(chunk: Chunk, losses: dict[int, Tensor | None]) -> Tensor | None:
    """sum_k c_k l_q(phi_k), [B]."""
    if chunk.inputs.query is None or chunk.inputs.query.y is None:
        return None
    total = chunk.for_each(torch.zeros((), dtype=chunk.inputs.dtype, device=chunk.inputs.device))
    for step in sorted(losses):
        if c := chunk.loop.step_weight(step):
            total = total + c * losses[step]
    return total


def _in_order(keys: Iterable[str], *parts: Tensors) -> list[list[Tensor]]:
    """The tensors with these keys, of each of the parts."""
    keys = list(keys)
    return [[part[key] for key in keys] for part in parts]


def _by_key(keys: Iterable[str], tensors: Sequence[Tensor]) -> Tensors:
    """Undoes `_in_order`."""
    return dict(zip(keys, tensors, strict=True))


def _leaves(found: Tensors) -> int:
    return sum(key.startswith("prediction:") for key in found)

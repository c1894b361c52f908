"""Some tasks of a call that run side by side, and what each pass over their samples reads."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...program import Cotangents, InnerLoop, Inputs, Samples, StatelessModule
from .gears import CONSTANT, MOVING, RESTING, Arguments, Axes, packed
from .objective import Pass, Tensors
from .overrides import Concern

CHUNK_BYTES = 48 * 2**20
"""The memory that the tasks of a chunk may take, by estimate, where the call has no memory_budget;
one task always runs."""
GPU_CHUNK_BYTES = 2**30
"""As much on a GPU: there is no cache to stay in, and each chunk launches all kernels again."""

_LIVE = 4
"""A pass's cotangents and tangents beside its values, in multiples of what autograd saves of it."""


@dataclass(frozen=True)
class Call:
    """A pass and its arguments for the tasks of a chunk."""

    run: Pass
    arguments: Arguments
    axes: Axes | None

    @property
    def is_differentiated(self) -> bool:
        return bool(self.arguments[MOVING] or self.arguments[RESTING])


@dataclass(frozen=True)
class Chunk:
    """Consecutive tasks of a call, all with the same number of real samples.

    Adapted parameters and their adjoints are dicts by key, [B, *shape]; without the task axis B,
    as all tensors of the chunk, where it is one task alone.
    """

    loop: InnerLoop
    inputs: Inputs
    module: StatelessModule
    concern: Concern
    tasks: slice | int
    """A number: one task alone. As an index it takes their part of a tensor [T, ...]."""
    buffers: Tensors
    """By key, [*shape]."""
    minus_rates: Sequence[Tensors]
    """Of each step, by the key of what is adapted: the rate times -1, [*shape] or a scalar."""
    cotangents: Cotangents | None
    wanted: Set[str]
    """Keys of the inputs whose gradients are wanted."""
    _unmoved: dict[Any, tuple[Arguments, Axes]] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The first task."""
        return self.tasks if self.is_alone else self.tasks.start

    @property
    def is_alone(self) -> bool:
        """Whether it is one task, without a task axis."""
        return isinstance(self.tasks, int)

    @property
    def goes_back(self) -> bool:
        """Whether a gradient is wanted that comes through the inner steps."""
        return any(not key.startswith("query_") for key in self.wanted)

    def parameters(self, *, adapted: bool) -> list[tuple[int, str]]:
        """(slot, key) of those that the inner loop adapts, or of the others."""
        return self._parameters[adapted]

    def is_own(self, slot: int) -> bool:
        """Whether every task starts from its own."""
        return self.inputs.per_task(self.loop.program, slot)

    def initial(self) -> Tensors:
        """phi_0."""
        phi = {}
        for slot, key in self.parameters(adapted=True):
            parameter = self._parameter(slot)
            phi[key] = parameter if self.is_own(slot) else self.for_each(packed(parameter))
        return phi

    def for_each(self, tensor: Tensor) -> Tensor:
        """The same tensor for each of the tasks."""
        if self.is_alone:
            return tensor
        return tensor.expand(self.tasks.stop - self.tasks.start, *tensor.shape)

    def support(self, phi: Tensors, step: int, *, for_tangent: bool = False) -> Call:
        """The pass over the support samples after `step` inner steps.

        Args:
            for_tangent: whether mixed second derivatives are to come out too.
        """
        wanted = self.wanted if for_tangent else frozenset()
        return self._call("support", self.inputs.support, phi, 2 * step, wanted, moves=True)

    def query(self, phi: Tensors, step: int) -> Call:
        """The pass over the query samples after `step` inner steps, with its cotangents."""
        samples, bars = self.inputs.query, {}
        if self.cotangents is not None and self.wanted:
            c, loss_bar = self.loop.step_weight(step), self.cotangents.task_loss
            if loss_bar is not None and c:
                bars["loss_bar"] = c * loss_bar[self.tasks]
            if step == self.loop.steps:
                bars |= self._prediction_bars()
        wanted = self.wanted if bars else frozenset()
        moves = bool(bars) and self.goes_back
        return self._call("query", samples, phi, 2 * step + 1, wanted, moves=moves, bars=bars)

    def fitting(self, pass_bytes: int) -> int:
        """How many tasks fit into the memory of a chunk, at least one.

        Args:
            pass_bytes: what autograd keeps of one task's largest pass.
        """
        most = self.loop.memory_budget
        if most is None:
            most = CHUNK_BYTES if self.inputs.device.type == "cpu" else GPU_CHUNK_BYTES
        return max(1, most // max(1, self.task_bytes(pass_bytes)))

    def task_bytes(self, pass_bytes: int) -> int:
        """An estimate of what one task takes; `pass_bytes` as in `fitting`.

        Beside phi_0..phi_K: v, r, u, their next values, and the gradient and tangent in hand.
        """
        loop, slots = self.loop, self.loop.program.slots
        adapted = sum(s.size for s, flag in zip(slots, loop.adapted, strict=True) if flag)
        resting = sum(s.size for s in slots if f"parameter:{s.name}" in self.wanted)
        sets = 8 + (loop.steps if self.wanted or loop.step_weights else 0)
        if any(key.startswith("rate:") for key in self.wanted):
            sets += loop.steps
        numbers = sets * adapted + 2 * resting
        return self.inputs.dtype.itemsize * numbers + _LIVE * pass_bytes

    def real(self, samples: Samples) -> slice:
        """Which samples of each task are real."""
        return slice(None if samples.size is None else samples.size[self.first])

    @cached_property
    def _parameters(self) -> tuple[list[tuple[int, str]], ...]:
        keys = [(slot, f"parameter:{s.name}") for slot, s in enumerate(self.loop.program.slots)]
        return tuple([each for each in keys if self.loop.adapted[each[0]] == a] for a in (0, 1))

    def _parameter(self, slot: int) -> Tensor:
        parameter = self.inputs.parameters[slot]
        return parameter[self.tasks] if self.is_own(slot) else parameter

    def _prediction_bars(self) -> Tensors:
        given, query = self.cotangents.prediction, self.inputs.query
        bars = {}
        for leaf, bar in enumerate(given if isinstance(given, tuple) else (given,)):
            if bar is not None:
                is_padded = query.size is not None and bar.shape[1:2] == query.x.shape[1:2]
                bar = bar[self.tasks, self.real(query)] if is_padded else bar[self.tasks]
                bars[f"prediction:{leaf}_bar"] = bar
        return bars

    def _call(
        self,
        role: str,
        samples: Samples,
        phi: Tensors,
        index: int,
        wanted: Set[str],
        *,
        moves: bool,
        bars: Tensors | None = None,
    ) -> Call:
        if (role, wanted) not in self._unmoved:
            self._unmoved[role, wanted] = self._without_phi(role, samples, wanted)
        arguments, axes = (tuple(map(dict, parts)) for parts in self._unmoved[role, wanted])
        place = MOVING if moves else CONSTANT
        arguments[place].update(phi)
        axes[place].update(dict.fromkeys(phi, 0))
        if bars:
            arguments[CONSTANT].update(bars)
            axes[CONSTANT].update(dict.fromkeys(bars, 0))
        axes = None if self.is_alone else axes
        loss = None if samples.y is None else self.loop.loss
        run = Pass(
            self.loop.program,
            self.module,
            self.concern,
            loss,
            self.inputs.seed,
            index,
            samples.x.device,
        )
        return Call(run, arguments, axes)

    def _without_phi(self, role: str, samples: Samples, wanted: Set[str]) -> tuple[Arguments, Axes]:
        """What a pass reads that is the same at every step."""
        arguments: Arguments = ({}, {}, {})
        axes: Axes = ({}, {}, {})

        def add(place: int, key: str, tensor: Tensor, axis: int | None = 0) -> None:
            arguments[place][key] = tensor
            axes[place][key] = axis

        def place_of(key: str, tensor: Tensor) -> int:
            return RESTING if key in wanted and tensor.is_floating_point() else CONSTANT

        for slot, key in self.parameters(adapted=False):
            tensor = self._parameter(slot)
            add(place_of(key, tensor), key, tensor, 0 if self.is_own(slot) else None)
        for part in ("x", "y", "weights"):
            tensor = getattr(samples, part)
            if tensor is not None:
                tensor = tensor[self.tasks, self.real(samples)]
                add(place_of(f"{role}_{part}", tensor), part, tensor)
        for key, buffer in self.buffers.items():
            if key.removeprefix("buffer:") in self.loop.program.written:
                add(CONSTANT, key, self.for_each(buffer))
            else:
                add(CONSTANT, key, buffer, None)
        tasks, device = self.tasks, samples.x.device
        if self.is_alone:
            # on the host, which reads it, and where a device takes single numbers from
            add(CONSTANT, "task", torch.tensor(tasks))
        else:
            add(CONSTANT, "task", torch.arange(tasks.start, tasks.stop, device=device))
        return arguments, axes

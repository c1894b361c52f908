"""How many tasks run side by side."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import groupby
from typing import Any

from ...program import Cotangents, InnerLoop, Inputs
from .chunk import Chunk
from .inner_loop import Choices
from .trial import TANGENT, Choice, choose

CHUNK_BYTES = 48 * 2**20
"""The memory that the tasks of a chunk may take, by estimate; one task always runs."""

_LIVE = 4
"""A pass's cotangents and tangents beside its values, in multiples of what autograd saves of it."""


class Chunks:
    """The chunks of a call, in the order of its tasks. They depend on the call's shapes alone, so
    that sums over tasks have one order."""

    def __init__(
        self,
        loop: InnerLoop,
        inputs: Inputs,
        cotangents: Cotangents | None,
        wanted: Set[str],
    ) -> None:
        self._loop = loop
        self._inputs = inputs
        self._cotangents = cotangents
        self._wanted = wanted
        self._buffers = {
            f"buffer:{name}": buffer.detach().clone()
            for name, buffer in loop.program.module.named_buffers()
        }

    def __iter__(self) -> Iterator[tuple[Chunk, Choices]]:
        for first, last in self._alike():
            choices = Choices.of(self._chunk(first, last))
            for chunk in self._split(first, last, [choices.inner, choices.query]):
                yield chunk, choices

    def for_products(self) -> Iterator[tuple[Chunk, Choice]]:
        """For Hessian-vector products at phi_0."""
        for first, last in self._alike():
            chunk = self._chunk(first, last)
            call = chunk.support(chunk.initial(), 0)
            choice = choose(call.run, TANGENT, call.arguments, call.axes)
            for part in self._split(first, last, [choice]):
                yield part, choice

    def _alike(self) -> Iterator[tuple[int, int]]:
        """(first, last + 1) of consecutive tasks with as many real samples."""
        sizes = [s.size for s in (self._inputs.support, self._inputs.query) if s and s.size]

        def numbers(task: int) -> Any:
            return [size[task] for size in sizes]

        for _, group in groupby(range(self._inputs.tasks), numbers):
            tasks = list(group)
            yield tasks[0], tasks[-1] + 1

    def _chunk(self, first: int, last: int) -> Chunk:
        tasks = slice(first, last)
        return Chunk(self._loop, self._inputs, tasks, self._buffers, self._cotangents, self._wanted)

    def _split(self, first: int, last: int, choices: list[Choice | None]) -> Iterator[Chunk]:
        size = max(1, CHUNK_BYTES // max(1, self._task_bytes(choices)))
        if not all(choice.gear.is_batched for choice in choices if choice):
            size = 1
        for start in range(first, last, size):
            yield self._chunk(start, min(start + size, last))

    def _task_bytes(self, choices: list[Choice | None]) -> int:
        """What one more task of a chunk takes: parameter sets, and its largest pass.

        Beside phi_0..phi_K: v, r, u, their next values, and the gradient and tangent in hand.
        """
        loop, slots = self._loop, self._loop.program.slots
        adapted = sum(s.size for s, flag in zip(slots, loop.adapted, strict=True) if flag)
        resting = sum(s.size for s in slots if f"parameter:{s.name}" in self._wanted)
        sets = 8 + (loop.steps if self._wanted or loop.step_weights else 0)
        if any(key.startswith("rate:") for key in self._wanted):
            sets += loop.steps
        passes = [choice.task_bytes for choice in choices if choice and choice.gear.is_batched]
        numbers = sets * adapted + 2 * resting
        return self._inputs.dtype.itemsize * numbers + _LIVE * max(passes, default=0)

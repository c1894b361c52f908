"""How many tasks run side by side."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import groupby
from typing import Any

from torch import Tensor

from ...program import Cotangents, InnerLoop, Inputs, StatelessModule
from ..reference.inner_loop import rate_row
from .chunk import Chunk
from .inner_loop import Choices
from .objective import Tensors
from .overrides import concern
from .trial import TANGENT, Choice, choose


class Chunks:
    """The chunks of a call, in the order of its tasks. They depend on the call's shapes and its
    memory_budget alone, so that sums over tasks have one order."""

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
        self._minus_rates = [_minus_rates(loop, inputs, step) for step in range(loop.steps)]
        self._module = StatelessModule(loop.program.module, loop.program.aliases)
        self._concern = concern(loop.program.module)

    def __iter__(self) -> Iterator[tuple[Chunk, Choices]]:
        for first, last in self._alike():
            choices = Choices.of(self._chunk(slice(first, last)))
            for chunk in self._split(first, last, [choices.inner, choices.query]):
                yield chunk, choices

    def for_products(self) -> Iterator[tuple[Chunk, Choice]]:
        """For Hessian-vector products at phi_0."""
        for first, last in self._alike():
            chunk = self._chunk(slice(first, last))
            call = chunk.support(chunk.initial(), 0)
            choice = choose(call.run, TANGENT, call.arguments, call.axes, chunk.fitting)
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

    def _chunk(self, tasks: slice | int) -> Chunk:
        return Chunk(
            self._loop,
            self._inputs,
            self._module,
            self._concern,
            tasks,
            self._buffers,
            self._minus_rates,
            self._cotangents,
            self._wanted,
        )

    def _split(self, first: int, last: int, choices: list[Choice | None]) -> Iterator[Chunk]:
        pass_bytes = max((choice.task_bytes for choice in choices if choice), default=0)
        chunk, budget = self._chunk(slice(first, last)), self._loop.memory_budget
        if budget is not None and budget < (least := chunk.task_bytes(pass_bytes)):
            raise ValueError(
                f"memory_budget must be at least {least} bytes for one task of this call, by "
                f"estimate, got {budget}"
            )
        if not all(choice.gear.is_batched for choice in choices if choice):
            yield from map(self._chunk, range(first, last))
            return
        size = chunk.fitting(pass_bytes)
        for start in range(first, last, size):
            yield self._chunk(slice(start, min(start + size, last)))


def _minus_rates(loop: InnerLoop, inputs: Inputs, step: int) -> Tensors:
    """See `Chunk.minus_rates`: the same tensor where slots share a rate."""
    rows: dict[Any, Tensor] = {}
    by_key = {}
    for slot, rate in zip(loop.program.slots, inputs.rates, strict=True):
        if rate is not None:
            number = (rate.data_ptr(), rate.shape, rate.stride())
            if number not in rows:
                rows[number] = -rate_row(rate, step)
            by_key[f"parameter:{slot.name}"] = rows[number]
    return by_key

"""Whether the tasks of a call on a CPU run one by one or in lockstep.

In lockstep a thread runs a group of tasks at once, one in each lane of its vectors
(csrc/cpu/lockstep.h). That is fastest for small networks, whose products are too narrow to fill
vectors of their own. It wants every layer dense.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ...extension import extension
from ...program import InnerLoop, Inputs, Samples
from .lowering import lowered

_THERE = 1
"""The index of a tensor that is there, where no more is asked of it."""


class Lockstep(NamedTuple):
    """How the tasks of a call run."""

    width: int
    """Of a group: how many numbers a vector holds."""
    why_not: str | None
    """Why they do not run in lockstep; None if they do."""

    def __str__(self) -> str:
        if self.why_not is None:
            return f"tasks in lockstep, {self.width} at a time, one in each lane of the vectors"
        return f"tasks one by one, not in lockstep: {self.why_not}"


def lockstep(
    loop: InnerLoop, inputs: Inputs, wanted: Collection[str], saved: float = 0.0
) -> Lockstep | None:
    """How the tasks of a call with every layer dense run; None on a GPU.

    Args:
        wanted: keys of the inputs whose gradients are wanted.
        saved: seconds that another form of its layers would save a task that runs alone.
    """
    if inputs.device.type != "cpu":
        return None
    call = extension.Call()
    call.tasks, call.steps = inputs.tasks, loop.steps
    call.step_weights = [loop.step_weight(k) for k in range(loop.steps + 1)]
    call.memory_budget, call.momentum = loop.memory_budget, loop.momentum
    call.first_order = loop.first_order
    call.differentiate = call.through_steps = bool(wanted)
    for index, slot in enumerate(loop.program.slots):
        is_wanted = f"parameter:{slot.name}" in wanted
        call.add_parameter(_THERE, inputs.per_task(loop.program, index), _THERE * is_wanted)
        rate, is_wanted = inputs.rates[index], f"rate:{slot.name}" in wanted
        rows = 1 if rate is None else rate.shape[0]
        elements = 1 if rate is None else rate.numel() // rows
        call.add_rate(_THERE, rows, elements, _THERE * is_wanted)
    if inputs.support is not None:
        call.support = _samples("support", inputs.support, wanted)
    if inputs.query is not None:
        call.query = _samples("query", inputs.query, wanted)
    program = lowered(loop.program, loop.adapted, loop.loss, inputs.dtype)
    return Lockstep(*extension.lockstep(program, call, inputs.dtype.itemsize == 8, saved))


def _samples(name: str, samples: Samples, wanted: Collection[str]) -> object:
    described = extension.Samples()
    described.count, described.x = samples.x.shape[1], _THERE
    if samples.size is not None:
        described.size = list(samples.size)
    described.x_grad = _THERE * (f"{name}_x" in wanted)
    described.target_grad = _THERE * (f"{name}_y" in wanted)
    described.weights_grad = _THERE * (f"{name}_weights" in wanted)
    return described

"""The inner loop of one task, forward and adjoint, as `fastmaml.program.inner_loop` states it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...program import Cotangents, InnerLoop, Inputs
from .objective import Bars, Objective


@dataclass(frozen=True)
class Trajectory:
    """What the adjoint needs of the forward loop: two parameter sets a step, and no graph."""

    parameters: Sequence[Sequence[Tensor]]
    """All slots at phi_0..phi_K, [*shape] each."""
    velocities: Sequence[Mapping[int, Tensor]]
    """s_0..s_K by adapted slot."""


class Task:
    """One task of a call: its tensors, its inner loop and the adjoint of that."""

    def __init__(self, loop: InnerLoop, inputs: Inputs, task: int) -> None:
        self.loop = loop
        self.task = task
        self.adapted = [slot for slot, adapted in enumerate(loop.adapted) if adapted]
        self.initial = [
            parameter[task] if inputs.per_task(loop.program, slot) else parameter
            for slot, parameter in enumerate(inputs.parameters)
        ]
        self.rates = inputs.rates
        self.support = Objective.of(loop, inputs, task, is_query=False)
        self.query = Objective.of(loop, inputs, task, is_query=True)

    def rate(self, slot: int, step: int) -> Tensor:
        """The rate of one step, [*shape] or a scalar."""
        return rate_row(self.rates[slot], step)

    def run(self) -> Trajectory:
        """The inner steps."""
        parameters = [self.initial]
        velocities = [self._zeros()]
        for step in range(self.loop.steps):
            gradient = self.support.gradient(parameters[step], step).parameters
            velocity, after = {}, list(parameters[step])
            for slot in self.adapted:
                velocity[slot] = self.loop.momentum * velocities[step][slot] + gradient[slot]
                after[slot] = after[slot] - self.rate(slot, step) * velocity[slot]
            velocities.append(velocity)
            parameters.append(after)
        return Trajectory(parameters, velocities)

    def task_loss(self, trajectory: Trajectory) -> Tensor:
        """sum_k c_k l_q(phi_k), a scalar."""
        loss = self.query.x.new_zeros(())
        for step, parameters in enumerate(trajectory.parameters):
            if c := self.loop.step_weight(step):
                loss = loss + c * self.query.value(parameters, step)
        return loss

    def prediction(self, trajectory: Trajectory) -> Tensor:
        """Of the query samples at phi_K, [m, *output]."""
        return self.query.prediction(trajectory.parameters[-1], self.loop.steps)

    def adjoint(
        self, trajectory: Trajectory, cotangents: Cotangents, gradients: TaskGradients
    ) -> None:
        """Add this task's part to the gradients, given the cotangents of the outputs."""
        loop, steps = self.loop, self.loop.steps
        v, r = self._zeros(), self._zeros()

        def absorb(source: str, bars: Bars) -> None:
            """Where the gradient of one loss goes: to v, and to all else that the loss reads."""
            for slot, bar in enumerate(bars.parameters):
                if loop.adapted[slot]:
                    v[slot] = v[slot] + bar
                else:
                    gradients.add_parameter(slot, bar)
            gradients.add_samples(source, bars)

        if cotangents.adapted is not None:
            for slot in self.adapted:
                if cotangents.adapted[slot] is not None:
                    v[slot] = cotangents.adapted[slot][self.task]
        if cotangents.prediction is not None:
            prediction_bar = cotangents.prediction[self.task, : len(self.query.x)]
            absorb("query", self.query.pullback(trajectory.parameters[-1], steps, prediction_bar))
        for step in range(steps, -1, -1):
            parameters = trajectory.parameters[step]
            if step < steps:
                u = [torch.zeros_like(parameter) for parameter in parameters]
                for slot in self.adapted:
                    gradients.add_rate(slot, step, -v[slot] * trajectory.velocities[step + 1][slot])
                    u[slot] = r[slot] - self.rate(slot, step) * v[slot]
                    r[slot] = loop.momentum * u[slot]
                if not loop.first_order:
                    absorb("support", self.support.gradient_jvp(parameters, step, u))
            c = loop.step_weight(step)
            if c and cotangents.task_loss is not None:
                scale = c * cotangents.task_loss[self.task]
                absorb("query", self.query.gradient(parameters, step, scale))
        for slot in self.adapted:
            gradients.add_parameter(slot, v[slot])

    def _zeros(self) -> dict[int, Tensor]:
        return {slot: torch.zeros_like(self.initial[slot]) for slot in self.adapted}


class TaskGradients:
    """One task's view of the gradients of a call: what is not wanted is dropped."""

    def __init__(self, task: Task, inputs: Inputs, gradients: Mapping[str, Tensor]) -> None:
        program = task.loop.program
        self._slots = program.slots
        self._views = dict(gradients)
        for index, slot in enumerate(program.slots):
            key = f"parameter:{slot.name}"
            if key in gradients and inputs.per_task(program, index):
                self._views[key] = gradients[key][task.task]
        for source, objective in (("support", task.support), ("query", task.query)):
            for key in gradients.keys() & {f"{source}_{part}" for part in ("x", "y", "weights")}:
                self._views[key] = gradients[key][task.task, : len(objective.x)]

    def add_parameter(self, slot: int, term: Tensor) -> None:
        """term [*shape of the slot]"""
        self._add(f"parameter:{self._slots[slot].name}", term)

    def add_rate(self, slot: int, step: int, term: Tensor) -> None:
        """term [*shape of the slot]; its sum where the rate is one number a tensor."""
        key = f"rate:{self._slots[slot].name}"
        if key in self._views:
            row = rate_row(self._views[key], step)
            row.add_(term.sum_to_size(row.shape))

    def add_samples(self, source: str, bars: Bars) -> None:
        """Terms of the support's or the query's x, y and weights."""
        self._add(f"{source}_x", bars.x)
        self._add(f"{source}_y", bars.y)
        self._add(f"{source}_weights", bars.weights)

    def _add(self, key: str, term: Tensor | None) -> None:
        if term is not None and key in self._views:
            self._views[key].add_(term)


def rate_row(rate: Tensor, step: int) -> Tensor:
    """The row of a rate [S, ...] that `step` reads: the last one serves all steps from there."""
    return rate[min(step, len(rate) - 1)]

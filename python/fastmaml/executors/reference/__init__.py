"""The reference executor: the specification of every op, loss and of the inner loop itself.

Plain PyTorch without autograd, in any dtype and on any device, task by task. Other executors
are read, and tested, against this one: `network` looks up the four functions of each op,
`objective` puts a loss on top, `inner_loop` is the recursion.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor

from ...program import (
    INPUT,
    Cotangents,
    InnerLoop,
    Inputs,
    Loss,
    ModuleProgram,
    Outputs,
    Program,
)
from ..passes import LossPasses, LossPoint, Passes, Point
from .inner_loop import Task, TaskGradients
from .loss import rules_of
from .network import Network
from .rules import Draw

__all__ = ["hvp", "loss_passes", "passes", "refusal", "run"]


def refusal(loop: InnerLoop, inputs: Inputs) -> str | None:
    """Why this call cannot run here, or None: the reference runs every traced model."""
    if isinstance(loop.program, ModuleProgram):
        return f"it runs traced models: {loop.program.why}"
    if loop.memory_budget is not None:
        return "it keeps to no memory_budget"
    return None


@torch.no_grad()
def run(
    loop: InnerLoop,
    inputs: Inputs,
    *,
    adapted: bool = False,
    cotangents: Cotangents | None = None,
    wanted: Set[str] = frozenset(),
) -> Outputs:
    """Run the inner loop of every task.

    Args:
        loop: what to run.
        inputs: on what; checked by the caller.
        adapted: whether to return the adapted parameters.
        cotangents: the derivatives of an outer scalar by the outputs; None: no gradients.
        wanted: keys of the inputs whose gradients to return, zero where nothing reaches them.
    """
    program, query = loop.program, inputs.query
    initial = dict(inputs.tensors(program))
    gradients = {key: torch.zeros_like(initial[key]) for key in wanted if cotangents is not None}
    task_loss = prediction = None
    if query is not None:
        prediction = query.x.new_zeros(*query.x.shape[:2], *program.values[program.output])
        if query.y is not None:
            task_loss = query.x.new_zeros(inputs.tasks)
    phi: list[list[Tensor]] = []
    for index in range(inputs.tasks):
        task = Task(loop, inputs, index)
        trajectory = task.run()
        phi.append(trajectory.parameters[-1])
        if prediction is not None:
            prediction[index, : len(task.query.x)] = task.prediction(trajectory)
        if task_loss is not None:
            task_loss[index] = task.task_loss(trajectory)
        if gradients:
            task.adjoint(trajectory, cotangents, TaskGradients(task, inputs, gradients))
    return Outputs(task_loss, prediction, _adapted(loop, phi) if adapted else None, gradients)


@torch.no_grad()
def hvp(
    loop: InnerLoop, inputs: Inputs, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """H u per task, H the Hessian of the support loss by the adapted slots at phi_0.

    Args:
        loop: whose program, loss and adapted slots count.
        inputs: whose initial parameters and support count.
        vectors: u, one a slot, [T, *shape]; None where a slot is not adapted.
    """
    products: list[list[Tensor]] = []
    for index in range(inputs.tasks):
        task = Task(loop, inputs, index)
        u = [
            torch.zeros_like(parameter) if vector is None else vector[index]
            for parameter, vector in zip(task.initial, vectors, strict=True)
        ]
        products.append(task.support.gradient_jvp(task.initial, 0, u).parameters)
    return _adapted(loop, products)


@torch.no_grad()
def passes(
    program: Program, point: Point, *, seed: int = 0, task: int = 0, pass_index: int = 0
) -> Passes:
    """The four passes of a program for one task, with the dropout masks of the given pass."""
    network = Network(program, Draw(seed, task, pass_index))
    primal = network.forward(point.x, point.parameters)
    bars = network.backward(primal, point.y_bar)
    dots = network.forward_jvp(primal, point.x_dot, point.parameter_dots)
    bar_dots = network.backward_jvp(primal, dots, bars, point.y_bar_dot)
    return Passes(
        y=primal.values[program.output],
        x_bar=bars.values[INPUT],
        parameter_bars=tuple(bars.parameters),
        y_dot=dots.values[program.output],
        x_bar_dot=bar_dots.values[INPUT],
        parameter_bar_dots=tuple(bar_dots.parameters),
    )


@torch.no_grad()
def loss_passes(loss: Loss, point: LossPoint) -> LossPasses:
    """The four functions of a loss for one task."""
    rules = rules_of(loss)
    prediction, target, weights, dot = (
        point.prediction,
        point.target,
        point.weights,
        point.prediction_dot,
    )
    prediction_bar, target_bar = rules.backward(prediction, target, weights)
    prediction_bar_dot, target_bar_dot = rules.backward_jvp(prediction, target, weights, dot)
    return LossPasses(
        sample_loss=rules.forward(prediction, target),
        prediction_bar=prediction_bar,
        target_bar=target_bar,
        sample_loss_dot=rules.forward_jvp(prediction, target, dot),
        prediction_bar_dot=prediction_bar_dot,
        target_bar_dot=target_bar_dot,
    )


def _adapted(loop: InnerLoop, tasks: list[list[Tensor]]) -> tuple[Tensor | None, ...]:
    """[T, *shape] a slot from one list of slots a task; None where a slot is not adapted."""
    return tuple(
        torch.stack([slots[slot] for slots in tasks]) if adapted else None
        for slot, adapted in enumerate(loop.adapted)
    )

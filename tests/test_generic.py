"""The generic executor: any module against a recorded loop in float64."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable
from typing import Any

import fastmaml as fm
import pytest
import torch
from fastmaml import functional
from fastmaml.executors import generic
from fastmaml.executors.generic import trial
from generic_models import (
    Attention,
    ControlFlow,
    Named,
    NewSquare,
    NoForwardMode,
    OldSquare,
    Recurrent,
    SoftDecisionTree,
    Squared,
    Tied,
    WeightNorm,
    as_module,
    conv_net,
    gaussian,
)
from oracle import errors, oracle
from plain_loop import plain_loop
from programs import random_case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, weight_norm

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
    pytest.mark.filterwarnings("error::fastmaml.DerivativeWarning"),
]

T, N, M = 3, 4, 5
FAST, GRAD_OF_GRAD, JVP, SLOW = (gear.name for gear in generic.GEARS)
TIMED = trial.seconds_a_task


class Case:
    """A model, the shape of a sample, and the gear that should run it."""

    def __init__(
        self,
        model: Callable[[], nn.Module],
        sample: tuple[int, ...],
        gear: str,
        loss: Any = F.mse_loss,
        *,
        tokens: bool = False,
        training: bool = True,
    ) -> None:
        self.model, self.sample, self.gear, self.loss = model, sample, gear, loss
        self.tokens, self.training = tokens, training

    def make(self) -> tuple[nn.Module, list[Tensor]]:
        torch.manual_seed(0)
        model = self.model().double().train(self.training)
        data = []
        for count in (N, M):
            shape = (T, count, *self.sample)
            x = torch.randint(7, shape) if self.tokens else torch.randn(shape).double()
            data += [x, torch.randn(T, count, 2).double()]
        return model, data


CASES = {
    "GRU": Case(lambda: Recurrent(nn.GRU), (3, 3), FAST),
    "LSTM": Case(lambda: Recurrent(nn.LSTM), (3, 3), FAST),
    "attention": Case(Attention, (3, 4), FAST),
    "attention in evaluation": Case(Attention, (3, 4), FAST, training=False),
    "attention with weights": Case(lambda: Attention(need_weights=True), (3, 4), FAST),
    "transformer": Case(
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
            nn.Flatten(), nn.Linear(12, 2),
        ), (3, 4), FAST, training=False,
    ),
    "weight_norm": Case(lambda: parametrizations.weight_norm(nn.Linear(3, 2)), (3,), FAST),
    "weight_norm as a hook": Case(
        lambda: nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)), (3,), FAST
    ),
    "spectral_norm": Case(
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(),
                              nn.Linear(4, 2)), (3,), GRAD_OF_GRAD,
    ),
    "BatchNorm1d": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Softmax(1), nn.Linear(4, 2)),
        (3,), FAST,
    ),
    "BatchNorm2d": Case(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(),
                              nn.Linear(8, 2)), (1, 3, 3), FAST,
    ),
    "InstanceNorm": Case(
        lambda: nn.Sequential(nn.Conv1d(1, 3, 2), nn.InstanceNorm1d(3, True, True), nn.Flatten(),
                              nn.Linear(9, 2)), (1, 4), FAST,
    ),
    "soft decision tree": Case(SoftDecisionTree, (3,), FAST),
    "an old Function": Case(lambda: Squared(OldSquare), (3,), SLOW),
    "a new Function": Case(lambda: Squared(NewSquare), (3,), FAST),
    "a new Function without jvp": Case(lambda: Squared(NoForwardMode), (3,), GRAD_OF_GRAD),
    "tied weights": Case(Tied, (3,), FAST),
    "control flow": Case(ControlFlow, (3, 3), FAST),
    "a dict": Case(Named, (3,), FAST, gaussian),
    "convolutions": Case(conv_net, (1, 6, 6), FAST),
    "embedding": Case(
        lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(9, 2)), (3,), FAST,
        tokens=True,
    ),
}  # fmt: skip


def plain_gradients(
    model: nn.Module, data: list[Tensor], leaves: list[Tensor], own: dict[str, Tensor] | None,
    **options: Any,
) -> tuple[Tensor, Any, list[Tensor]]:  # fmt: skip
    """Task losses, prediction and gradients of a recorded loop, task by task."""
    losses, predictions = [], []
    for task in range(T):
        one = [tensor[task : task + 1] for tensor in data]
        start = None if own is None else {name: p[task] for name, p in own.items()}
        # the other kernels of attention have no second derivative, and weight_norm's is wrong
        with sdpa_kernel(SDPBackend.MATH), WeightNorm():
            loss, prediction, _ = plain_loop(model, one[:2], one[2:], parameters=start, **options)
        losses.append(loss)
        predictions.append(prediction)
    task_loss = torch.cat(losses)
    found = torch.autograd.grad(task_loss.mean(), leaves, materialize_grads=True, allow_unused=True)
    return task_loss, predictions, found


def warned(name: str) -> contextlib.AbstractContextManager[object]:
    """spectral_norm takes singular vectors for constants in training: its second derivatives are
    not those of what it computes, in PyTorch and here."""
    if name == "spectral_norm":
        return pytest.warns(fm.DerivativeWarning)
    return contextlib.nullcontext()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("is_own", [False, True], ids=["shared", "own"])
def test_meta_gradients_are_those_of_a_recorded_loop(name: str, is_own: bool):
    case = CASES[name]
    model, data = case.make()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    own = None
    if is_own:
        own = {
            name: torch.stack([p.detach() + 0.1 * task for task in range(T)]).requires_grad_()
            for name, p in model.named_parameters()
        }
    leaves = list(model.parameters() if own is None else own.values())
    if not case.tokens:
        leaves += [data[0].requires_grad_(), data[2].requires_grad_()]
    for steps in range(6):
        options = {"lr": 0.1, "steps": steps, "loss": case.loss}
        task_loss, _, exact = plain_gradients(model, data, leaves, own, **options)
        with warned(name if steps == 1 else ""):
            out = functional.meta_loss(model, *data, parameters=own, backend="generic", **options)
        found = torch.autograd.grad(out.loss, leaves, materialize_grads=True, allow_unused=True)
        torch.testing.assert_close(out.task_loss, task_loss, rtol=1e-9, atol=1e-12)
        scale = max(float(gradient.abs().max()) for gradient in exact)
        for actual, expected in zip(found, exact, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10 * scale)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_the_first_gear_that_is_right_runs(name: str):
    case = CASES[name]
    model, data = case.make()
    maml = fm.MAML(model, 0.1, 2, loss=case.loss, backend="generic")
    with warned(name):
        maml(*data).loss.backward()
    gear, *passed_over = re.split("; not in ", str(maml.plan(data[0], data[2])).split("\n")[0])
    assert gear.endswith(f"generic: asked for by name, in {case.gear}")
    wrong = {each.split(": ")[0] for each in passed_over if "times as long" not in each}
    order = (FAST, GRAD_OF_GRAD, JVP, SLOW)
    assert wrong >= set(order[: order.index(case.gear)])


@pytest.mark.parametrize("fastest", generic.GEARS, ids=lambda gear: gear.name)
def test_the_fastest_of_the_gears_that_are_right_runs(monkeypatch, fastest):
    def seconds(gears, *_):
        return {gear: 1.0 + (gear is not fastest) for gear in gears}

    monkeypatch.setattr(trial, "seconds_a_task", seconds)
    model, data = CASES["tied weights"].make()
    maml = fm.MAML(model, 0.1, 2, loss=F.mse_loss, backend="generic")
    maml(*data).loss.backward()
    said = str(maml.plan(data[0], data[2])).split("\n")[0]
    assert f"in {fastest.name}; not in" in said
    assert said.count("it takes 2.0 times as long") == 3


def test_the_time_of_a_task_is_shared_by_those_of_a_chunk(monkeypatch):
    def seconds(gear, run, order, arguments, axes):
        return 1.0 if axes is None else {1: 1.0, 2: 1.25}[len(arguments[2]["task"])]

    monkeypatch.setattr(trial, "_seconds", seconds)
    gears = batched, alone = generic.GEARS[0], generic.GEARS[-1]
    few, axes = ({}, {}, {"task": torch.arange(2)}), ({}, {}, {"task": 0})
    assert TIMED(gears, None, 2, few, axes, 3) == {batched: 0.25 + 0.75 / 3, alone: 1.0}
    assert TIMED(gears, None, 2, few, axes, 1) == {batched: 1.0, alone: 1.0}


def test_a_busy_moment_does_not_choose_the_gear(monkeypatch):
    calls = itertools.count()

    def seconds(gear, *_):
        return 100.0 if next(calls) < 4 else gear.is_batched + 1.0

    monkeypatch.setattr(trial, "_seconds", seconds)
    gears = generic.GEARS[0], generic.GEARS[-1]
    few, axes = ({}, {}, {"task": torch.arange(2)}), ({}, {}, {"task": 0})
    assert TIMED(gears, None, 2, few, axes, 1) == {gears[0]: 2.0, gears[1]: 1.0}


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_random_programs_agree_with_autograd(start: int):
    """As modules, they lead to what they lead to as programs: dropout's masks included."""
    for seed in range(start, start + 20):
        loop, inputs, cotangents, wanted = random_case(seed)
        exact = oracle(loop, inputs, cotangents, wanted)
        as_it_is, _module = as_module(loop, inputs)
        actual = generic.run(as_it_is, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
        found = errors(loop.program, actual, exact)
        assert all(error <= 1e-9 for error in found.values()), (seed, found)

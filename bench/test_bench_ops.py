"""The speed of each op and of each loss, its four functions together, in each executor.

Run `python -m pytest bench --benchmark-enable`. One task of 64 samples, so that what a call costs
beside its arithmetic is in the figures of small ops.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from fastmaml.executors import native, reference
from fastmaml.executors.passes import LossPoint, Point
from fastmaml.nn import Sin
from fastmaml.program import Loss, Program, trace
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

SAMPLES, FEATURES = 64, 256


class Residual(nn.Module):
    """x + x / 2: the ops add and scale."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * x


MODULES: dict[str, nn.Module] = {
    "linear": nn.Linear(FEATURES, 128),
    "linear 784-256": nn.Linear(784, 256),
    "linear 40-40": nn.Linear(40, 40),
    "batch_norm": nn.BatchNorm1d(FEATURES, track_running_stats=False),
    "layer_norm": nn.LayerNorm(FEATURES),
    "rms_norm": nn.RMSNorm(FEATURES),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "elu": nn.ELU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "sin": Sin(),
    "dropout": nn.Dropout(0.1),
    "add and scale": Residual(),
}
LOSSES = {
    "mse": Loss("mse"),
    "cross_entropy": Loss("cross_entropy"),
    "cross_entropy smoothed": Loss("cross_entropy", label_smoothing=0.1),
    "bce_with_logits": Loss("bce_with_logits"),
}


@pytest.fixture(params=[native, reference], ids=["native", "reference"])
def executor(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def features_of(module: nn.Module) -> int:
    return module.in_features if isinstance(module, nn.Linear) else FEATURES


def point_of(program: Program) -> Point:
    x = torch.randn(SAMPLES, *program.values[0])
    y = torch.randn(SAMPLES, *program.values[program.output])
    # small weights, so that float32 can be compared with float64
    parameters = tuple(0.1 * torch.randn(slot.shape) for slot in program.slots)
    dots = tuple(torch.randn_like(parameter) for parameter in parameters)
    return Point(x, parameters, torch.randn_like(x), dots, y, torch.randn_like(y))


@pytest.mark.parametrize("name", MODULES)
def test_op(name: str, executor: ModuleType, benchmark: BenchmarkFixture) -> None:
    benchmark.group = name
    module = MODULES[name]
    program = trace(module, (features_of(module),))
    point = point_of(program)
    passes = benchmark(executor.passes, program, point)
    expected = reference.passes(program, doubled(point))
    for result in ("y", "x_bar", "y_dot", "x_bar_dot"):
        close(getattr(passes, result), getattr(expected, result))
    for result in ("parameter_bars", "parameter_bar_dots"):
        for mine, theirs in zip(getattr(passes, result), getattr(expected, result), strict=True):
            close(mine, theirs)


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name: str, executor: ModuleType, benchmark: BenchmarkFixture) -> None:
    benchmark.group = name
    loss = LOSSES[name]
    prediction = torch.randn(SAMPLES, FEATURES)
    labels = torch.randint(FEATURES, (SAMPLES,))
    target = labels if loss.kind == "cross_entropy" else torch.rand(SAMPLES, FEATURES)
    weights = torch.full((SAMPLES,), 1 / SAMPLES)
    point = LossPoint(prediction, target, weights, torch.randn_like(prediction))
    passes = benchmark(executor.loss_passes, loss, point)
    expected = reference.loss_passes(loss, doubled(point))
    for result in ("sample_loss", "prediction_bar", "sample_loss_dot", "prediction_bar_dot"):
        close(getattr(passes, result), getattr(expected, result))


def doubled(value: Any) -> Any:
    """A point in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(map(doubled, value))
    return type(value)(**{name: doubled(part) for name, part in vars(value).items()})


def close(mine: Tensor, theirs: Tensor) -> None:
    """To float32's roundings of sums."""
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max() + 1e-6

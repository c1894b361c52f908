"""The workloads: a model, an inner loop, and the tasks' samples. Random, but the same each time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from fastmaml.nn import Sin
from torch import Tensor, nn


@dataclass(frozen=True)
class Workload:
    """T tasks of n support and m query samples, K inner steps of SGD on a model.

    The models are nn.Sequential of Linear, activations and BatchNorm1d: what every contender,
    JAX too, can be given.
    """

    name: str
    what: str
    layers: Callable[[], list[nn.Module]]
    features: int
    """Of a sample."""
    outputs: int
    """Of a prediction."""
    tasks: int
    steps: int
    support: int
    query: int
    lr: float
    loss: str
    """"mse" or "cross_entropy"."""

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Sequential:
        """The model, of the same initial parameters whatever the dtype."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(*self.layers()).to(dtype)

    def samples(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """support x [T, n, features], support y, query x [T, m, features], query y.

        Targets are labels [T, n] of cross_entropy, and [T, n, outputs] of mse.
        """
        random = torch.Generator().manual_seed(1)

        def draw(count: int) -> tuple[Tensor, Tensor]:
            x = torch.randn(self.tasks, count, self.features, generator=random)
            if self.loss == "cross_entropy":
                return x.to(dtype), torch.randint(
                    self.outputs, (self.tasks, count), generator=random
                )
            # a sine of the sum of the features, with the task's own amplitude and phase
            amplitude = 0.1 + 4.9 * torch.rand(self.tasks, 1, self.outputs, generator=random)
            phase = torch.pi * torch.rand(self.tasks, 1, self.outputs, generator=random)
            return x.to(dtype), (amplitude * torch.sin(x.sum(-1, keepdim=True) + phase)).to(dtype)

        return *draw(self.support), *draw(self.query)


def _mlp(
    *widths: int, activation: Callable[[], nn.Module], batch_norm: bool = False
) -> list[nn.Module]:
    *hidden, outputs = widths
    layers: list[nn.Module] = []
    for width, out in itertools.pairwise(hidden):
        layers.append(nn.Linear(width, out))
        if batch_norm:
            layers.append(nn.BatchNorm1d(out, track_running_stats=False))
        layers.append(activation())
    return [*layers, nn.Linear(hidden[-1], outputs)]


def _siren(*widths: int) -> list[nn.Module]:
    """Initialised as in section 3.2 of Sitzmann et al. 2020, with omega_0 = 30."""
    layers = _mlp(*widths, activation=Sin)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            bound = 1 / layer.in_features if index == 0 else (6 / layer.in_features) ** 0.5 / 30
            nn.init.uniform_(layer.weight, -bound, bound)
    return layers


def _sine(name: str, what: str, tasks: int, steps: int) -> Workload:
    return Workload(
        name,
        what,
        lambda: _mlp(1, 40, 40, 1, activation=nn.ReLU),
        features=1,
        outputs=1,
        tasks=tasks,
        steps=steps,
        support=10,
        query=10,
        lr=0.01,
        loss="mse",
    )


def _anil(name: str, what: str, tasks: int) -> Workload:
    return Workload(
        name,
        what,
        lambda: [nn.Linear(640, 5)],
        features=640,
        outputs=5,
        tasks=tasks,
        steps=5,
        support=25,
        query=75,
        lr=0.01,
        loss="cross_entropy",
    )


def _omniglot(name: str, what: str, batch_norm: bool) -> Workload:
    return Workload(
        name,
        what,
        lambda: _mlp(784, 256, 128, 64, 64, 5, activation=nn.ReLU, batch_norm=batch_norm),
        features=784,
        outputs=5,
        tasks=32,
        steps=5,
        support=5,
        query=75,
        lr=0.1,
        loss="cross_entropy",
    )


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        _sine("sine", "1-40-40-1, 10+10 samples, 25 tasks, 1 step", 25, 1),
        _sine("sine5", "sine with 5 steps", 25, 5),
        _sine("sine1k", "sine with 1000 tasks and 5 steps", 1000, 5),
        Workload(
            "regress200",
            "20-64-64-6 tanh, 200+200 samples, 40 tasks, 1 step",
            lambda: _mlp(20, 64, 64, 6, activation=nn.Tanh),
            features=20,
            outputs=6,
            tasks=40,
            steps=1,
            support=200,
            query=200,
            lr=0.1,
            loss="mse",
        ),
        _anil("anil", "linear head 640-5, 25+75 samples, 32 tasks, 5 steps", 32),
        _anil("anil1k", "anil with 1000 tasks", 1000),
        _omniglot("omnimlp", "784-256-128-64-64-5, 5+75 samples, 32 tasks, 5 steps", False),
        _omniglot("omnimlpbn", "omnimlp with BatchNorm", True),
        Workload(
            "siren",
            "2-256-256-256-256-3 sin, 1024+1024 samples, 3 tasks, 2 steps",
            lambda: _siren(2, 256, 256, 256, 256, 3),
            features=2,
            outputs=3,
            tasks=3,
            steps=2,
            support=1024,
            query=1024,
            lr=1e-4,
            loss="mse",
        ),
    )
}


def named(name: str) -> Workload:
    """A workload by its name, with another number of tasks where that says so: "sine5:100".

    Raises:
        KeyError: there is no such workload.
    """
    base, _, tasks = name.partition(":")
    workload = WORKLOADS[base]
    if not tasks:
        return workload
    return replace(workload, name=name, what=f"{base} with {tasks} tasks", tasks=int(tasks))


NOT_YET: dict[str, str] = {
    "omniconv": "Conv4, 64 filters: there is no convolution yet",
    "miniconv": "Conv4, 32 filters, 84x84x3: there is no convolution yet",
}
"""Workloads that fastmaml cannot run."""

WARM_UP = Workload(
    "warm-up",
    "the least of a workload, to load and start what is loaded lazily",
    lambda: [nn.Linear(1, 1)],
    features=1,
    outputs=1,
    tasks=1,
    steps=1,
    support=1,
    query=1,
    lr=0.1,
    loss="mse",
)

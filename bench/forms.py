"""How well the native executor chooses between the forms of a layer: `python -m bench.forms`.

Sweeps a layer's widths, the samples and the steps, times a meta-gradient in each form, tasks one by
one, and compares the form that the cost model takes with the fastest one. Writes forms.json and
forms.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib
import torch
from fastmaml.executors import native
from fastmaml.executors.native import forms
from fastmaml.program import Cotangents, InnerLoop, Inputs, Loss, Samples, trace
from rich.progress import track
from torch import nn

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from . import machine

GRID = {
    "inputs": (8, 32, 64, 128, 256, 640, 784, 1500),
    "outputs": (5, 16, 40, 64, 128, 256),
    "support": (1, 5, 10, 25, 50, 100),
    "query": (5, 15, 75),
    "steps": (1, 3, 5, 10, 20),
}
LARGEST = 6e7
"""Multiply-adds of a pass that is still worth the wait."""
TASKS = 4
ROUNDS = 20
FORMS: tuple[forms.Form, ...] = ("dense", "dual", "folded")


class Point(NamedTuple):
    """A layer `inputs`-`outputs`, tanh and a small head on `support` + `query` samples."""

    inputs: int
    outputs: int
    support: int
    query: int
    steps: int


class Timed(NamedTuple):
    """A point, the form that is chosen, the seconds that a task takes in each, and those that the
    model predicts of the layer alone."""

    point: Point
    chosen: forms.Form
    seconds: dict[forms.Form, float]
    predicted: dict[forms.Form, float]

    @property
    def loss(self) -> float:
        """How much longer the chosen form takes than the fastest one."""
        return self.seconds[self.chosen] / min(self.seconds.values()) - 1

    @property
    def gain(self) -> float:
        """How much longer the dense form takes than the chosen one."""
        return self.seconds["dense"] / self.seconds[self.chosen]


def points(count: int, seed: int) -> list[Point]:
    """Some of the grid, at random."""
    every = [
        point
        for point in map(Point._make, itertools.product(*GRID.values()))
        if point.inputs * point.outputs * (point.support * point.steps + point.query) < LARGEST
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def time_forms(point: Point) -> Timed:
    """A meta-gradient in all forms, in turns; the shortest time of each."""
    widths = (point.inputs, point.outputs, 3)
    model = nn.Sequential(nn.Linear(*widths[:2]), nn.Tanh(), nn.Linear(*widths[1:]))
    program = trace(model, (point.inputs,))
    loop = InnerLoop(program, Loss("mse"), (True,) * len(program.slots), point.steps)
    support, query = (
        Samples(torch.randn(TASKS, n, point.inputs), torch.randn(TASKS, n, 3))
        for n in (point.support, point.query)
    )
    rates = tuple(torch.full((1,), 0.01) for _ in program.slots)
    inputs = Inputs(tuple(model.parameters()), rates, support, query)
    (layer,) = native.layers(loop, inputs)
    mean = Cotangents(task_loss=torch.full((TASKS,), 1 / TASKS))
    wanted = frozenset(f"parameter:{slot.name}" for slot in program.slots)
    recipes = {}
    for form in FORMS:
        with forced(form):
            recipes[form] = native.recipe(loop, inputs, cotangents=mean, wanted=wanted)
    shortest = dict.fromkeys(recipes, float("inf"))
    tensors = inputs.flat()
    for _ in range(1 + ROUNDS):
        for form, recipe in recipes.items():
            start = time.perf_counter()
            recipe.run(tensors, 0, mean)
            shortest[form] = min(shortest[form], time.perf_counter() - start)
    seconds = {form: shortest[form] / TASKS for form in FORMS}
    predicted = {form: layer.costs[form].seconds for form in FORMS}
    return Timed(point, layer.form, seconds, predicted)


@contextmanager
def forced(form: str) -> Iterator[None]:
    """Every layer in this form."""
    forms.FORCED = form
    try:
        yield
    finally:
        forms.FORCED = None


def draw(timed: Sequence[Timed], cpu: str, path: Path) -> None:
    """A PNG: the time of one form over that of another, as predicted and as measured."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    steps = [t.point.steps for t in timed]
    for panel, (a, b) in zip(panels, (("dense", "dual"), ("dual", "folded")), strict=True):
        predicted = [t.predicted[a] / t.predicted[b] for t in timed]
        measured = [t.seconds[a] / t.seconds[b] for t in timed]
        dots = panel.scatter(predicted, measured, c=steps, s=12, cmap="viridis", norm="log")
        panel.axvline(1, color="0.5", lw=1)
        panel.axhline(1, color="0.5", lw=1)
        panel.set(xscale="log", yscale="log")
        corner = {"transform": panel.transAxes, "va": "top"}
        panel.text(0.02, 0.98, f"{a} is preferred, {b} is faster", **corner)
        panel.text(0.98, 0.05, f"{b} is preferred, {a} is faster", ha="right", **corner)
        panel.set_xlabel(f"{a} over {b} as the cost model has them, of the layer alone")
        panel.set_ylabel(f"{a} over {b} as measured, of a whole meta-gradient")
    figure.colorbar(dots, label="inner steps", ticks=GRID["steps"], format="%d")
    figure.suptitle(f"The form of a layer: {len(timed)} shapes, one thread of {cpu}", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.forms", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many shapes of the grid")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--out", type=Path, default=Path("bench/results/forms"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["FASTMAML_LOCKSTEP"] = "0"  # which is for dense layers alone
    described = machine.describe("cpu", (0,))
    every = points(options.count, options.seed)
    timed = [time_forms(point) for point in track(every, "shapes")]
    losses = sorted(each.loss for each in timed)
    within = sum(loss <= 0.1 for loss in losses) / len(losses)
    gains = [t.gain for t in timed if t.chosen != "dense"]
    summary = {
        "within 10% of the fastest form": round(within, 4),
        "worst": round(losses[-1], 3),
        "chosen": {form: sum(t.chosen == form for t in timed) for form in FORMS},
        "median gain where dense is not chosen": round(median(gains), 2) if gains else None,
        "largest gain": round(max(gains), 2) if gains else None,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [
        [*each.point, each.chosen, *each.seconds.values(), *each.predicted.values()]
        for each in timed
    ]
    columns = [*Point._fields, "chosen", *FORMS, *(f"predicted_{form}" for form in FORMS)]
    found = {"machine": described, "summary": summary, "columns": columns, "rows": rows}
    (options.out / "forms.json").write_text(json.dumps(found) + "\n")
    draw(timed, described["cpu"], options.out / "forms.png")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()

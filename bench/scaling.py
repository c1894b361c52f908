"""How the time of a meta-gradient grows with tasks and steps: `python -m bench.scaling OUT`.

Forward and backward through the public interface, in float32. Writes scaling.json and scaling.png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from . import machine, picture, report
from .compare import Result
from .contenders import fastmaml
from .step import time_calls
from .workloads import WORKLOADS, Workload

COUNTS = {
    "tasks": (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000),
    "steps": (1, 2, 5, 10, 20, 50, 100),
}
SWEPT = {
    "tasks": ("sine5", "anil", "omnimlp"),  # sine1k is on the line of sine5
    "steps": ("sine5", "sine1k", "anil", "omnimlp"),
}
ROUNDS = 5
MOST_CALLS_A_ROUND = 200


class Straight(NamedTuple):
    """Seconds of a meta-gradient as fixed + each * count."""

    fixed: float
    each: float
    deviation: float
    """Of the point that is farthest from it, in parts of that point's seconds."""


@dataclass
class Line:
    """A workload with its tasks or its steps varied, and all else as it has it."""

    workload: Workload
    varied: str
    """"tasks" or "steps"."""
    counts: Sequence[int]
    """Of them, from few to many."""
    results: list[Result] = field(default_factory=list)
    """Of each count."""

    @property
    def seconds(self) -> list[float]:
        """Of a meta-gradient, for each count."""
        return [result.median for result in self.results]

    @property
    def exponent(self) -> float:
        """The slope of a line through the logarithms of the upper half: 1 if proportional."""
        counts, seconds = map(np.log, self._upper_half())
        return statistics.linear_regression(counts, seconds).slope

    @property
    def straight(self) -> Straight:
        """The line from which the upper half is off least, each point by a part of its seconds."""
        counts, seconds = self._upper_half()
        parts = np.stack([1 / seconds, counts / seconds], axis=1)
        (fixed, each), *_ = np.linalg.lstsq(parts, np.ones(len(counts)))
        deviation = np.abs(parts @ (fixed, each) - 1).max()
        return Straight(float(fixed), float(each), float(deviation))

    def _upper_half(self) -> tuple[np.ndarray, np.ndarray]:
        upper = (len(self.counts) - 1) // 2
        return np.array(self.counts[upper:], float), np.array(self.seconds[upper:])

    @property
    def label(self) -> str:
        """The workload and what is fixed."""
        fixed = "steps" if self.varied == "tasks" else "tasks"
        return f"{self.workload.name}, {getattr(self.workload, fixed)} {fixed}"

    @property
    def summary(self) -> str:
        """How it grows, in a line."""
        straight = self.straight
        return (
            f"{self.label}: {self.varied}^{self.exponent:.2f}, "
            f"{report.duration(straight.each)} for each, within {straight.deviation:.0%}"
        )


def measure(line: Line, seconds: float, say: Callable[[str], None]) -> None:
    """Times all points of a line in turn: in rounds, there and back.

    Args:
        seconds: what the timed calls of a point may take, about; each round makes one at least.
        say: is told what happens now, once a point and round.
    """
    device = torch.device("cpu")
    steps, first_calls = [], []
    for count in line.counts:
        say(f"{line.label}: first call with {count} {line.varied}")
        workload = replace(line.workload, **{line.varied: count})
        steps.append(fastmaml(workload, device, torch.float32))
        first_calls += time_calls(steps[-1], 1)
    line.results = [Result() for _ in steps]
    points = list(zip(line.counts, steps, first_calls, line.results, strict=True))
    for turn in range(ROUNDS):
        for count, step, first_call, result in points if turn % 2 == 0 else reversed(points):
            say(f"{line.label}: {count} {line.varied}, round {turn + 1} of {ROUNDS}")
            calls = int(seconds / ROUNDS / (result.median or first_call))
            result.rounds.append(time_calls(step, min(max(1, calls), MOST_CALLS_A_ROUND)))


def draw(lines: Sequence[Line], described: dict[str, Any], path: Path) -> None:
    """A PNG: the time of a meta-gradient over tasks and over steps, and what is proportional."""
    figure, panels = plt.subplots(1, len(COUNTS), figsize=(9.5, 4.2), layout="constrained")
    for panel, varied in zip(panels, COUNTS, strict=True):
        _draw_panel(panel, [line for line in lines if line.varied == varied])
        panel.set_xlabel(varied, fontsize=8)
    panels[0].set_ylabel("ms a meta-gradient", fontsize=8)
    figure.supxlabel(picture.where(described), fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(panel: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        panel.plot(
            line.counts,
            [1e3 * seconds for seconds in line.seconds],
            "o-",
            color=f"C{list(WORKLOADS).index(line.workload.name)}",
            markersize=3,
            linewidth=1.2,
            label=f"{line.label}: exponent {line.exponent:.2f}",
        )
    most = max(line.counts[-1] for line in lines)
    least = 0.5e3 * min(line.seconds[-1] / line.counts[-1] for line in lines)  # below all lines
    panel.plot([1, most], [least, least * most], "--", color="0.5", lw=1, label="slope 1")
    panel.set(xscale="log", yscale="log")
    panel.grid(linewidth=0.3)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=7, frameon=False)


def as_json(lines: Sequence[Line], described: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, for json.dump."""
    return {
        "machine": described,
        "lines": [
            {
                "workload": line.workload.name,
                "what": line.label,
                "varied": line.varied,
                "exponent": line.exponent,
                "straight": line.straight._asdict(),
                "counts": list(line.counts),
                "seconds": line.seconds,
                "seconds, by round": [result.medians for result in line.results],
                "calls": [result.calls for result in line.results],
            }
            for line in lines
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes JSON and a picture."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    cores = tuple(sorted(os.sched_getaffinity(0)))[: options.threads]
    described = machine.describe("cpu", cores)
    lines = [
        Line(WORKLOADS[name], varied, [n for n in counts if n <= getattr(options, varied)])
        for varied, counts in COUNTS.items()
        for name in SWEPT[varied]
    ]
    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(len(line.counts) for line in lines) * (1 + ROUNDS))
        for line in lines:
            measure(line, options.seconds, lambda s: progress.update(bar, description=s, advance=1))
            console.print(line.summary)
    options.out.mkdir(parents=True, exist_ok=True)
    figures = as_json(lines, described)
    (options.out / "scaling.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(lines, described, options.out / "scaling.png")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder to write to")
    for varied, counts in COUNTS.items():
        parser.add_argument(f"--{varied}", type=int, default=counts[-1], help="the most of them")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timed calls a point")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    for varied, counts in COUNTS.items():
        if getattr(options, varied) < counts[1]:
            parser.error(f"--{varied} must be {counts[1]} or more: one point has no slope")
    return options


if __name__ == "__main__":
    main()

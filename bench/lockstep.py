"""Draws what bench/csrc measured: `lockstep_bench | python -m bench.lockstep OUT.png`."""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

_LINE = re.compile(
    r"\s*(\d+)-\s*(\d+)-\s*\d+-5 n\s+(\d+) steps\s+(\d+)\s+([\d.]+)\s+([\d.]+)\s+[\d.]+\s+(yes|no)"
)


class Point(NamedTuple):
    """A network inputs-hidden-hidden-5 and what a task of it takes."""

    inputs: int
    hidden: int
    samples: int
    steps: int
    one_by_one: float
    """Microseconds."""
    in_lockstep: float
    is_chosen: bool

    @property
    def gain(self) -> float:
        """How many times as fast lockstep is."""
        return self.one_by_one / self.in_lockstep


def read(lines: Iterable[str]) -> list[Point]:
    """The points of a sweep as it was printed."""
    points = []
    for line in lines:
        if match := _LINE.match(line):
            *sizes, one, group, chosen = match.groups()
            points.append(Point(*map(int, sizes), float(one), float(group), chosen == "yes"))
    return points


def draw(points: list[Point], title: str, path: Path, inputs: int = 1, steps: int = 5) -> None:
    """The gain against the samples, a line for each hidden width; filled where it is chosen."""
    lines = defaultdict(list)
    for point in points:
        if (point.inputs, point.steps) == (inputs, steps):
            lines[point.hidden].append(point)
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for hidden, line in sorted(lines.items()):
        samples, gains = [p.samples for p in line], [p.gain for p in line]
        (drawn,) = axes.plot(samples, gains, label=f"{hidden}")
        for fill in (True, False):
            some = [p for p in line if p.is_chosen == fill]
            axes.plot(
                [p.samples for p in some],
                [p.gain for p in some],
                "o",
                color=drawn.get_color(),
                fillstyle="full" if fill else "none",
            )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="samples of the support, and of the query")
    axes.set(ylabel="time one by one / in lockstep", title=title)
    axes.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
    figure.legend(title="hidden width", loc="outside right upper")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.png")
    path = parser.parse_args().out
    text = sys.stdin.read().splitlines()
    draw(read(text), f"1-h-h-5, 5 steps, one thread, {text[0]}; filled: chosen", path)

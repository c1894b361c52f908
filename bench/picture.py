"""The comparison as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from . import report
from .compare import Comparison
from .contenders import CONTENDERS

_COLUMNS = 3


def draw(comparisons: Sequence[Comparison], machine: dict[str, Any], path: Path) -> None:
    """A PNG of bars: how many times as fast as each of the others fastmaml is.

    A panel a workload, a bar a contender, with the quartiles of the rounds.
    """
    others = [
        name
        for name in CONTENDERS
        if name != "fastmaml" and any(name in each.results for each in comparisons)
    ]
    columns = min(_COLUMNS, len(comparisons))
    lines = math.ceil(len(comparisons) / columns)
    figure, panels = plt.subplots(
        lines,
        columns,
        figsize=(1.2 + 3.3 * columns, 1.0 + lines * (0.6 + 0.24 * len(others))),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    highs = [ratio.high for each in comparisons for ratio in each.ratios().values()]
    lows = [ratio.low for each in comparisons for ratio in each.ratios().values()]
    for panel, comparison in zip(panels.flat, comparisons, strict=False):
        _draw_panel(panel, comparison, others)
    for panel in panels.flat[len(comparisons) :]:
        panel.set_axis_off()
    first = panels[0, 0]
    first.set_xscale("log")
    first.set_xlim(min([0.5, *lows]), 4 * max([2.0, *highs]))  # room for the labels
    ticks = [10.0**power for power in range(5) if 10**power < 4 * max([2.0, *highs])]
    first.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    first.set_yticks(range(len(others)), [report.label(name, machine) for name in others])
    first.invert_yaxis()
    figure.supxlabel(
        "time of a meta-gradient, times fastmaml's (the line, and above each panel); whiskers: "
        f"quartiles of the rounds\n{where(machine)}",
        fontsize=8,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_tasks(comparisons: Sequence[Comparison], machine: dict[str, Any], path: Path) -> None:
    """A PNG of lines: the time of a meta-gradient over the number of tasks.

    A panel for what the comparisons have in common but for that number, a line a contender.
    """
    kinds = list(dict.fromkeys(each.workload.name.partition(":")[0] for each in comparisons))
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(0.8 + 4.2 * len(kinds), 3.8), squeeze=False, layout="constrained"
    )
    for panel, kind in zip(panels.flat, kinds, strict=True):
        of_kind = [each for each in comparisons if each.workload.name.partition(":")[0] == kind]
        for name in CONTENDERS:
            points = [
                (each.workload.tasks, 1e3 * result.median)
                for each in of_kind
                if (result := each.results.get(name)) and result.is_right and result.median
            ]
            if points:
                colour = f"C{list(CONTENDERS).index(name)}"
                panel.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3,
                           linewidth=1.2, label=report.label(name, machine))  # fmt: skip
        panel.set_title(kind, fontsize=9, loc="left")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("tasks", fontsize=8)
        panel.grid(linewidth=0.3)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("ms a meta-gradient", fontsize=8)
    panels[0, 0].legend(fontsize=7, frameon=False)
    figure.supxlabel(where(machine), fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def where(machine: dict[str, Any]) -> str:
    """What figures belong to, in a line."""
    processor = machine["gpu"] or f"{machine['threads']} threads of {machine['cpu']}"
    return f"{processor}, torch {machine['versions']['torch']}, commit {machine['commit']}"


def _draw_panel(axes: Axes, comparison: Comparison, others: Sequence[str]) -> None:
    ours = comparison.results.get("fastmaml")
    time = f", {report.duration(ours.median)}" if ours is not None and ours.median else ""
    axes.set_title(f"{comparison.workload.name}{time}", fontsize=9, loc="left")
    axes.axvline(1, color="black", linewidth=0.8)
    for place, name in enumerate(others):
        ratio = comparison.ratios().get(name)
        if ratio is None:
            axes.text(1.1, place, _absence(comparison, name), fontsize=7, va="center", color="gray")
            continue
        colour = f"C{list(CONTENDERS).index(name)}"  # the same whoever else takes part
        axes.barh(place, ratio.median - 1, left=1, height=0.7, color=colour)
        axes.hlines(place, ratio.low, ratio.high, color="black", linewidth=0.8)
        at = 1.1 * max(1.0, ratio.high)
        axes.text(at, place, report.times(ratio.median), fontsize=7, va="center")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _absence(comparison: Comparison, name: str) -> str:
    result = comparison.results.get(name)
    if result is None or result.reason is not None:
        return "did not run"
    return "no ratio" if result.is_right else "wrong gradient"

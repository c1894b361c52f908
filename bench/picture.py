"""The comparison as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from .compare import Comparison
from .contenders import CONTENDERS


def draw(comparisons: Sequence[Comparison], machine: dict[str, Any], path: Path) -> None:
    """A PNG of bars: how many times as fast as each of the others fastmaml is."""
    others = [
        name
        for name in CONTENDERS
        if name != "fastmaml" and any(name in each.results for each in comparisons)
    ]
    figure, axes = plt.subplots(figsize=(4 + 1.2 * len(comparisons), 4.2), layout="constrained")
    width = 0.8 / max(1, len(others))
    for place, name in enumerate(others):
        at = [index + (place + 0.5) * width - 0.4 for index in range(len(comparisons))]
        ratios = [each.ratio(name) if name in each.results else None for each in comparisons]
        axes.bar(at, [ratio or 0 for ratio in ratios], width, label=CONTENDERS[name][0])
        for x, ratio, each in zip(at, ratios, comparisons, strict=True):
            label = f"{ratio:.1f}" if ratio else _absence(each, name)
            axes.text(x, 1.1 * (ratio or 1), label, fontsize=7, rotation=90, ha="center")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), 3 * high)  # room for the labels
    axes.set_xticks(range(len(comparisons)), [each.workload.name for each in comparisons])
    axes.set_ylabel("time of a meta-gradient,\ntimes fastmaml's")
    axes.legend(frameon=False, fontsize=8, ncols=len(others))
    axes.spines[["top", "right"]].set_visible(False)
    where = machine["gpu"] or f"{machine['threads']} threads of {machine['cpu']}"
    figure.supxlabel(f"{where}, torch {machine['versions']['torch']}", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _absence(comparison: Comparison, name: str) -> str:
    result = comparison.results.get(name)
    if result is None or result.reason is not None:
        return "did not run"
    return "no ratio" if result.is_right else "wrong gradient"

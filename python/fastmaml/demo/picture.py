"""The picture of the demo: what the model makes of new letters before and after adapting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..tasks import Episodes
from ..tasks.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = (0.10, 0.11, 0.16)
GREY = "#6b7280"
PAPER = ("#f3f4f6", "#f3f4f6")  # fill and edge
RIGHT = ("#d7f0e6", "#2a9d76")
WRONG = ("#fadfd9", "#d1442e")

MOST_COLUMNS = 15
"""Query images in a row; one of each class where there are more classes."""
IMAGE_INCHES = 0.6

# Lengths in images. The rows of a task, downwards from its top, and where the next one begins:
_NAME, _SUPPORT, _QUERY, _BEFORE, _AFTER, _NEXT = 0.0, 0.35, 2.0, 3.25, 4.3, 6.0
_MARGIN, _HEADER, _GAP = 2.2, 1.9, 0.4


@dataclass(frozen=True)
class Scene:
    """One task, and the classes predicted for its query samples [1, m]."""

    script: str
    episodes: Episodes  # T = 1
    before: Tensor
    after: Tensor


def check_output(path: Path) -> None:
    """Raises, before any work is done, what would keep `draw` from writing to `path`.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: there is no such folder, or no file can be written there.
    """
    require("matplotlib.figure", "the demo")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"output must be in a folder that is there, got {path}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"output must be a file that can be written, got {path}")


def draw(scenes: Sequence[Scene], title: str, subtitle: str, path: Path) -> None:
    """Writes a PNG with the tasks one below another.

    Each class is a group of columns, with its support images on top and its query images in a
    row below. The last two rows show, for each query image, the support image of the class that
    the model holds it to be.
    """
    way = int(scenes[0].episodes.support_y.max()) + 1
    query = scenes[0].episodes.query_y.shape[1] // way
    shown = max(1, min(query, MOST_COLUMNS // way))
    width = _MARGIN + way * (shown + _GAP)
    height = _HEADER + len(scenes) * _NEXT - 0.4
    size = (width * IMAGE_INCHES, height * IMAGE_INCHES)
    figure = require("matplotlib.figure", "the demo").Figure(size, dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.text(0.3 - _MARGIN, 0.75 - _HEADER, title, size=17, weight="bold", color=INK, va="center")
    axes.text(0.3 - _MARGIN, 1.3 - _HEADER, subtitle, size=10.5, color=GREY, va="center")
    for number, scene in enumerate(scenes):
        _draw_scene(axes, scene, number * _NEXT, way, shown)
    axes.set(xlim=(-_MARGIN, width - _MARGIN), ylim=(height - _HEADER, -_HEADER))
    figure.savefig(path, format="png")


def _draw_scene(axes: Axes, scene: Scene, top: float, way: int, shown: int) -> None:
    support, query = (
        images[0, :, 0].unflatten(0, (way, -1))
        for images in (scene.episodes.support_x, scene.episodes.query_x)
    )
    before, after = (
        classes[0].unflatten(0, (way, -1)).tolist() for classes in (scene.before, scene.after)
    )
    shot = min(support.shape[1], shown)
    side = 1.45 if shot == 1 else 1.0

    def right(predicted: list[list[int]]) -> str:
        hits = sum(row[:shown].count(label) for label, row in enumerate(predicted))
        return f"{hits} of {way * shown}"

    for name, y in (
        (scene.script, _NAME),
        ("support", _SUPPORT + 0.72),
        ("query", _QUERY + 0.5),
        (f"before\n{right(before)}", _BEFORE + 0.5),
        (f"adapted\n{right(after)}", _AFTER + 0.5),
    ):
        weight = "bold" if name == scene.script else "normal"
        axes.text(
            -0.35, top + y, name, size=10.5, color=INK, weight=weight, va="center", ha="right"
        )
    for label in range(way):
        left = label * (shown + _GAP)
        for k in range(shot):
            x = left + shown / 2 + (k - shot / 2) * side
            _draw_image(axes, support[label, k], x, top + _SUPPORT + (1.45 - side) / 2, side)
        for q in range(shown):
            _draw_image(axes, query[label, q], left + q, top + _QUERY)
            for predicted, y in ((before[label][q], _BEFORE), (after[label][q], _AFTER)):
                colours = RIGHT if predicted == label else WRONG
                _draw_image(axes, support[predicted, 0], left + q, top + y, colours=colours)


def _draw_image(
    axes: Axes,
    image: Tensor,
    x: float,
    y: float,
    side: float = 1.0,
    colours: tuple[str, str] = PAPER,
) -> None:
    """An image [size, size] as ink on a card with its top left corner at (x, y)."""
    patches = require("matplotlib.patches", "the demo")
    fill, edge = colours
    inset = 0.06
    x, y, side = x + inset, y + inset, side - 2 * inset
    card = patches.FancyBboxPatch(
        (x, y), side, side, "round,pad=0,rounding_size=0.1", facecolor=fill, edgecolor=edge, lw=1
    )
    axes.add_patch(card)
    ink = np.empty((*image.shape, 4))
    ink[..., :3] = INK
    ink[..., 3] = image.clamp(0, 1).numpy()
    axes.imshow(ink, extent=(x, x + side, y + side, y), interpolation="bilinear", zorder=2)
    if colours is WRONG:
        corner = (x + side - 0.1, y + 0.1)
        axes.plot(*corner, marker="x", color=edge, markersize=4, markeredgewidth=1.4, zorder=3)

"""Which of the drawn letters become classes, and of which split."""

from __future__ import annotations

from math import prod
from types import MappingProxyType

import numpy as np

from .glyph_rendering import FACES, GlyphImages, script_of

SPLITS = MappingProxyType(
    {
        "train": ("Latin", "Greek"),
        "validation": ("Cyrillic",),
        "test": ("Georgian", "Armenian", "Lao"),
    }
)

FEWEST_FACES = 8
"""Letters with fewer distinct images are no classes."""
EQUAL = 0.05
"""Images nearer than this pass for the same drawing."""
ALIKE = 0.25
"""Images of two splits nearer than this give an unseen class away."""


def split_of(script: str) -> str:
    return next(split for split, scripts in SPLITS.items() if script in scripts)


def select_classes(glyphs: GlyphImages) -> GlyphImages:
    """The images of the letters that become classes.

    Distances are |a - b| / sqrt((|a|^2 + |b|^2) / 2): 0 for equal images, sqrt(2) where no ink
    meets. Letters come in order of split (training, validation, test), script and code point.
    One is left out if in any face it is nearer than `ALIKE` to a class kept before it in
    another split, or than `EQUAL` to one of its own split. So what a later split shares with
    an earlier one leaves the later one, and two labels never mean one drawing. Equal images
    of one letter count once.
    """
    glyphs = _with_enough_faces(glyphs)
    distinct = _distinct_in_class(glyphs)
    glyphs = glyphs.where(np.isin(glyphs.codes, _with_enough_faces(glyphs.where(distinct)).codes))
    codes = np.unique(glyphs.codes)
    kept = codes[_select(codes, _class_distances(glyphs, codes))]
    return glyphs.where(np.isin(glyphs.codes, kept) & _distinct_in_class(glyphs))


def image_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances between images a [m, ...] and b [n, ...] of uint8: [m, n].

    In float64 the sums are sums of integers, hence exact, and the same on every machine.
    """
    a, b = (x.reshape(len(x), prod(x.shape[1:])).astype(np.float64) for x in (a, b))
    energy = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :]
    return np.sqrt(np.maximum(energy - 2 * a @ b.T, 0) / (0.5 * energy))


def _with_enough_faces(glyphs: GlyphImages) -> GlyphImages:
    codes, counts = np.unique(glyphs.codes, return_counts=True)
    return glyphs.where(np.isin(glyphs.codes, codes[counts >= FEWEST_FACES]))


def _distinct_in_class(glyphs: GlyphImages) -> np.ndarray:
    """[n] bool: false for an image that equals an earlier one of the same letter."""
    distinct = np.ones(len(glyphs), dtype=bool)
    boundaries = np.flatnonzero(np.diff(glyphs.codes)) + 1
    for rows in np.split(np.arange(len(glyphs)), boundaries):
        equal = image_distances(glyphs.images[rows], glyphs.images[rows]) < EQUAL
        distinct[rows] = ~np.tril(equal, -1).any(1)
    return distinct


def _class_distances(glyphs: GlyphImages, codes: np.ndarray) -> np.ndarray:
    """The distance of each two letters in the face where they are nearest: [classes, classes]."""
    nearest = np.full((len(codes), len(codes)), np.inf)
    for face in range(len(FACES)):
        rows = np.flatnonzero(glyphs.faces == face)
        classes = np.searchsorted(codes, glyphs.codes[rows])
        block = np.ix_(classes, classes)
        distances = image_distances(glyphs.images[rows], glyphs.images[rows])
        nearest[block] = np.minimum(nearest[block], distances)
    return nearest


def _select(codes: np.ndarray, distances: np.ndarray) -> list[int]:
    """Indices of the letters kept, see `select_classes`."""
    scripts = [script_of(code) for code in codes.tolist()]
    splits = np.array([list(SPLITS).index(split_of(script)) for script in scripts])
    rank = [(splits[i], SPLITS[split_of(scripts[i])].index(scripts[i])) for i in range(len(codes))]
    kept: list[int] = []
    for i in sorted(range(len(codes)), key=lambda i: (*rank[i], codes[i])):
        limit = np.where(splits[kept] == splits[i], EQUAL, ALIKE)
        if not (distances[i, kept] < limit).any():
            kept.append(i)
    return kept

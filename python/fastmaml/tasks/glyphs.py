"""An Omniglot-like data set that needs no download."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch

from ..cache import cache_folder, write_whole
from .dataset import ClassDataset
from .glyph_rendering import FACES, IMAGE_SIZE, GlyphImages, draw_glyphs, script_of
from .glyph_selection import SPLITS, select_classes, split_of
from .progress import Progress, terminal_progress

CACHE_VERSION = 1
"""Raised whenever the drawing or the choice of classes changes."""


class Glyphs(ClassDataset):
    """Letters of six scripts, drawn in the scalable fonts that matplotlib carries.

    A class is a letter, its samples are the faces that have it: 8 to 22 of DejaVu Sans, Serif
    and Mono, STIX and, for ASCII letters, Computer Modern, upright and slanted, regular and
    bold. Nothing is augmented. Drawn once, in seconds, then read from a file in `cache`; drawing
    needs `pip install fastmaml[demo]`.

    The classes, as counted with matplotlib 3.11:

    ==========  =======  ===================================
    split       classes  scripts
    ==========  =======  ===================================
    train         1,174  Latin 906, Greek 268
    validation      118  Cyrillic 118
    test            205  Georgian 119, Armenian 56, Lao 30
    ==========  =======  ===================================

    Scripts share outlines. A letter that looks like one of an earlier split (A of Latin and
    Cyrillic) is left out of the later split, and of two that look the same within a split (A of
    Latin and Greek) the first one stays; `glyph_selection.select_classes` has the distances. In
    one face no validation or test letter is nearer than 0.25 to a letter of an earlier split;
    across different faces the nearest is at 0.22 for validation and at 0.25 for test, where 0
    is the same image and 1.41 no common ink.

    What is left is not all unlike: 711 training classes are a letter with diacritics, and 9% of
    5-way training tasks hold two letters that differ in their marks alone (3% in validation,
    none in test). In some face 617 training, 14 validation and 12 test classes have another of
    their own split within 0.25. Faces of one family are variations of one design, unlike the
    twenty hands of Omniglot, whose accuracies do not compare. A few faces draw a letter wrongly.

    Args:
        split: "train", "validation" or "test".
        cache: the folder of the cached drawings, by default $FASTMAML_CACHE or
            ~/.cache/fastmaml. A damaged file is drawn anew.
        progress: called with (faces done, faces in all) while drawing; by default a line on
            stderr, if that is a terminal.

    Attributes:
        inputs: [samples, 1, 28, 28] float32 in [0, 1], ink 1 on 0.
        names: "script/letter", for example "Greek/λ"; groups: the script.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        cache: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        glyphs = _cached_glyphs(cache_folder(cache), progress or terminal_progress("drawing"))
        glyphs = glyphs.where(
            np.array([split_of(script_of(code)) == split for code in glyphs.codes.tolist()])
        )
        codes = np.unique(glyphs.codes).tolist()
        images = torch.from_numpy(glyphs.images).unsqueeze(1).float() / 255
        super().__init__(
            images,
            glyphs.codes,
            names=[f"{script_of(code)}/{chr(code)}" for code in codes],
            groups=[script_of(code) for code in codes],
        )


def _cached_glyphs(folder: Path, progress: Progress) -> GlyphImages:
    path = folder / f"glyphs-{CACHE_VERSION}.npz"
    glyphs = _read(path)
    if glyphs is None:
        glyphs = select_classes(draw_glyphs(progress))
        try:
            _write(path, glyphs)
        except OSError as error:
            warnings.warn(f"glyphs will be drawn again next time: {error}", stacklevel=3)
    return glyphs


def _read(path: Path) -> GlyphImages | None:
    """The cached drawings; None where there are none or they are damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            glyphs = GlyphImages(arrays["images"], arrays["codes"], arrays["faces"])
    except Exception:  # a damaged archive fails in many ways, and all mean: draw anew
        return None
    n = len(glyphs.codes)
    sound = (
        n > 0
        and glyphs.images.shape == (n, IMAGE_SIZE, IMAGE_SIZE)
        and glyphs.images.dtype == np.uint8
        and glyphs.faces.shape == (n,)
        and int(glyphs.faces.max()) < len(FACES)
    )
    return glyphs if sound else None


def _write(path: Path, glyphs: GlyphImages) -> None:
    arrays = {"images": glyphs.images, "codes": glyphs.codes, "faces": glyphs.faces}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))

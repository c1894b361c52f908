"""Drawing the letters of matplotlib's fonts as small images."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .optional import require
from .progress import Progress

IMAGE_SIZE = 28
CAPITAL_HEIGHT = 17
"""Pixels from the baseline to the top of an H, in every face."""
LARGEST_EXTENT = 26
"""Letters wider or taller than this many pixels are shrunk to it."""
_OVERSAMPLING = 8

SCRIPTS = ("Latin", "Greek", "Cyrillic", "Georgian", "Armenian", "Lao")
_LETTER_CATEGORIES = ("Lu", "Ll", "Lt", "Lo")

_UNICODE_FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Italic", "-Bold", "-BoldItalic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"STIXGeneral{style}" for style in ("", "Italic", "Bol", "BolIta")),
)
# Computer Modern in TeX's own encoding: its charmap is right for ASCII letters only.
_ASCII_FACES = ("cmr10", "cmti10", "cmb10", "cmss10", "cmtt10", "cmmi10")
FACES = _UNICODE_FACES + _ASCII_FACES


@dataclass(frozen=True)
class GlyphImages:
    """Drawn letters, one row an image.

    images [n, 28, 28] uint8, ink 255; codes [n] int64, the code point; faces [n] int64, an
    index into `FACES`. Sorted by code, then face.
    """

    images: np.ndarray
    codes: np.ndarray
    faces: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def where(self, keep: np.ndarray) -> GlyphImages:
        return GlyphImages(self.images[keep], self.codes[keep], self.faces[keep])


def script_of(code: int) -> str | None:
    """The script of a letter, one of `SCRIPTS`; None for anything else.

    Digits, marks, modifier letters, styled copies (mathematical alphabets, say) and code points
    that Unicode holds to be the same letter as another one are no letters here.
    """
    character = chr(code)
    if unicodedata.category(character) not in _LETTER_CATEGORIES:
        return None
    if unicodedata.normalize("NFC", character) != character:
        return None
    script = unicodedata.name(character, "").split(" ")[0].title()
    return script if script in SCRIPTS else None


def draw_glyphs(progress: Progress) -> GlyphImages:
    """Draws every letter of `SCRIPTS` in every face of `FACES` that has it.

    What a face has is read from its charmap, so that the box of a missing glyph is never
    drawn. Letters are centred by their ink and of one scale, but for those too large for it.
    """
    matplotlib = require("matplotlib", "drawing Glyphs")
    ft2font = require("matplotlib.ft2font", "drawing Glyphs")
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    images, codes, faces = [], [], []
    for face, name in enumerate(FACES):
        path = folder / f"{name}.ttf"
        letters = [
            code
            for code in sorted(ft2font.FT2Font(str(path)).get_charmap())
            if script_of(code) and (name in _UNICODE_FACES or code < 128)
        ]
        for code, image in zip(letters, _draw_face(path, letters), strict=True):
            if image is not None:
                images.append(image)
                codes.append(code)
                faces.append(face)
        progress(face + 1, len(FACES))
    order = np.lexsort((faces, codes))
    return GlyphImages(np.stack(images)[order], np.array(codes)[order], np.array(faces)[order])


def _draw_face(path: Path, letters: list[int]) -> list[np.ndarray | None]:
    """Each letter as [28, 28] uint8; None where the face's glyph for it is blank."""
    Image = require("PIL.Image", "drawing Glyphs")
    ImageDraw = require("PIL.ImageDraw", "drawing Glyphs")
    ImageFont = require("PIL.ImageFont", "drawing Glyphs")

    def font_of(size: int) -> Any:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)

    _, top, _, bottom = font_of(1000).getbbox("H", anchor="ls")
    font = font_of(round(1000 * CAPITAL_HEIGHT * _OVERSAMPLING / (bottom - top)))

    def draw(code: int) -> np.ndarray | None:
        left, top, right, bottom = font.getbbox(chr(code), anchor="ls")
        large = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
        ImageDraw.Draw(large).text((-left, -top), chr(code), fill=255, font=font, anchor="ls")
        ink = large.getbbox()
        if ink is None:
            return None
        # the part of a large canvas that becomes the image: a square centred on the ink
        width, height = ink[2] - ink[0], ink[3] - ink[1]
        shrink = max(1.0, max(width, height) / (LARGEST_EXTENT * _OVERSAMPLING))
        side = IMAGE_SIZE * _OVERSAMPLING * shrink
        canvas = Image.new("L", (math.ceil(side) + 2,) * 2)
        x, y = (canvas.width - width) // 2, (canvas.height - height) // 2
        canvas.paste(large.crop(ink), (x, y))
        left, top = x + (width - side) / 2, y + (height - side) / 2
        small = canvas.resize(
            (IMAGE_SIZE, IMAGE_SIZE),
            Image.Resampling.BOX,
            box=(left, top, left + side, top + side),
        )
        return np.asarray(small)

    return [draw(code) for code in letters]

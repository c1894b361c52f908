"""Character images in the layout of Omniglot."""

from __future__ import annotations

import io
import os
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from .dataset import ClassDataset
from .episodes import check_count
from .optional import require
from .progress import Progress, terminal_progress


class CharacterFolder(ClassDataset):
    """A folder of `alphabet/character/*.png`, as Omniglot has them, or a zip file of one.

    The alphabets may lie deeper: an image's character and alphabet are the two folders right
    above it. Split by alphabet with `select("Greek", "Latin")` or
    `split(30, 10, 10, by_group=True)`.

    Args:
        path: the folder or the zip file.
        size: images are resized to [1, size, size].
        dark_ink: whether ink is dark on light paper, as in Omniglot, or light on dark.
        progress: called with (images read, images in all); by default a line on stderr, if
            that is a terminal.

    Attributes:
        inputs: [samples, 1, size, size] float32 in [0, 1], ink 1 on 0.
        names: "alphabet/character"; groups: the alphabet.

    Raises FileNotFoundError for a path that does not exist, and ValueError, with the name of
    the file, for anything else that cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: int = 28,
        dark_ink: bool = True,
        progress: Progress | None = None,
    ) -> None:
        check_count("size", size)
        progress = progress or terminal_progress("reading")
        with _Tree(Path(path)) as tree:
            characters = _by_character(tree)
            images, labels = [], []
            total = sum(map(len, characters.values()))
            for label, files in enumerate(characters.values()):
                for file in files:
                    images.append(_read_image(tree, file, size, dark_ink))
                    labels.append(label)
                progress(len(images), total)
        super().__init__(
            torch.from_numpy(np.stack(images)).unsqueeze(1).float() / 255,
            labels,
            names=["/".join(character) for character in characters],
            groups=[alphabet for alphabet, _ in characters],
        )


class _Tree:
    """The PNG files below a folder or within a zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if not path.exists():
            raise FileNotFoundError(f"no folder or zip file {path}")
        if path.is_dir():
            names = [file.relative_to(path).as_posix() for file in path.rglob("*")]
        else:
            try:
                self._zip = zipfile.ZipFile(path)
            except zipfile.BadZipFile as error:
                raise ValueError(f"{path} is neither a folder nor a zip file: {error}") from error
            names = self._zip.namelist()
        self.files = sorted(filter(_is_image, map(PurePosixPath, names)))

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def read(self, file: PurePosixPath) -> bytes:
        return self._zip.read(str(file)) if self._zip else (self.path / file).read_bytes()


def _is_image(file: PurePosixPath) -> bool:
    # archives made on a Mac carry "__MACOSX/.../._name.png", which are no images
    hidden = any(part.startswith((".", "__MACOSX")) for part in file.parts)
    return file.suffix.lower() == ".png" and not hidden


def _by_character(tree: _Tree) -> dict[tuple[str, str], list[PurePosixPath]]:
    """Files by (alphabet, character), both in alphabetical order."""
    if not tree.files:
        raise ValueError(f"{tree.path} holds no alphabet/character/*.png")
    characters: defaultdict[tuple[str, str], list[PurePosixPath]] = defaultdict(list)
    for file in tree.files:
        if len(file.parts) < 3:
            raise ValueError(f"{tree.path}: want alphabet/character/*.png, got {file}")
        files = characters[file.parts[-3], file.parts[-2]]
        if files and files[0].parent != file.parent:
            raise ValueError(f"{tree.path} has a character twice: {files[0].parent}, {file.parent}")
        files.append(file)
    return dict(sorted(characters.items()))


def _read_image(tree: _Tree, file: PurePosixPath, size: int, dark_ink: bool) -> np.ndarray:
    """An image as [size, size] uint8, ink 255. What is transparent is paper."""
    Image = require("PIL.Image", "CharacterFolder")
    try:
        with Image.open(io.BytesIO(tree.read(file))) as image:
            ink = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {tree.path / file}: {error}") from error
    except (zipfile.BadZipFile, RuntimeError) as error:  # a damaged or encrypted member
        raise ValueError(f"cannot read {file} in {tree.path}: {error}") from error
    paper = Image.new("RGBA", ink.size, "white" if dark_ink else "black")
    grey = Image.alpha_composite(paper, ink).convert("L")
    pixels = np.asarray(grey.resize((size, size), Image.Resampling.BOX))
    return 255 - pixels if dark_ink else pixels

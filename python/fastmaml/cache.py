"""The folder of what fastmaml makes once and keeps, and how files come into it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where fastmaml keeps what it can make again."""
    chosen = cache or os.environ.get("FASTMAML_CACHE") or Path("~/.cache/fastmaml")
    return Path(chosen).expanduser()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes beside `path` and renames, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.partial")
    try:
        with open(partial, "xb") as file:
            write(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""The folder of what fastmaml makes once and keeps."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where fastmaml keeps what it can make again."""
    chosen = cache or os.environ.get("FASTMAML_CACHE") or Path("~/.cache/fastmaml")
    return Path(chosen).expanduser()

"""Telling how far a piece of work has come."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total) after each unit of work."""


def terminal_progress(title: str) -> Progress:
    """A line on stderr that counts up; silent where stderr is not a terminal."""

    def report(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{title}: {done}/{total}", end=end, file=sys.stderr, flush=True)

    return report

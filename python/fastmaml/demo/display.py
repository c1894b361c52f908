"""What the demo shows while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from ..tasks.optional import require

LINES = 4
"""How often a track reports where there is no terminal."""

Report: TypeAlias = "Callable[[float], None]"
"""Called with the loss after each unit of work."""


class Display:
    """Progress on stderr: a bar in a terminal, a few lines elsewhere."""

    def __init__(self) -> None:
        self._console = require("rich.console", "the demo").Console(stderr=True)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def track(self, title: str, total: int) -> Iterator[Report]:
        """Follows `total` units of work; yields what each of them calls at its end."""
        follow = self._bar if self._console.is_terminal else self._lines
        with follow(title, total) as report:
            yield report

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Report]:
        rich = require("rich.progress", "the demo")
        with rich.Progress(
            rich.TextColumn("{task.description:<19}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("loss {task.fields[loss]:.3f}"),
            rich.TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
        ) as progress:
            bar = progress.add_task(title, total=total, loss=float("nan"))
            yield lambda loss: progress.update(bar, advance=1, loss=loss)

    @contextmanager
    def _lines(self, title: str, total: int) -> Iterator[Report]:
        done = 0

        def report(loss: float) -> None:
            nonlocal done
            done += 1
            if done * LINES // total > (done - 1) * LINES // total:
                self.say(f"{title:<19} {done}/{total} loss {loss:.3f}")

        yield report

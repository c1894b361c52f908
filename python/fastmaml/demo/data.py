"""The tasks of the demo: letters of some scripts to learn from, of others to choose and test on."""

from __future__ import annotations

from dataclasses import dataclass

from ..tasks import ClassDataset, Episodes, EpisodeSampler, Glyphs
from .settings import Settings

EVALUATED_AT_ONCE = 50
"""Tasks; each has its own adapted parameters in memory."""


@dataclass(frozen=True)
class Data:
    """What the demo learns from and what it looks at afterwards."""

    letters: ClassDataset
    """Of training."""
    training: EpisodeSampler
    validation: list[Episodes]
    test: list[Episodes]
    pictured: dict[str, Episodes]
    """The first task (T = 1) of each test script, by the name of the script."""


def load(settings: Settings) -> Data:
    """Draws the letters, or reads them where they have been drawn before, and the tasks.

    Raises:
        ImportError: the demo extra is not installed.
        ValueError: there are not enough letters for `way`, or faces for `shot` and `query`.
    """
    train, validation, test = (Glyphs(split) for split in ("train", "validation", "test"))
    scripts = tuple(dict.fromkeys(test.groups))
    fewest = min(scripts, key=test.groups.count)
    if settings.way > test.groups.count(fewest):
        raise ValueError(
            f"way must be at most {test.groups.count(fewest)}, the letters of the smallest test "
            f"script, {fewest}; got {settings.way}"
        )

    def tasks(letters: ClassDataset, at_once: int, rotations: bool = False) -> EpisodeSampler:
        return letters.episodes(
            settings.way,
            settings.shot,
            settings.query,
            rotations=rotations,
            tasks=at_once,
            seed=settings.seed,
        )

    def draw(letters: ClassDataset, count: int) -> list[Episodes]:
        sampler = tasks(letters, EVALUATED_AT_ONCE)
        counts = [EVALUATED_AT_ONCE] * (count // EVALUATED_AT_ONCE)
        rest = count % EVALUATED_AT_ONCE
        return [sampler.sample(n) for n in (*counts, *([rest] if rest else []))]

    return Data(
        letters=train,
        # the Omniglot protocol: a letter turned by 90 degrees is another class
        training=tasks(train, settings.tasks, rotations=True),
        validation=draw(validation, settings.validation_tasks),
        test=draw(test, settings.test_tasks),
        pictured={script: tasks(test.select(script), 1).sample() for script in scripts},
    )

"""What a comparison found: of each contender how exact it is and how long it takes, and ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .contenders import OURS
from .workloads import Workload

TOLERANCE = 1e-5
"""The relative error of a float32 gradient up to which it is right without a further look."""

TF32_TOLERANCE = 1e-2
"""The same where products may round their factors to TF32."""

FLOAT64_TOLERANCE = 1e-9
"""What it must reach in float64 to be right beyond that."""

NOISY = 0.15
"""A ratio's spread over the rounds from which it is called noisy."""


class Ratio(NamedTuple):
    """How many times as long as fastmaml a contender takes: of the rounds that both had.

    Both have their turn in each round, seconds apart, so what slows the machine for longer than
    that is not in a round's ratio.
    """

    median: float
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""

    @property
    def spread(self) -> float:
        """Between the quartiles, over the median."""
        return (self.high - self.low) / self.median

    @classmethod
    def of(cls, ours: Result, theirs: Result) -> Ratio | None:
        """None where they have no round in common."""
        # who has fewer rounds has the first ones
        ratios = [b / a for a, b in zip(ours.medians, theirs.medians, strict=False)]
        if not ratios:
            return None
        if len(ratios) == 1:
            return cls(ratios[0], ratios[0], ratios[0])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class Result:
    """A contender on a workload."""

    error: float | None = None
    """Largest difference to the float64 plain loop's gradient, over its largest number."""
    float64_error: float | None = None
    """That of the contender in float64, where `error` is not within tolerance: is its formula
    wrong, or do float32's roundings grow (at the kinks of ReLU, in statistics of few samples)?"""
    first_seconds: float | None = None
    peak_bytes: int | None = None
    rounds: list[list[float]] = field(default_factory=list)
    """The seconds of every timed call, by round."""
    reason: str | None = None
    """Why it was not timed."""
    tolerance: float = TOLERANCE
    """Of the error."""

    @property
    def is_right(self) -> bool:
        if self.error is None:
            return False
        if self.float64_error is None:
            return self.error <= self.tolerance
        return self.float64_error <= FLOAT64_TOLERANCE

    @property
    def medians(self) -> list[float]:
        """Seconds of a call, by round."""
        return [statistics.median(seconds) for seconds in self.rounds]

    @property
    def median(self) -> float | None:
        """Of the rounds' medians, or one slow round of many calls would be all there is."""
        return statistics.median(self.medians) if self.rounds else None

    @property
    def calls(self) -> int:
        return sum(map(len, self.rounds))


@dataclass
class Comparison:
    """All contenders on a workload, in the order they were asked for."""

    workload: Workload
    flop: int
    """Of the matrix products of a meta-gradient, as fastmaml plans it."""
    bytes: int
    """Of the samples of all tasks, in float32."""
    results: dict[str, Result]
    elapsed: float = 0.0
    """Seconds that all of it took."""

    def ratio(self, contender: str) -> Ratio | None:
        """None where either is wrong or absent."""
        ours, theirs = self.results.get("fastmaml"), self.results[contender]
        if ours is None or not (ours.is_right and theirs.is_right):
            return None
        return Ratio.of(ours, theirs)

    def ratios(self) -> dict[str, Ratio]:
        """Of everyone else, where there is one."""
        others = (name for name in self.results if name != "fastmaml")
        return {name: ratio for name in others if (ratio := self.ratio(name)) is not None}

    def noisy(self) -> list[str]:
        """Those whose ratios spread too much to be relied on."""
        return [name for name, ratio in self.ratios().items() if ratio.spread > NOISY]

    def best_other(self) -> str | None:
        """The fastest of the other libraries that are right."""
        ratios = {name: ratio.median for name, ratio in self.ratios().items() if name not in OURS}
        return min(ratios, key=ratios.get, default=None)


def relative_error(gradients: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> float:
    """The largest difference, over the largest number of the exact gradient.

    Infinite where a gradient is not finite, nor of the names and shapes of the exact one.
    """
    if gradients.keys() != exact.keys():
        return math.inf
    if any(gradients[name].shape != exact[name].shape for name in exact):
        return math.inf
    difference = max(np.abs(gradients[name] - exact[name]).max() for name in exact)
    scale = max(np.abs(gradient).max() for gradient in exact.values())
    return float(difference / scale) if np.isfinite(difference) else math.inf

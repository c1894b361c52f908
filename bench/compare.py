"""One workload, all contenders: check each gradient, then time them in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import fastmaml as fm
import numpy as np
import torch

from .contenders import OURS, plain_loop
from .step import Unavailable
from .worker import Setting, Worker
from .workloads import WORKLOADS, Workload

TOLERANCE = 1e-5
"""The relative error of a float32 gradient up to which it is right without a further look."""

FLOAT64_TOLERANCE = 1e-9
"""What it must reach in float64 to be right beyond that."""

NOISY = 0.15
"""A ratio's spread over the rounds from which it is called noisy."""

_LEAST_CALLS = 5
_MOST_CALLS_A_ROUND = 200


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

    @property
    def is_right(self) -> bool:
        if self.error is None:
            return False
        if self.float64_error is None:
            return self.error <= TOLERANCE
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
        # who has fewer rounds has the first ones
        ratios = [b / a for a, b in zip(ours.medians, theirs.medians, strict=False)]
        if not ratios:
            return None
        if len(ratios) == 1:
            return Ratio(ratios[0], ratios[0], ratios[0])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(median, low, high)

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


def compare(
    workload: str,
    contenders: Sequence[str],
    setting: Setting,
    *,
    seconds: float,
    rounds: int,
    limit: float,
    say: Callable[[str], None],
) -> Comparison:
    """Measure the contenders on a workload.

    Args:
        workload: its name.
        contenders: their names.
        setting: where they run.
        seconds: what the timed calls of all contenders together may take, about.
        rounds: how often each has its turn. One whose calls are too slow for its share of the
            seconds has fewer, but five calls at least.
        limit: seconds that a contender has to start, compile and compute its first gradients,
            and again to make its five calls.
        say: is told what happens now.
    """
    start = time.perf_counter()
    spec = WORKLOADS[workload]
    say("float64 reference")
    exact = _exact_gradient(spec)
    results = {contender: Result() for contender in contenders}
    workers: dict[str, Worker] = {}
    first_calls: dict[str, float] = {}
    try:
        for contender, result in results.items():
            say(f"{contender}: first gradient")
            workers[contender] = worker = Worker(contender, workload, setting)
            try:
                prepared = worker.prepare(limit)
            except Unavailable as reason:
                result.reason = str(reason)
                workers.pop(contender).stop()
                continue
            result.error = relative_error(prepared.gradients, exact)
            if result.error > TOLERANCE:
                say(f"{contender}: float64 gradient")
                result.float64_error = _float64_error(contender, workload, setting, limit, exact)
            result.first_seconds = prepared.first_seconds
            result.peak_bytes = prepared.peak_bytes
            first_calls[contender] = prepared.seconds
        _time_in_turn(workers, first_calls, results, seconds, rounds, limit, say)
    finally:
        for worker in workers.values():
            worker.stop()
    elapsed = time.perf_counter() - start
    return Comparison(spec, _flop(spec), _bytes(spec), results, elapsed)


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


def _float64_error(
    contender: str, workload: str, setting: Setting, limit: float, exact: Mapping[str, np.ndarray]
) -> float:
    """Infinite where there is no such gradient."""
    setting = replace(setting, dtype=torch.float64, measures_memory=False)
    worker = Worker(contender, workload, setting)
    try:
        return relative_error(worker.prepare(limit).gradients, exact)
    except Unavailable:
        return math.inf
    finally:
        worker.stop()


def _time_in_turn(
    workers: Mapping[str, Worker],
    first_calls: Mapping[str, float],
    results: Mapping[str, Result],
    seconds: float,
    rounds: int,
    limit: float,
    say: Callable[[str], None],
) -> None:
    share = seconds / max(1, len(workers))
    spent = dict.fromkeys(workers, 0.0)
    order = list(workers)
    for turn in range(rounds):
        # there and back, so that none always comes after the same one, or always later
        for contender in order if turn % 2 == 0 else reversed(order):
            worker, result = workers[contender], results[contender]
            calls = int(share / rounds / (result.median or first_calls[contender]))
            # one that is fast enough has every round, however long some of them were
            is_enough = calls == 0 and spent[contender] > share and result.calls >= _LEAST_CALLS
            is_enough = is_enough or spent[contender] > limit
            if is_enough or result.reason is not None:
                continue
            say(f"{contender}: round {turn + 1} of {rounds}")
            try:
                times = worker.time(min(max(1, calls), _MOST_CALLS_A_ROUND))
            except Unavailable as reason:
                result.reason = str(reason)
                continue
            result.rounds.append(times)
            spent[contender] += sum(times)
            time.sleep(0.01)  # until its threads have stopped to wait for more work


def _exact_gradient(workload: Workload) -> dict[str, np.ndarray]:
    gradients = plain_loop(workload, torch.device("cpu"), torch.float64)()
    return {name: gradient.numpy() for name, gradient in gradients.items()}


def _flop(workload: Workload) -> int:
    maml = fm.MAML(workload.model(), workload.lr, workload.steps, workload.loss)
    support_x, _, query_x, _ = workload.samples()
    return sum(maml.plan(support_x, query_x).arithmetic.values())


def _bytes(workload: Workload) -> int:
    return sum(samples.numel() * samples.element_size() for samples in workload.samples())

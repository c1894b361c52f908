"""One workload, all contenders: check each gradient, then time them in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import fastmaml as fm
import numpy as np
import torch

from .contenders import Unavailable, plain_loop
from .worker import Setting, Worker
from .workloads import WORKLOADS, Workload

TOLERANCE = 1e-5
"""The relative error of a float32 gradient up to which it is right without a further look."""

FLOAT64_TOLERANCE = 1e-9
"""What it must reach in float64 to be right beyond that."""

_LEAST_CALLS = 3
_MOST_CALLS_A_ROUND = 200


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
    seconds: list[float] = field(default_factory=list)
    """Of every timed call."""
    rounds: int = 0
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
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


@dataclass
class Comparison:
    """All contenders on a workload, in the order they were asked for."""

    workload: Workload
    flop: int
    """Of the matrix products of a meta-gradient, as fastmaml plans it."""
    results: dict[str, Result]

    def ratio(self, contender: str) -> float | None:
        """How many times as long as fastmaml it takes; None where either is wrong or absent."""
        ours, theirs = self.results.get("fastmaml"), self.results[contender]
        if ours is None or not (ours.is_right and theirs.is_right):
            return None
        return theirs.median / ours.median if ours.median and theirs.median else None

    def best_other(self) -> str | None:
        """The fastest of the others that are right."""
        ratios = {name: self.ratio(name) for name in self.results if name != "fastmaml"}
        return min((name for name in ratios if ratios[name]), key=ratios.get, default=None)


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
            seconds has fewer, but three calls at least.
        limit: seconds that a contender has to start, compile and compute its first gradients.
        say: is told what happens now.
    """
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
        _time_in_turn(workers, first_calls, results, seconds, rounds, say)
    finally:
        for worker in workers.values():
            worker.stop()
    return Comparison(spec, _flop(spec), results)


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
    say: Callable[[str], None],
) -> None:
    share = seconds / max(1, len(workers))
    spent = dict.fromkeys(workers, 0.0)
    for turn in range(rounds):
        for contender, worker in workers.items():
            result = results[contender]
            is_enough = spent[contender] > share and len(result.seconds) >= _LEAST_CALLS
            if is_enough or result.reason is not None:
                continue
            say(f"{contender}: round {turn + 1} of {rounds}")
            calls = int(share / rounds / (result.median or first_calls[contender]))
            try:
                times = worker.time(min(max(1, calls), _MOST_CALLS_A_ROUND))
            except Unavailable as reason:
                result.reason = str(reason)
                continue
            result.seconds += times
            result.rounds += 1
            spent[contender] += sum(times)
            time.sleep(0.01)  # until its threads have stopped to wait for more work


def _exact_gradient(workload: Workload) -> dict[str, np.ndarray]:
    gradients = plain_loop(workload, torch.device("cpu"), torch.float64)()
    return {name: gradient.numpy() for name, gradient in gradients.items()}


def _flop(workload: Workload) -> int:
    maml = fm.MAML(workload.model(), workload.lr, workload.steps, workload.loss)
    support_x, _, query_x, _ = workload.samples()
    return sum(maml.plan(support_x, query_x).arithmetic.values())

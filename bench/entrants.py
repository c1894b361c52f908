"""The contenders of one workload: check the gradient of each, then time them in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fastmaml as fm
import numpy as np
import torch
from torch import Tensor, nn

from .compare import TF32_TOLERANCE, TOLERANCE, Comparison, Result, relative_error
from .contenders import plain_loop, torch_func
from .step import Unavailable
from .worker import Setting, Worker
from .workloads import Workload, named

_MOST_CALLS_A_ROUND = 200
_MANY_TASKS = 1000

_starting = threading.Lock()
"""Held while a process is started: what it inherits is this process's for that moment."""


class Entrants:
    """Each in a process of its own.

    Args:
        workload: its name.
        contenders: their names.
        setting: where they run.
        limit: seconds that a contender has to start, compile and compute its first gradients,
            and again to make its least calls.
        say: is told what happens now.
    """

    def __init__(
        self,
        workload: str,
        contenders: Sequence[str],
        setting: Setting,
        limit: float,
        say: Callable[[str], None],
    ) -> None:
        self.workload = named(workload)
        self._setting = setting
        self._limit = limit
        self._say = say
        self._tolerance = TF32_TOLERANCE if setting.tf32 else TOLERANCE
        self._results = {name: Result(tolerance=self._tolerance) for name in contenders}
        self._prepared: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._first_calls: dict[str, float] = {}
        self._exact: dict[str, np.ndarray] | None = None
        self._lock = threading.Lock()
        self._has_ended = False

    def jobs(self) -> list[Callable[[], None]]:
        """What prepares each contender: they may run in threads, in any order."""
        return [lambda name=name: self._prepare(name) for name in self._results]

    def compare(self, seconds: float, rounds: int, least: int) -> Comparison:
        """Prepares who is not yet prepared, and times all in turn.

        Args:
            seconds: what the timed calls of all contenders together may take, about.
            rounds: how often each has its turn. One whose calls are too slow for its share of
                the seconds has fewer, but the least calls at least.
            least: so many calls.
        """
        start = time.perf_counter()
        try:
            for job in self.jobs():
                job()
            self._time_in_turn(seconds, rounds, least)
        finally:
            self.stop()
        elapsed = time.perf_counter() - start
        flop, size = _flop(self.workload), _bytes(self.workload)
        return Comparison(self.workload, flop, size, self._results, elapsed)

    def stop(self) -> None:
        """Ends all processes."""
        self._has_ended = True
        for worker in list(self._workers.values()):
            worker.stop()

    def _prepare(self, contender: str) -> None:
        """Its process, the first gradient and how far that is off."""
        if contender in self._prepared or self._has_ended:
            return
        self._prepared.add(contender)
        self._say(f"{contender}: first gradient")
        result = self._results[contender]
        try:
            prepared = self._start(contender, self._setting).prepare(self._limit)
        except Unavailable as reason:
            result.reason = str(reason)
            self._workers.pop(contender).stop()
            return
        result.error = relative_error(prepared.gradients, self._exact_gradient())
        if result.error > self._tolerance:
            self._say(f"{contender}: float64 gradient")
            result.float64_error = self._float64_error(contender)
        result.first_seconds = prepared.first_seconds
        result.peak_bytes = prepared.peak_bytes
        self._first_calls[contender] = prepared.seconds

    def _start(self, contender: str, setting: Setting, key: str | None = None) -> Worker:
        with _starting:
            worker = Worker(contender, self.workload.name, setting)
        self._workers[key or contender] = worker
        return worker

    def _float64_error(self, contender: str) -> float:
        """Infinite where there is no such gradient."""
        setting = replace(self._setting, dtype=torch.float64, measures_memory=False)
        key = f"{contender} in float64"
        worker = self._start(contender, setting, key)
        try:
            return relative_error(worker.prepare(self._limit).gradients, self._exact_gradient())
        except Unavailable:
            return float("inf")
        finally:
            self._workers.pop(key).stop()

    def _exact_gradient(self) -> dict[str, np.ndarray]:
        with self._lock:
            if self._exact is None:
                self._exact = exact_gradient(self.workload)
            return self._exact

    def _time_in_turn(self, seconds: float, rounds: int, least: int) -> None:
        order = [name for name in self._results if name in self._workers]
        share = seconds / max(1, len(order))
        spent = dict.fromkeys(order, 0.0)
        for turn in range(rounds):
            # there and back, so that none always comes after the same one, or always later
            for contender in order if turn % 2 == 0 else reversed(order):
                result = self._results[contender]
                seconds_a_call = result.median or self._first_calls[contender]
                calls = int(share / rounds / seconds_a_call)
                # one that is fast enough has every round, however long some of them were
                is_enough = calls == 0 and spent[contender] > share and result.calls >= least
                is_enough = is_enough or spent[contender] > self._limit
                if is_enough or result.reason is not None:
                    continue
                self._say(f"{contender}: round {turn + 1} of {rounds}")
                try:
                    calls = min(max(1, calls), _MOST_CALLS_A_ROUND)
                    times = self._workers[contender].time(calls, self._limit)
                except Unavailable as reason:
                    result.reason = str(reason)
                    continue
                result.rounds.append(times)
                spent[contender] += sum(times)
                time.sleep(0.01)  # until its threads have stopped to wait for more work


def prepare_together(entrants: Sequence[Entrants], jobs: int) -> None:
    """Prepares the contenders of all workloads, so many at a time, before any is timed.

    The last contenders first, since they compile; or the others would wait for them in the end.
    """
    by_contender = list(zip(*[each.jobs() for each in entrants], strict=True))
    pool = ThreadPoolExecutor(jobs)
    try:
        for done in [pool.submit(job) for of_all in reversed(by_contender) for job in of_all]:
            done.result()
    except BaseException:
        for each in entrants:  # or the pool would wait for those that still start
            each.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def exact_gradient(workload: Workload) -> dict[str, np.ndarray]:
    """In float64, of the plain loop; of very many tasks, of all at once, which norms forbid."""
    has_norms = any(isinstance(layer, nn.BatchNorm1d) for layer in workload.layers())
    make = torch_func if workload.tasks > _MANY_TASKS and not has_norms else plain_loop
    gradients = make(workload, torch.device("cpu"), torch.float64)()
    return {name: gradient.numpy() for name, gradient in gradients.items()}


def _flop(workload: Workload) -> int:
    maml = fm.MAML(workload.model(), workload.lr, workload.steps, workload.loss)
    support_x, query_x = (_like_samples(workload, n) for n in (workload.support, workload.query))
    return sum(maml.plan(support_x, query_x).arithmetic.values())


def _bytes(workload: Workload) -> int:
    """Of all samples and targets; labels have eight each."""
    count = workload.tasks * (workload.support + workload.query)
    target = 8 if workload.loss == "cross_entropy" else 4 * workload.outputs
    return count * (4 * workload.features + target)


def _like_samples(workload: Workload, count: int) -> Tensor:
    return torch.zeros(()).expand(workload.tasks, count, workload.features)

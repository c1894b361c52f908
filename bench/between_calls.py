"""What our threads cost torch between our calls: `python -m bench.between_calls OUT`.

Pairs of processes run the same steps of training, a meta-gradient of ours and then work of torch on
all cores, and time that work alone. In one of a pair ours runs on all cores too, and its pool is
parked during the work; in the other it runs on the caller's thread, and no pool is ever started, as
in a build without threads. Writes between_calls.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import nn
from torch.nn import functional as F

from . import machine, report
from .compare import Ratio, Result
from .contenders import fastmaml
from .step import Step
from .workloads import WORKLOADS

ROUNDS = 10
_SETTLE_SECONDS = 0.05
"""Until torch's own threads, which spin before they sleep, leave the cores to the other process."""


def products() -> Callable[[], object]:
    """Products of two 512 x 512 matrices, which torch spreads over its threads."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    return lambda: [a @ b for _ in range(4)]


def encoder() -> Callable[[], object]:
    """A step of Adam on a small convolutional net: some 200 operations, most of them short."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 6 * 6, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 5)),
    )
    optimizer = torch.optim.Adam(net.parameters())
    images, labels = torch.randn(32, 1, 28, 28), torch.randint(5, (32,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return step


WORK = {"products": products, "encoder": encoder}


class Training(NamedTuple):
    """What a process runs."""

    meta_gradient: Step
    work: dict[str, Callable[[], object]]
    started: int
    """Threads that the first meta-gradient started."""


class Answer(NamedTuple):
    """What a process measured."""

    seconds: dict[str, list[float]]
    """Of every step's work, by the work's name."""
    started: int
    """See `Training`."""


class Pair(NamedTuple):
    """What two processes measured of a work: with ours on one thread, and on all."""

    one: Result
    all: Result

    @property
    def ratio(self) -> float:
        """How many times as long the work takes where our pool is there."""
        return Ratio.of(self.one, self.all).median


@functools.cache
def _training(workload: str, our_threads: int, cores: tuple[int, ...]) -> Training:
    """Made once a process."""
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    torch.manual_seed(0)
    work = {name: make() for name, make in WORK.items()}
    for each in work.values():
        each()  # torch's threads have started
    torch.get_num_threads = lambda: our_threads  # what ours asks, and torch's kernels do not
    meta_gradient = fastmaml(WORKLOADS[workload], torch.device("cpu"), torch.float32)
    before = _threads()
    meta_gradient()
    return Training(meta_gradient, work, _threads() - before)


def time_work(workload: str, our_threads: int, cores: tuple[int, ...], steps: int) -> Answer:
    """Runs so many steps with each work, in a process of its own.

    Args:
        workload: of the meta-gradient.
        our_threads: that it runs on.
        cores: all that this process may use; torch has a thread for each.
        steps: of training.
    """
    training = _training(workload, our_threads, cores)
    seconds: dict[str, list[float]] = {name: [] for name in training.work}
    for name, work in training.work.items():
        for _ in range(steps):
            training.meta_gradient()
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return Answer(seconds, training.started)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def measure_pair(
    workload: str, cores: tuple[int, ...], rounds: int, steps: int
) -> tuple[dict[str, Pair], dict[int, int]]:
    """Two new processes, which take turns in rounds, there and back.

    Returns:
        a pair for each work, by its name;
        for each number of threads that ours runs on, how many it started.
    """
    arms = (1, len(cores))
    pairs = {name: Pair(Result(), Result()) for name in WORK}
    started = {}
    with ExitStack() as stack:
        context = get_context("spawn")
        processes = [stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for _ in arms]
        for turn in range(-1, rounds):  # the first is for warming up
            for arm in (0, 1) if turn % 2 == 0 else (1, 0):
                run = processes[arm].submit(time_work, workload, arms[arm], cores, steps)
                answer = run.result()
                time.sleep(_SETTLE_SECONDS)
                started[arms[arm]] = answer.started
                for name, seconds in answer.seconds.items():
                    if turn >= 0:
                        pairs[name][arm].rounds.append(seconds)
    return pairs, started


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of what these are drawn from lies, with 95% confidence, by the sign test.

    Args:
        values: six or more.
    """
    ordered, count = sorted(values), len(values)
    rank, outside = 0, 2 / 2**count
    while outside <= 0.05:
        rank += 1
        outside += 2 * math.comb(count, rank) / 2**count
    return ordered[rank - 1], ordered[-rank]


def figures(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Of a work, for json.dump."""
    ratios = [pair.ratio for pair in pairs]
    return {
        "seconds, ours on one thread": median(pair.one.median for pair in pairs),
        "seconds, ours on all threads": median(pair.all.median for pair in pairs),
        "ratio": median(ratios),
        "ratio, 95% interval": interval(ratios),
        "ratio, by pair": ratios,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the ratios and writes JSON."""
    options = _options(arguments)
    cores = tuple(sorted(os.sched_getaffinity(0)))[: options.threads]
    described = machine.describe("cpu", cores)
    measured = [
        measure_pair(options.workload, cores, ROUNDS, options.steps)
        for _ in track(range(options.pairs), "pairs of processes", transient=True)
    ]
    found = {name: figures([pairs[name] for pairs, _ in measured]) for name in WORK}
    for name, its in found.items():
        low, high = its["ratio, 95% interval"]
        print(
            f"{name}: {report.duration(its['seconds, ours on one thread'])} where ours runs on one "
            f"thread, {report.duration(its['seconds, ours on all threads'])} where on "
            f"{len(cores)}; ratio {its['ratio']:.3f} ({low:.3f} to {high:.3f})"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    written = {
        "machine": described,
        "workload": options.workload,
        "steps a round": options.steps,
        "rounds": ROUNDS,
        "threads that ours started, by those it runs on": measured[-1][1],
        "work": found,
    }
    (options.out / "between_calls.json").write_text(json.dumps(written, indent=2) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.between_calls", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--workload", choices=WORKLOADS, default="anil", help="of our calls")
    parser.add_argument("--pairs", type=int, default=10, help="of processes, 6 or more")
    parser.add_argument("--steps", type=int, default=20, help="a round, with each work")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    available = len(os.sched_getaffinity(0))
    if not 2 <= options.threads <= available:
        parser.error(f"--threads must be 2 to {available}, got {options.threads}")
    if options.pairs < 6:
        parser.error(f"--pairs must be 6 or more for an interval, got {options.pairs}")
    return options


if __name__ == "__main__":
    main()

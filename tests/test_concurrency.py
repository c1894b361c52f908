"""Calls from several threads at once, in forked processes, and for a long time."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastmaml as fm
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

ITERATIONS = int(os.environ.get("FASTMAML_MEMORY_ITERATIONS", "800"))


class Problem:
    """A model and its data; `results` are the same bits every time."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = torch.float64 if seed % 2 else torch.float32
        self.tasks, self.width = 1 + seed % 5, 3 + 7 * (seed % 4)
        torch.manual_seed(seed)
        layers = [nn.Linear(self.width, 8 + seed), nn.Tanh(), nn.Linear(8 + seed, 3)]
        if seed % 3 == 0:
            layers[1:1] = [nn.LayerNorm(8 + seed), nn.Dropout(0.3)]
        self.model = nn.Sequential(*layers).to(self.dtype)
        self.support, self.query = self.samples(5), self.samples(6)

    def samples(self, count: int) -> tuple[Tensor, Tensor]:
        shape = (self.tasks, count, self.width)
        x = torch.randn(shape, generator=self.generator, dtype=self.dtype)
        return x, torch.randint(3, shape[:2], generator=self.generator)

    def results(self) -> list[Tensor]:
        maml = fm.MAML(self.model, lr=0.1, steps=3)
        out = maml(*self.support, *self.query, seed=1)
        gradients = torch.autograd.grad(out.loss, list(self.model.parameters()))
        return [out.task_loss.detach(), out.prediction.detach(), *gradients]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


# --- threads --------------------------------------------------------------------------------------


def test_threads_find_the_same_bits():
    problems = [Problem(seed) for seed in range(12)]
    expected = [problem.results() for problem in problems]
    fresh = [Problem(seed) for seed in range(12)]  # to be traced by many threads at once

    def work(turn: int) -> bool:
        index = turn % 12
        return same((problems if turn % 5 else fresh)[index].results(), expected[index])

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(240)))


def test_threads_share_one_model():
    problem = Problem(3)
    expected = problem.results()
    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(lambda _: same(problem.results(), expected), range(120)))


class Gated(nn.Module):
    """No program has its ops, it draws random numbers, and it writes to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 8)
        self.head = nn.Linear(8, 3)
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.cell(x)
        return self.head(self.last + 0.1 * torch.randn(8, dtype=x.dtype))


def test_threads_share_one_model_that_runs_as_it_is():
    torch.manual_seed(0)
    model = Gated().double()
    own, of_head = list(model.parameters()), list(model.head.parameters())
    x, y = torch.randn(3, 5, 4, dtype=torch.float64), torch.randint(3, (3, 5))
    head = fm.MAML(model.head, lr=0.1, steps=1)  # traced, and part of the other model
    features = torch.randn(3, 5, 8, dtype=torch.float64)

    def results(turn: int) -> list[Tensor]:
        if turn % 4 == 0:
            loss = head(features, y, features, y).loss
            return list(torch.autograd.grad(loss, of_head))
        if turn % 4 == 1:
            return list(fm.functional.adapt(model, x, y, lr=0.1, steps=2, seed=3).values())
        out = fm.MAML(model, lr=0.1, steps=2)(x, y, x, y, seed=turn % 4)
        return [out.prediction.detach(), *torch.autograd.grad(out.loss, own)]

    expected = [results(turn) for turn in range(4)]
    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(lambda turn: same(results(turn), expected[turn % 4]), range(48)))
    assert all(a is b for a, b in zip(model.parameters(), own, strict=True))
    assert model.last is None


def test_ordinary_modules_run_while_another_thread_traces():
    plain = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x = torch.randn(6, 4)
    expected = plain(x)
    ended = threading.Event()

    def trace() -> None:
        while not ended.is_set():
            Problem(0).results()

    thread = threading.Thread(target=trace)
    thread.start()
    try:
        assert all(torch.equal(plain(x), expected) for _ in range(1000))
    finally:
        ended.set()
        thread.join()


# --- processes ------------------------------------------------------------------------------------


class Losses(Dataset):
    """Meta-losses that a DataLoader's workers compute."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return Problem(index).results()[0].double().sum()


def test_workers_of_a_data_loader():
    expected = [Losses()[index] for index in range(8)]  # use before the fork
    loader = DataLoader(
        Losses(), batch_size=1, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    assert [loss.item() for loss in loader] == [loss.item() for loss in expected]


def test_fork_while_other_threads_are_inside():
    expected = Problem(4).results()
    ended = threading.Event()

    def compute(problem: Problem) -> None:
        while not ended.is_set():
            problem.results()

    def trace(problem: Problem) -> None:
        # copies, since new models would draw from torch's generator, whose lock a child inherits
        while not ended.is_set():
            problem.model = copy.deepcopy(problem.model)
            problem.results()

    threads = [
        threading.Thread(target=compute, args=(Problem(5),)),
        threading.Thread(target=trace, args=(Problem(6),)),
    ]
    for thread in threads:
        thread.start()

    try:
        for _ in range(10):
            assert in_a_child(lambda: same(Problem(4).results(), expected))
            time.sleep(0.01)
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_fork_while_another_thread_traces():
    tracing = threading.Event()

    class Slow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            tracing.set()
            time.sleep(0.3)
            return super().forward(x)

    expected, slow = Problem(4).results(), Problem(5)
    slow.model = nn.Sequential(Slow(slow.width, 3)).to(slow.dtype)
    thread = threading.Thread(target=slow.results)
    thread.start()
    tracing.wait()
    assert in_a_child(lambda: same(Problem(4).results(), expected))
    thread.join()


def in_a_child(holds: Callable[[], bool]) -> bool:
    """Whether `holds` is true in a forked process, which must end in time."""

    def child() -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        os._exit(0 if holds() else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    process.kill()
    process.join()
    return process.exitcode == 0


# --- memory ---------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_model() -> Callable[[], None]:
    problem = Problem(1)
    return lambda: problem.results()


def one_model_with_dropout() -> Callable[[], None]:
    problem = Problem(3)
    return lambda: problem.results()


def a_new_model_every_time() -> Callable[[], None]:
    return lambda: Problem(3).results()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("make", [one_model, one_model_with_dropout, a_new_model_every_time])
def test_memory_stays_flat(make, one_thread):
    step = make()
    for _ in range(400):  # more than any cache holds
        step()
    before = resident()
    for _ in range(ITERATIONS):
        step()
    assert resident() - before < 4 << 20

"""The comparison in bench/: that it measures what it says, and judges as it says."""

from __future__ import annotations

import json
import math
import mmap
import os

import numpy as np
import pytest
import torch

from bench import between_calls, forms, lockstep, scaling
from bench.compare import Comparison, Result, relative_error
from bench.contenders import BASE, fastmaml, plain_loop, torch_func
from bench.entrants import Entrants, exact_gradient, prepare_together
from bench.memory import PeakMemory
from bench.step import Unavailable
from bench.worker import Setting, Worker
from bench.workloads import WORKLOADS, named

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def result(milliseconds: float, error: float = 1e-7, float64_error: float | None = None) -> Result:
    return Result(error, float64_error, rounds=[[1e-3 * milliseconds]])


def comparison(**results: Result) -> Comparison:
    return Comparison(WORKLOADS["sine"], flop=1, bytes=1, results=results)


def test_relative_error_is_over_the_largest_number():
    exact = {"a": np.array([1.0, -4.0]), "b": np.array([0.0])}
    assert relative_error({"a": np.array([1.0, -4.0]), "b": np.array([0.2])}, exact) == 0.05


@pytest.mark.parametrize(
    "gradients",
    [{}, {"a": np.array([1.0])}, {"a": np.array([1.0, math.nan])}, {"b": np.array([1.0, 2.0])}],
    ids=["no gradient", "another shape", "not finite", "another name"],
)
def test_relative_error_of_what_is_no_such_gradient(gradients: dict[str, np.ndarray]):
    assert relative_error(gradients, {"a": np.array([1.0, 2.0])}) == math.inf


def test_a_wrong_gradient_has_no_ratio_and_is_not_the_best():
    compared = comparison(fastmaml=result(1), func=result(1.5, error=1e-3), jax=result(3))
    assert compared.ratio("func") is None
    assert compared.ratio("jax").median == pytest.approx(3)
    assert compared.best_other() == "jax"


def test_our_wrong_gradient_has_no_ratio_either():
    compared = comparison(fastmaml=result(1, error=1e-3), jax=result(3))
    assert compared.ratio("jax") is None
    assert compared.best_other() is None


def test_float64_tells_roundings_from_wrong_formulas():
    assert result(1, error=1e-3, float64_error=1e-12).is_right
    assert not result(1, error=1e-3, float64_error=1e-3).is_right


def test_a_contender_that_did_not_run_has_no_ratio():
    compared = comparison(fastmaml=result(1), jax=Result(reason="not installed"))
    assert compared.ratio("jax") is None
    assert compared.best_other() is None


def test_ratios_are_taken_within_rounds():
    """A machine that is ten times as slow in one round is in no ratio."""
    ours = Result(1e-7, rounds=[[1.0, 1.0, 9.0], [10.0], [1.0], [1.0]])
    compared = comparison(fastmaml=ours, jax=Result(1e-7, rounds=[[2.0], [20.0], [2.0]]))
    assert compared.ratio("jax") == (2, 2, 2)
    assert compared.noisy() == []
    assert ours.median == 1
    assert ours.calls == 6


def test_noisy_ratios_are_named():
    ours = Result(1e-7, rounds=[[1.0]] * 4)
    compared = comparison(
        fastmaml=ours,
        func=Result(1e-7, rounds=[[2.0], [2.1], [2.0], [2.1]]),
        jax=Result(1e-7, rounds=[[1.0], [2.0], [3.0], [4.0]]),
    )
    assert compared.ratio("jax") == (2.5, 1.75, 3.25)
    assert compared.ratio("jax").spread == pytest.approx(0.6)
    assert compared.noisy() == ["jax"]


def test_another_version_of_ours_is_not_the_best_of_the_others():
    compared = comparison(fastmaml=result(2), **{BASE: result(1)}, jax=result(3))
    assert compared.ratio(BASE).median == pytest.approx(0.5)
    assert compared.best_other() == "jax"


@pytest.mark.parametrize("name", ["sine", "anil", "regress200"])
def test_contenders_agree_in_float64(name: str):
    exact, ours, func = (
        {
            key: np.asarray(value)
            for key, value in make(WORKLOADS[name], CPU, torch.float64)().items()
        }
        for make in (plain_loop, fastmaml, torch_func)
    )
    assert relative_error(ours, exact) < 1e-9
    assert relative_error(func, exact) < 1e-9


def test_samples_are_the_same_in_every_process_and_dtype():
    single, double = (WORKLOADS["sine"].samples(dtype) for dtype in (torch.float32, torch.float64))
    for mine, theirs in zip(single, double, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no clear_refs here")
def test_peak_memory_sees_what_was_held_and_freed():
    zeros = bytes(32 << 20)
    memory = PeakMemory(CPU)
    memory.start()
    with mmap.mmap(-1, 32 << 20) as block:
        block.write(zeros)
    assert memory.peak() == pytest.approx(32 << 20, abs=2 << 20)
    memory.start()
    assert memory.peak() < 2 << 20


def test_worker_prepares_times_and_stops():
    worker = Worker("fastmaml", "sine", Setting("cpu", (min(os.sched_getaffinity(0)),)))
    try:
        prepared = worker.prepare(limit=120)
        exact = plain_loop(WORKLOADS["sine"], CPU, torch.float64)()
        exact = {name: gradient.numpy() for name, gradient in exact.items()}
        assert relative_error(prepared.gradients, exact) < 1e-5
        assert 0 < prepared.seconds < prepared.first_seconds
        times = worker.time(3)
        assert len(times) == 3
        assert all(seconds > 0 for seconds in times)
    finally:
        worker.stop()
    with pytest.raises(Unavailable, match="ended"):
        worker.time(1)


def test_worker_that_takes_too_long_is_given_up():
    worker = Worker("plain", "sine1k", Setting("cpu", (min(os.sched_getaffinity(0)),)))
    try:
        with pytest.raises(Unavailable, match="no gradient within 0 s"):
            worker.prepare(limit=0.01)
    finally:
        worker.stop()


def test_worker_that_does_not_answer_is_given_up():
    worker = Worker("fastmaml", "sine", Setting("cpu", (min(os.sched_getaffinity(0)),)))
    try:
        worker.prepare(limit=120)
        with pytest.raises(Unavailable, match="no answer within 0 s"):
            worker.time(100_000, limit=0.01)
    finally:
        worker.stop()


def test_contenders_of_several_workloads_are_prepared_together():
    setting = Setting("cpu", (min(os.sched_getaffinity(0)),), is_hasty=True)
    said: list[str] = []
    entrants = [
        Entrants(f"sine:{tasks}", ["fastmaml", "func", "captured"], setting, 120, said.append)
        for tasks in (2, 3)
    ]
    try:
        prepare_together(entrants, jobs=3)
        assert sum("first gradient" in what for what in said) == 6
        compared = [each.compare(seconds=0.1, rounds=2, least=1) for each in entrants]
    finally:
        for each in entrants:
            each.stop()
    assert sum("first gradient" in what for what in said) == 6
    for tasks, comparison in zip((2, 3), compared, strict=True):
        assert comparison.workload.tasks == tasks
        assert comparison.ratio("func").median > 0
        assert comparison.results["captured"].reason == "CUDA graphs want a GPU"


def test_the_exact_gradient_of_very_many_tasks_is_the_plain_loops(monkeypatch):
    workload = named("anil:3")
    exact = exact_gradient(workload)
    monkeypatch.setattr("bench.entrants._MANY_TASKS", 2)
    assert relative_error(exact_gradient(workload), exact) < 1e-12


def test_the_sweep_of_forms(tmp_path):
    point = forms.points(1, seed=0)[0]._replace(inputs=300, outputs=4, support=2, query=2, steps=3)
    timed = forms.time_forms(point)
    assert min(timed.seconds.values()) > 0
    assert timed.chosen == min(timed.predicted, key=timed.predicted.get) == "dual"
    assert timed.loss == timed.seconds["dual"] / min(timed.seconds.values()) - 1
    forms.draw([timed, timed], "a processor", tmp_path / "forms.png")
    assert (tmp_path / "forms.png").stat().st_size > 10_000


def test_the_sweep_of_lockstep(tmp_path):
    printed = """instruction set avx512
                             one by one   lockstep    gain  chosen
   1-  4-  4-5 n   1 steps  5       8.92       0.59   15.03     yes
   1- 64- 64-5 n 100 steps  5     360.73     477.68    0.76      no *
the choice is within 10% of the better one at 2 of 2 points; at worst 1.00 times"""
    small, large = points = lockstep.read(printed.splitlines())
    assert (small.inputs, small.hidden, small.samples, small.steps) == (1, 4, 1, 5)
    assert [point.is_chosen for point in points] == [True, False]
    assert small.gain == 8.92 / 0.59
    assert large.gain < 1
    lockstep.draw(points, "a processor", tmp_path / "lockstep.png")
    assert (tmp_path / "lockstep.png").stat().st_size > 10_000


def line(varied: str, milliseconds: list[float]) -> scaling.Line:
    """Of sine5, at as many of the counts."""
    results = [result(each) for each in milliseconds]
    counts = scaling.COUNTS[varied][: len(results)]
    return scaling.Line(WORKLOADS["sine5"], varied, counts, results)


def test_what_is_proportional_to_tasks_has_exponent_1():
    proportional = line("tasks", [0.02 * tasks for tasks in scaling.COUNTS["tasks"]])
    assert proportional.exponent == pytest.approx(1)
    assert proportional.straight == pytest.approx((0, 2e-5, 0), abs=1e-12)


def test_the_lower_half_of_a_line_has_no_part_in_its_exponent():
    quadratic = [9.0, 9.0, 9.0] + [1e-3 * steps**2 for steps in scaling.COUNTS["steps"][3:]]
    assert line("steps", quadratic).exponent == pytest.approx(2)


def test_a_straight_line_need_not_begin_at_zero():
    affine = line("steps", [5 + 0.1 * steps for steps in scaling.COUNTS["steps"]])
    assert affine.exponent < 0.9
    assert affine.straight == pytest.approx((5e-3, 1e-4, 0), abs=1e-12)
    bent = line("steps", [5 + 0.1 * steps for steps in scaling.COUNTS["steps"][:-1]] + [30.0])
    assert bent.straight.deviation > 0.1


def test_the_sweep_of_tasks_and_steps(tmp_path):
    scaling.main([str(tmp_path), "--tasks=3", "--steps=2", "--seconds=0", "--threads=1"])
    lines = json.loads((tmp_path / "scaling.json").read_text())["lines"]
    assert [line["counts"] for line in lines] == [[1, 3]] * 3 + [[1, 2]] * 4
    for line in lines:
        assert line["calls"] == [scaling.ROUNDS] * 2
        assert min(line["seconds"]) > 0
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_interval_of_a_median():
    """Of 10 from the second to the ninth: 2 (1 + 10) / 2**10 is 2%; with 45 more it were 11%."""
    assert between_calls.interval([3, 1, 2, 5, 4, 6, 10, 9, 8, 7]) == (2, 9)
    assert between_calls.interval(range(6)) == (0, 5)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_work_between_calls(tmp_path, monkeypatch):
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    pairs, started = between_calls.measure_pair("sine", cores, rounds=2, steps=1)
    assert started == {1: 0, 2: 1}
    for pair in pairs.values():
        assert pair.one.calls == pair.all.calls == 2
        assert pair.ratio > 0
    monkeypatch.setattr(between_calls, "measure_pair", lambda *_: (pairs, started))
    between_calls.main([str(tmp_path), "--pairs=6", "--threads=2"])
    written = json.loads((tmp_path / "between_calls.json").read_text())
    assert written["work"].keys() == between_calls.WORK.keys()
    for name, figures in written["work"].items():
        assert figures["ratio, 95% interval"] == [pairs[name].ratio] * 2

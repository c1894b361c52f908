"""Checkpoints under a memory_budget: the native executor computes steps again, to the same bits."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import test_native_forms
import test_native_lockstep
import torch
from fastmaml.executors import native
from fastmaml.executors.native import forms
from fastmaml.executors.native.recipes import RunRecipe
from fastmaml.program import InnerLoop, Outputs
from oracle import errors, largest, named, oracle
from programs import Case, random_case
from test_native import mlp

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(native.unavailable() is not None, reason="no native executor"),
]

STEPS = (0, 1, 2, 3, 5, 8, 13, 20)
WAYS = ("one by one", "dual", "folded", "lockstep")
DUAL = {"dual", "folded"}


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMAML_POISON", "1")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How tasks run: forced where it is possible."""
    monkeypatch.setattr(forms, "FORCED", request.param if request.param in DUAL else "dense")
    monkeypatch.setenv("FASTMAML_LOCKSTEP", "1" if request.param == "lockstep" else "0")
    return request.param


def with_steps(case: Case, steps: int, seed: int) -> Case:
    """A case that takes so many steps, with losses between them now and then."""
    loop, inputs, cotangents, wanted = case
    rng = random.Random(seed)
    weights = ()
    if loop.step_weights:
        weights = tuple(rng.choice((0.0, 1.0, rng.uniform(-1, 1))) for _ in range(steps + 1))
    if steps == 0:
        inputs = replace(inputs, rates=(None,) * len(inputs.rates))
        wanted = frozenset(key for key in wanted if not key.startswith("rate:"))
    return replace(loop, steps=steps, step_weights=weights), inputs, cotangents, wanted


def cases(way: str, seeds: range, steps: int, dtype: torch.dtype) -> Iterator[tuple[int, Case]]:
    """The random cases of these seeds that can run in this way, with so many steps."""
    for seed in seeds:
        case = random_case(seed, dtype)
        if case[0].steps == 0:  # it has no support
            continue
        if way == "lockstep":
            case = test_native_lockstep.without_refusals(case, 11)
        elif way in DUAL:
            case = test_native_forms.without_refusals(case)
        case = with_steps(case, steps, seed)
        if way == "lockstep" and not test_native_lockstep.runs_together(case):
            continue
        if way in DUAL and steps and not test_native_forms.dual_layers(case):
            continue
        yield seed, case


def recipe(case: Case, loop: InnerLoop, way: str) -> RunRecipe:
    _, inputs, cotangents, wanted = case
    return RunRecipe(loop, inputs, adapted=way not in DUAL, cotangents=cotangents, wanted=wanted)


def run(case: Case, loop: InnerLoop, way: str) -> Outputs:
    _, inputs, cotangents, wanted = case
    return native.run(loop, inputs, adapted=way not in DUAL, cotangents=cotangents, wanted=wanted)


def budgets(case: Case, way: str) -> Iterator[tuple[InnerLoop, native.Trajectory]]:
    """A case's loop with every budget at which something else is kept, from the largest one down
    to the least that is enough."""
    budget = 2**62
    while True:
        loop = replace(case[0], memory_budget=budget)
        try:
            trajectory = recipe(case, loop, way).trajectory()
        except ValueError:
            return
        assert trajectory.bytes <= budget
        yield replace(loop, memory_budget=trajectory.bytes), trajectory
        budget = trajectory.bytes - 1


def same_bits(program, a: Outputs, b: Outputs) -> bool:
    """Also where a loop diverges."""
    a, b = named(program, a), named(program, b)
    assert a.keys() == b.keys()
    return all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("steps", STEPS)
def test_every_budget_gives_the_same_bits(way: str, steps: int, dtype: torch.dtype):
    kept, seen = set(), set()
    for seed, case in cases(way, range(80), steps, dtype):
        free = run(case, case[0], way)
        for loop, trajectory in budgets(case, way):
            outputs = run(case, loop, way)
            assert same_bits(loop.program, outputs, free), (seed, trajectory)
            kept.add((trajectory.segment, trajectory.activations))
            if 0 < trajectory.segment < steps:
                seen |= features(case)
    assert (max(steps, 1), max(steps, 1)) in kept
    if steps < 3:
        return
    # of all steps, with activations of some; of all but one, and of one alone, unless two of three
    # take no more; and what does not come out even
    segments = {segment for segment, _ in kept}
    assert steps - 1 in segments
    assert 1 in segments or (way, steps) == ("lockstep", 3)
    assert any(0 < activations < steps for segment, activations in kept if segment == steps)
    assert any(steps % segment for segment, _ in kept if segment)
    assert any(1 < segment < steps for segment, activations in kept if 0 < activations < segment)
    expected = {"momentum", "losses between", "rates by element", "rates by tensor", "dropout"}
    if way in DUAL:
        expected.remove("rates by element")
    if way == "lockstep":
        expected.remove("dropout")
    assert seen == expected


def features(case: Case) -> set[str]:
    """What a case has that steps must find again."""
    loop, inputs, _, wanted = case
    found = set()
    if loop.momentum:
        found.add("momentum")
    if any(map(loop.step_weight, range(loop.steps))):
        found.add("losses between")
    if any(op.kind == "dropout" for op in loop.program.ops):
        found.add("dropout")
    for slot, rate in zip(loop.program.slots, inputs.rates, strict=True):
        if rate is not None and f"rate:{slot.name}" in wanted:
            found.add("rates by tensor" if rate.numel() == len(rate) else "rates by element")
    return found


@pytest.mark.parametrize("steps", STEPS)
def test_the_least_memory_agrees_with_autograd(way: str, steps: int):
    compared = 0
    for seed, case in cases(way, range(25), steps, torch.float64):
        *_, (loop, trajectory) = budgets(case, way)
        exact = oracle(*case, adapted=way not in DUAL)
        if not all(largest(tensor) < 100 for tensor in named(loop.program, exact).values()):
            continue  # it diverges in so many steps
        found = errors(loop.program, run(case, loop, way), exact)
        assert all(error <= 1e-9 for error in found.values()), (seed, trajectory, found)
        is_all = trajectory.segment == steps and trajectory.activations in (0, steps)
        compared += not is_all or steps < 2
    assert compared >= 3


@pytest.mark.parametrize(("sizes", "tasks"), [([40, 40, 7], 20), ([300, 300, 7], 1)])
def test_any_threads_find_the_same_bits_in_one_budget(sizes: list[int], tasks: int):
    """One task of 300-300-7 is given several threads; of many tasks each thread has less room."""
    case = mlp(sizes, tasks, 40, 9, 13)
    free = run(case, case[0], "one by one")
    torch.set_num_threads(3)
    *_, (loop, _) = budgets(case, "one by one")
    segments = []
    for threads in (3, 2, 1):
        torch.set_num_threads(threads)
        segments.append(recipe(case, loop, "one by one").trajectory().segment)
        assert same_bits(loop.program, run(case, loop, "one by one"), free), threads
    assert segments[0] < 13
    assert (segments[0] < segments[-1]) == (tasks > 1)


@pytest.mark.parametrize("steps", [16, 100, 400])
def test_parameter_sets_grow_with_the_root_of_the_steps(steps: int):
    loop, inputs, cotangents, wanted = mlp([64, 64, 5], 1, 2, 2, steps)
    wanted = {key for key in wanted if key.startswith("parameter:")}
    case = loop, inputs, cotangents, wanted
    (_, most), *_, (_, least) = budgets(case, "one by one")
    numbers = sum(slot.size for slot in loop.program.slots)
    assert most.kept >= 4 * numbers * (steps + 1)
    assert least.kept <= 4 * numbers * (2 * math.sqrt(steps) + 1)
    assert least.activations == 1

"""Tasks in lockstep, one in each lane of the vectors: exact, chosen by cost, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import fastmaml as fm
import pytest
import torch
from fastmaml.executors import native
from fastmaml.executors.native import forms
from oracle import errors, flatten, float32_tolerance, named, oracle
from programs import Case, random_case
from test_executors import check_products, random_vectors
from torch import nn

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(native.unavailable() is not None, reason="no native executor"),
]


@pytest.fixture(autouse=True)
def _poison_and_no_dual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMAML_POISON", "1")
    monkeypatch.setattr(forms, "FORCED", "dense")


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lockstep wherever it is possible."""
    monkeypatch.setenv("FASTMAML_LOCKSTEP", "1")


def without_refusals(case: Case, tasks: int | None = None) -> Case:
    """A case as it would be if nothing in it but its ops kept tasks from running in lockstep, and
    with so many tasks, whose samples are those of the case over and over."""
    loop, inputs, cotangents, wanted = case
    samples = {"support_x", "support_y", "support_weights"}
    samples |= {key.replace("support", "query") for key in samples}
    chosen = torch.arange(tasks or inputs.tasks) % inputs.tasks

    def repeated(tensor):
        return None if tensor is None else tensor[chosen]

    def full(part):
        if part is None:
            return None
        return replace(
            part, x=repeated(part.x), y=repeated(part.y), weights=repeated(part.weights), size=None
        )

    parameters = tuple(
        repeated(parameter) if inputs.per_task(loop.program, slot) else parameter
        for slot, parameter in enumerate(inputs.parameters)
    )
    inputs = replace(
        inputs, parameters=parameters, support=full(inputs.support), query=full(inputs.query)
    )
    return loop, inputs, cotangents.map(repeated), wanted - samples


def runs_together(case: Case) -> bool:
    loop, inputs, _, wanted = case
    return native.lockstep(loop, inputs, wanted).why_not is None


def run(case: Case):
    loop, inputs, cotangents, wanted = case
    return native.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)


def cases_together(
    seeds: range, tasks: Callable[[int], int | None], dtype: torch.dtype = torch.float64
) -> Iterator[tuple[int, Case]]:
    """The random cases of these seeds that can run in lockstep, with so many tasks."""
    for seed in seeds:
        case = without_refusals(random_case(seed, dtype), tasks(seed))
        if runs_together(case):
            yield seed, case


@pytest.mark.parametrize("start", range(0, 240, 40))
def test_random_programs_agree_with_autograd(together, start: int):
    # fewer than a vector has lanes, one group that is full, groups of several sizes
    cases = list(cases_together(range(start, start + 40), lambda seed: (None, 8, 16, 19)[seed % 4]))
    assert len(cases) >= 10
    for seed, case in cases:
        exact = oracle(*case)
        found = errors(case[0].program, run(case), exact)
        assert all(error <= 1e-9 for error in found.values()), (seed, found)


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_random_programs_in_float32(together, start: int):
    cases = list(cases_together(range(start, start + 20), lambda _: 18, torch.float32))
    assert len(cases) >= 5
    for seed, case in cases:
        exact, tolerances = float32_tolerance(*case)
        found = errors(case[0].program, run(case), exact)
        assert all(error <= tolerances[name] for name, error in found.items()), (seed, found)


def test_hessian_products(together):
    compared = 0
    for seed, (loop, inputs, _, _) in cases_together(range(60), lambda _: 11):
        if inputs.support is None or loop.loss is None:
            continue
        vectors = random_vectors(seed, loop, inputs)
        check_products(seed, loop, inputs, vectors, native.hvp(loop, inputs, vectors))
        compared += 1
    assert compared >= 10


def test_any_number_of_threads_gives_the_same_bits(together):
    before = torch.get_num_threads()
    cases = list(cases_together(range(40), lambda _: 37, torch.float32))
    assert len(cases) >= 8
    for seed, case in cases:
        program = case[0].program
        torch.set_num_threads(1)
        clean = named(program, run(case))
        torch.set_num_threads(3)
        again = named(program, run(case))
        torch.set_num_threads(before)
        for name, tensor in clean.items():
            assert torch.equal(tensor, again[name]), (seed, name)


def test_nan_stays_in_its_task(together):
    compared = 0
    for seed, case in cases_together(range(40), lambda _: 9):
        loop, inputs, cotangents, wanted = case
        if inputs.query is None:
            continue
        clean = run(case)
        x = inputs.query.x.clone()
        x[4] = float("nan")
        spoilt = run((loop, replace(inputs, query=replace(inputs.query, x=x)), cotangents, wanted))
        others = [0, 1, 2, 3, 5, 6, 7, 8]
        for before, after in zip(flatten(clean), flatten(spoilt), strict=True):
            assert before is None or torch.equal(before[others], after[others]), seed
        assert spoilt.prediction[4].isnan().all()
        compared += 1
    assert compared >= 10


def sine(tasks: int, width: int = 40) -> tuple[fm.MAML, list[torch.Tensor]]:
    hidden = nn.Linear(width, width)
    model = nn.Sequential(nn.Linear(1, width), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(width, 1))
    return fm.MAML(model, lr=0.01, steps=2, loss="mse"), [torch.randn(tasks, 10, 1)] * 4


def test_the_plan_says_how_the_tasks_run(monkeypatch):
    maml, samples = sine(64)
    assert "tasks in lockstep" in str(maml.plan(samples[0], samples[2]))
    large, wide = sine(64, 512)
    placement = large.plan(wide[0], wide[2]).placement
    assert placement == "tasks one by one, not in lockstep: they end sooner so"
    dropout = fm.MAML(nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5)), 0.1, 1, "mse")
    assert "there is dropout" in dropout.plan(samples[0], samples[2]).placement
    needs_grad = samples[0].clone().requires_grad_()
    assert "gradients of the samples are wanted" in maml.plan(needs_grad, samples[2]).placement
    monkeypatch.setenv("FASTMAML_LOCKSTEP", "0")
    assert "FASTMAML_LOCKSTEP forbids it" in maml.plan(samples[0], samples[2]).placement


def test_no_layer_is_dual_where_tasks_run_in_lockstep(monkeypatch):
    monkeypatch.setattr(forms, "FORCED", None)
    # ten inputs, two samples: alone, the dual form would pay
    model = nn.Sequential(nn.Linear(200, 8), nn.ReLU(), nn.Linear(8, 1))
    maml = fm.MAML(model, lr=0.01, steps=5, loss="mse")
    plans = {}
    for switch in "01":
        monkeypatch.setenv("FASTMAML_LOCKSTEP", switch)
        plans[switch] = maml.plan(torch.randn(64, 2, 200), torch.randn(64, 2, 200))
    assert "dual" in plans["0"].forms["0.weight"].split(":")[0]
    assert plans["1"].forms["0.weight"] != plans["0"].forms["0.weight"]
    assert "the tasks run in lockstep" in plans["1"].forms["0.weight"]


@pytest.mark.parametrize("switch", "01")
def test_bits_do_not_depend_on_how_many_tasks_there_are(switch, monkeypatch):
    monkeypatch.setenv("FASTMAML_LOCKSTEP", switch)
    maml, (x, *_) = sine(20)
    y = torch.sin(x)
    whole = maml(x, y, x, y)
    for task in (0, 7, 19):
        alone = maml(*[tensor[task : task + 1] for tensor in (x, y, x, y)])
        assert torch.equal(whole.prediction[task], alone.prediction[0])

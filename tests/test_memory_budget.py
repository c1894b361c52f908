"""`memory_budget`: what may be given, who keeps to it, and what a call then takes."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmaml as fm
import pytest
import torch
from fastmaml import functional
from fastmaml.executors import native
from fastmaml.executors.generic import chunk, inner_loop
from fastmaml.executors.native import forms
from generic_models import OldSquare, Squared
from small_problems import EXACT, double, gradients
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
WRAPPERS: tuple[Callable[..., fm.MetaLearner], ...] = (
    lambda net, **options: fm.MAML(net, 0.1, 30, **options),
    lambda net, **options: fm.ANIL(net, lr=0.1, steps=30, **options),
    lambda net, **options: fm.MetaSGD(net, 0.1, 30, **options),
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
]
needs_native = pytest.mark.skipif(native.unavailable() is not None, reason="no native executor")


def least(call: Callable[[int], Any]) -> int:
    """The least budget of a call, as its error says."""
    with pytest.raises(ValueError, match=r"memory_budget must be at least .*, got 1$") as error:
        call(1)
    return int(re.search(r"at least (\d+) bytes", str(error.value))[1])


@needs_native
@pytest.mark.parametrize("make", WRAPPERS, ids=["MAML", "ANIL", "MetaSGD"])
def test_the_least_budget_is_enough_and_gives_the_same_bits(net, episode, make):
    free = make(net)
    found = gradients(free(*episode).loss, free)
    enough = least(lambda budget: make(net, memory_budget=budget)(*episode))
    budgeted = make(net, memory_budget=enough)
    with pytest.raises(ValueError, match=rf"at least {enough} bytes .* got {enough - 1}$"):
        make(net, memory_budget=enough - 1)(*episode)
    assert budgeted.plan(*episode[::2]).trajectory.segment < 30
    for a, b in zip(found, gradients(budgeted(*episode).loss, budgeted), strict=True):
        assert torch.equal(a, b)
    adapted, freely = budgeted.adapt(*episode[:2]), free.adapt(*episode[:2])
    assert torch.equal(adapted(episode[2]), freely(episode[2]))


@needs_native
@pytest.mark.parametrize(("threads", "told"), [(1, "1 thread"), (2, "2 threads")])
def test_the_error_says_on_how_many_threads(net, episode, threads, told):
    maml = fm.MAML(net, 0.1, 30, memory_budget=1000)
    torch.set_num_threads(threads)
    message = rf"^memory_budget must be at least \d+ bytes for this call on {told}, got 1000$"
    for call in (lambda: maml(*episode), lambda: maml.plan(*episode[::2])):
        with pytest.raises(ValueError, match=message):
            call()
    torch.set_num_threads(1)


@needs_native
def test_a_gradient_may_need_more_than_its_call(net, episode):
    sx, sy, qx, _ = episode

    def adapt(budget: int) -> dict[str, Tensor]:
        return functional.adapt(net, sx, sy, lr=0.1, steps=30, memory_budget=budget)

    enough = least(adapt)
    prediction = functional.predict(net, qx, parameters=adapt(enough))
    with pytest.raises(ValueError, match=f"memory_budget must be at least .* got {enough}$"):
        prediction.sum().backward()
    prediction = functional.predict(net, qx, parameters=adapt(4 * enough))
    found = torch.autograd.grad(prediction.sum(), list(net.parameters()))
    freely = functional.adapt(net, sx, sy, lr=0.1, steps=30)
    prediction = functional.predict(net, qx, parameters=freely)
    for a, b in zip(
        found, torch.autograd.grad(prediction.sum(), list(net.parameters())), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("budget", "error"),
    [(0, ValueError), (-5, ValueError), (2**63, ValueError), (1.5, TypeError), ("1 MiB", TypeError),
     (True, TypeError)],
)  # fmt: skip
def test_what_is_no_budget_is_refused_by_name(net, episode, budget, error):
    calls = (
        lambda: fm.MAML(net, 0.1, 2, memory_budget=budget),
        lambda: functional.meta_loss(net, *episode, lr=0.1, memory_budget=budget),
        lambda: functional.adapt(net, *episode[:2], lr=0.1, memory_budget=budget),
        lambda: functional.plan(net, *episode[::2], lr=0.1, memory_budget=budget),
    )
    for call in calls:
        with pytest.raises(error, match="memory_budget must be"):
            call()


def test_the_reference_refuses_one(net, episode):
    with pytest.raises(fm.BackendError, match="backend='reference': it keeps to no memory_budget"):
        fm.MAML(net, 0.1, 2, backend="reference", memory_budget=2**40)(*episode)


def test_generic_runs_as_many_tasks_side_by_side_as_fit(net, episode, monkeypatch):
    side_by_side = []
    fitting = chunk.Chunk.fitting

    def spy(self: chunk.Chunk, pass_bytes: int) -> int:
        side_by_side.append(fitting(self, pass_bytes))
        return side_by_side[-1]

    monkeypatch.setattr(chunk.Chunk, "fitting", spy)

    def maml(budget: int | None = None) -> fm.MAML:
        return fm.MAML(net, 0.1, 3, backend="generic", memory_budget=budget)

    exact = gradients(maml()(*episode).loss, net)
    assert side_by_side[-1] > 100
    enough = least(lambda budget: maml(budget)(*episode))
    out = maml(enough)(*episode)
    assert side_by_side[-1] == 1
    for a, b in zip(exact, gradients(out.loss, net), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_generic_keeps_graphs_of_steps_where_they_fit(monkeypatch):
    torch.manual_seed(0)
    model = Squared(OldSquare).double()  # by double backward, task by task
    x, y = double(2, 3, 3), torch.tensor([[0, 1, 1], [1, 0, 1]])
    kept = []
    keeps_graphs = inner_loop._keeps_graphs

    def spy(*arguments: Any) -> bool:
        kept.append(keeps_graphs(*arguments))
        return kept[-1]

    monkeypatch.setattr(inner_loop, "_keeps_graphs", spy)

    def found(budget: int | None = None) -> list[Tensor]:
        kept.clear()
        maml = fm.MAML(model, 0.1, 3, memory_budget=budget)
        return gradients(maml(x, y, x, y).loss, model)

    free = found()
    assert kept == [True, True]
    tight = found(least(found))
    assert kept == [False, False]
    for a, b in zip(free, tight, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("make", WRAPPERS, ids=["MAML", "ANIL", "MetaSGD"])
def test_wrappers_carry_the_budget(net, make):
    learner = make(net, memory_budget=2**24)
    assert "memory_budget=16777216" in repr(learner)
    assert "memory_budget" not in repr(make(net))
    for other in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert other.memory_budget == 2**24
    other = make(net)
    other.load_state_dict(learner.state_dict())
    assert other.memory_budget is None


@needs_native
def test_the_plan_says_what_is_kept(net, episode):
    sx, _, qx, _ = episode
    free = fm.MAML(net, 0.1, 30).plan(sx, qx)
    assert "trajectory kept of all 30 steps; " in str(free)
    tight = least(lambda budget: fm.MAML(net, 0.1, 30, memory_budget=budget).plan(sx, qx))
    plan = fm.MAML(net, 0.1, 30, memory_budget=tight).plan(sx, qx)
    assert plan.trajectory.bytes == tight < free.trajectory.bytes
    assert re.search(
        r"^trajectory \d+ checkpoints of \d+ steps, \d+ of 30 steps computed again", str(plan), re.M
    )
    first_order = fm.MAML(net, 0.1, 30, first_order=True).plan(sx, qx)
    assert "trajectory nothing of the steps kept, since no gradient reads it; " in str(first_order)
    first_order = fm.MAML(net, 0.1, 3, first_order=True, step_weights=[1.0] * 4).plan(sx, qx)
    assert "trajectory kept of all 3 steps, no activations kept; " in str(first_order)
    assert fm.MAML(net, 0.1, 30, backend="generic").plan(sx, qx).trajectory is None


@needs_native
def test_tasks_run_one_by_one_where_their_groups_do_not_fit(monkeypatch):
    """Whatever the number of threads: that choice may change the last digits."""
    monkeypatch.setattr(forms, "FORCED", "dense")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
    )
    x = torch.randn(64, 10, 1)
    data = (x, x.sin(), x, x.sin())

    def maml(budget: int | None = None) -> fm.MAML:
        return fm.MAML(model, lr=0.01, steps=20, loss="mse", memory_budget=budget)

    assert "in lockstep, " in maml().plan(x, x).placement
    enough = {}
    for switch in "01":
        monkeypatch.setenv("FASTMAML_LOCKSTEP", switch)
        enough[switch] = least(lambda budget: maml(budget)(*data))
    monkeypatch.delenv("FASTMAML_LOCKSTEP")
    assert enough["0"] < enough["1"]
    placement = maml(enough["1"] - 1).plan(x, x).placement
    assert placement.endswith(
        "not in lockstep: memory_budget holds no group of tasks on every core"
    )
    alone = maml(enough["1"] - 1)(*data)
    monkeypatch.setenv("FASTMAML_LOCKSTEP", "0")
    assert torch.equal(alone.task_loss, maml()(*data).task_loss)


SCRIPT = """
import sys
import torch
import fastmaml as fm
from bench.memory import PeakMemory
from torch import nn

torch.set_num_threads(2)
torch.manual_seed(0)
budget = int(sys.argv[1]) or None
model = nn.Sequential(
    nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 5)
)
maml = fm.MAML(model, 0.01, 40, backend="native", memory_budget=budget)
data = [torch.randn(8, 5, 64), torch.randint(5, (8, 5))] * 2
fm.MAML(model, 0.01, 1, backend="native")(*data).loss.backward()  # what stays of a first call
results = 4 * sum(parameter.numel() for parameter in model.parameters())
for parameter in model.parameters():
    parameter.grad = None
memory = PeakMemory(torch.device("cpu"))
memory.start()
maml(*data).loss.backward()
print(memory.peak() - results)
"""


def peak(budget: int) -> int:
    """Bytes that a meta-gradient takes beside its inputs and results, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(budget)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_memory_of_a_process_keeps_to_the_budget():
    budget = 16 * 2**20
    assert peak(0) > 24 * 2**20
    counters_lag = 2**19
    assert peak(budget) <= budget + counters_lag

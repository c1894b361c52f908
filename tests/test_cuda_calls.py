"""Calls on a CUDA device beside others: other devices, streams, captured graphs, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import fastmaml as fm
import pytest
import torch
from device import DEVICE, ELSEWHERE, needs_cuda, needs_device, skip_if_refused, there
from fastmaml import functional
from fastmaml.executors.native import compiled
from generic_models import Recurrent
from small_problems import double
from torch import Tensor, nn

pytestmark = [
    needs_device,
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
    pytest.mark.filterwarnings("ignore:fastmaml runs its inner loop in float32 under autocast"),
]


@pytest.fixture(params=["native", "reference"])
def kernels(request: pytest.FixtureRequest) -> str:
    """The executors that do not look at numbers on the host."""
    skip_if_refused(request.param)
    return request.param


class Problem:
    """A model, a learner of it and its tasks; two with the same seed find the same bits."""

    def __init__(self, backend: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)
        ).to(DEVICE)
        self.maml = fm.MAML(self.model, lr=0.1, steps=3, backend=backend)
        self.data = self.tasks(seed)

    def tasks(self, seed: int) -> list[Tensor]:
        x, more_x = double(5, 4, 4, seed=seed + 1).float(), double(5, 6, 4, seed=seed + 2).float()
        y, more_y = x[..., :3].argmax(-1), more_x[..., :3].argmax(-1)
        return list(there((x, y, more_x, more_y)))

    def results(self, data: list[Tensor] | None = None) -> list[Tensor]:
        """The losses, the prediction and the gradients, as tensors on the device."""
        self.maml.zero_grad(set_to_none=True)
        out = self.maml(*(data or self.data), seed=1)
        out.loss.backward()
        gradients = [parameter.grad for parameter in self.model.parameters()]
        return [out.task_loss.detach(), out.prediction.detach(), *gradients]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@needs_cuda
def test_native_refuses_a_memory_budget_on_a_gpu():
    problem = Problem("native")
    problem.maml.memory_budget = 2**30
    with pytest.raises(fm.BackendError, match="it keeps to a memory_budget on CPUs alone"):
        problem.results()


# --- other devices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["support_x", "support_y", "query_x", "query_y", "weights", "query_weights", "lr"],
)
def test_a_tensor_on_another_device_is_named(device_backend: str, name: str):
    problem = Problem(device_backend)
    names = ("support_x", "support_y", "query_x", "query_y")
    arguments: dict[str, Any] = dict(zip(names, problem.data, strict=True))
    arguments |= {"weights": torch.ones(5, 4), "query_weights": torch.ones(5, 6)}
    arguments |= {"lr": torch.tensor(0.1), "backend": device_backend}
    arguments = there(arguments)
    functional.meta_loss(problem.model, **arguments)
    arguments[name] = arguments[name].to(ELSEWHERE)
    where = f"on {problem.data[0].device} like the parameters, got {ELSEWHERE}"
    with pytest.raises(ValueError, match=f"{name} must be {where}"):
        functional.meta_loss(problem.model, **arguments)


def test_a_model_on_another_device_is_named(device_backend: str):
    problem = Problem(device_backend)
    model = deepcopy(problem.model).to(ELSEWHERE)
    with pytest.raises(ValueError, match=f"support_x must be on {ELSEWHERE} like the parameters"):
        fm.MAML(model, 0.1, 1, backend=device_backend)(*problem.data)
    problem.model[0].to(ELSEWHERE)
    with pytest.raises(ValueError, match=r"must be on .* like the parameters"):
        problem.results()


def test_tokens_on_another_device_are_named():
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(9, 2)).to(DEVICE)
    tokens, y = torch.zeros(2, 4, 3, dtype=torch.int64, device=ELSEWHERE), torch.zeros(2, 4).long()
    with pytest.raises(ValueError, match="support_x must be on"):
        fm.MAML(model, 0.1, 1)(tokens, y, tokens, y)


def test_autocast_does_not_change_the_arithmetic(device_backend: str):
    problem = Problem(device_backend)
    expected = problem.results()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found = problem.results()
    assert same(found, expected)


# --- streams --------------------------------------------------------------------------------------


@pytest.fixture
def busy() -> Callable[[], torch.cuda.Event]:
    """Keeps the current stream busy for some milliseconds; the event that follows."""
    matrix = torch.randn(4096, 4096, device=DEVICE)

    def work() -> torch.cuda.Event:
        for _ in range(60):
            matrix @ matrix
        event = torch.cuda.Event()
        event.record()
        return event

    work()
    torch.cuda.synchronize()
    return work


@pytest.fixture
def no_waiting() -> Iterator[Callable[[str], None]]:
    """torch.cuda.set_sync_debug_mode, set back afterwards."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_a_call_runs_on_the_current_stream(device_backend: str, busy):
    """It reads what the stream writes before, however late that is."""
    problem = Problem(device_backend)
    fresh = problem.tasks(7)
    expected = problem.results(fresh)
    buffers, side = problem.tasks(0), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        busy()
        for buffer, tensor in zip(buffers, fresh, strict=True):
            buffer.copy_(tensor)
        found = problem.results(buffers)
    side.synchronize()
    assert same(found, expected)


@needs_cuda
def test_a_call_does_not_wait_for_the_device(kernels: str, busy, no_waiting):
    problem = Problem(kernels)
    expected = problem.results()
    problem.results()
    torch.cuda.synchronize()
    event = busy()
    no_waiting("error")
    found = problem.results()
    no_waiting("default")
    if kernels == "native":  # the other takes longer than the stream is busy
        assert not event.query()
    assert same(found, expected)


@needs_cuda
def test_captured_graphs_read_new_numbers(kernels: str):
    problem, twin = Problem(kernels), Problem(kernels)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            problem.results()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = problem.results()
    for seed in (3, 5):
        for buffer, tensor in zip(problem.data, problem.tasks(seed), strict=True):
            buffer.copy_(tensor)
        with torch.no_grad():
            for mine, others in zip(
                problem.model.parameters(), twin.model.parameters(), strict=True
            ):
                others.copy_(mine.mul_(1.01))
        graph.replay()
        assert same(captured, twin.results(problem.tasks(seed)))


@needs_cuda
def test_a_capture_leaves_no_number_to_later_calls():
    """Rates and shares of tasks are kept for later calls, but those of a graph are the graph's."""
    problem = Problem("reference")
    few = [tensor[:3].clone() for tensor in problem.data]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        problem.results()
    torch.cuda.current_stream().wait_stream(side)
    problem.maml.lr = 0.0625  # which no call before had
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = problem.results(few)
    expected = problem.results(few)  # before the graph ever runs
    graph.replay()
    assert same(captured, expected)


# --- threads --------------------------------------------------------------------------------------


def in_threads(work: Callable[[int], bool], count: int, seconds: float = 60) -> list[bool]:
    """What `work` says in each thread; a thread that hangs says nothing."""
    said: list[bool] = []
    threads = [
        threading.Thread(target=lambda turn=turn: said.append(work(turn)), daemon=True)
        for turn in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    return said


def test_threads_find_the_same_bits(device_backend: str):
    problems = [Problem(device_backend, seed) for seed in range(2)]
    expected = [problem.results() for problem in problems]

    def work(turn: int) -> bool:
        problem = deepcopy(problems[turn])
        return all(same(problem.results(), expected[turn]) for _ in range(8))

    assert in_threads(work, 2) == [True, True]


def test_threads_of_recurrent_models_do_not_wait_for_each_other_forever():
    """Autograd's thread for a GPU may run the backward pass of one while another holds the lock."""
    torch.manual_seed(0)
    models = [Recurrent(nn.GRU).to(DEVICE) for _ in range(2)]
    x, y = there((double(3, 4, 3, 3).float(), double(3, 4, 2, seed=3).float()))

    def work(turn: int) -> bool:
        maml = fm.MAML(models[turn], 0.1, 2, loss="mse", backend="generic")
        for _ in range(4):
            out = maml(x, y, x, y)
            # not the gradient that the first pass left: another run of the inner loop
            out.task_loss.square().sum().backward()
        return True

    assert in_threads(work, 2) == [True, True]


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_kernel_compiled_for_the_calls(monkeypatch, dtype: torch.dtype):
    """It comes after so many runs, once for each kind of call, and its last digits may differ."""
    skip_if_refused("native")
    monkeypatch.setattr(compiled, "runs_before", lambda: 3)
    sources = []
    kernel = compiled.kernel
    monkeypatch.setattr(compiled, "kernel", lambda *what: sources.append(what) or kernel(*what))
    problem = Problem("native", seed=9)
    problem.model.to(dtype)
    data = [t.to(dtype) if t.is_floating_point() else t for t in problem.data]
    before = [problem.results(data) for _ in range(3)]
    assert not sources
    after = [problem.results(data) for _ in range(3)]
    assert len(sources) == len(set(sources)) >= 1
    assert all(same(before[0], other) for other in before)
    assert all(same(after[0], other) for other in after)
    digits = 1e-12 if dtype == torch.float64 else 1e-5
    for one, other in zip(before[0], after[0], strict=True):
        torch.testing.assert_close(one, other, rtol=digits, atol=digits)


@needs_cuda
@pytest.mark.parametrize("runs_before", [0, None], ids=["compiled", "for all calls"])
@pytest.mark.parametrize("blocks", [1, 2, 4, 8, 16])
def test_many_blocks_run_a_task(monkeypatch, blocks: int, runs_before: int | None):
    """Clusters of every size, of large products and of small ones, whole and not."""
    skip_if_refused("native")
    monkeypatch.setattr(compiled, "runs_before", lambda: runs_before)
    monkeypatch.setenv("FASTMAML_BLOCKS", str(blocks))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 70),
        nn.Tanh(),
        nn.Linear(70, 65),
        nn.LayerNorm(65),
        nn.ReLU(),
        nn.Linear(65, 2),
    ).double()
    x, y = double(2, 90, 3), double(2, 90, 2)
    data = (x, y, -x, y)

    def gradients(device: str, backend: str) -> list[Tensor]:
        learner = fm.MAML(deepcopy(model).to(device), 0.05, 2, "mse", backend=backend)
        there = [part.to(device) for part in data]
        for _ in range(2):
            learner.zero_grad()
            learner(*there).loss.backward()
        if backend == "native" and torch.cuda.get_device_capability() >= (9, 0):
            assert f"{blocks} x " in str(learner.plan(there[0], there[2]))
        return [parameter.grad.cpu() for parameter in learner.parameters()]

    for one, other in zip(gradients("cuda", "native"), gradients("cpu", "reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@needs_cuda
def test_calls_go_on_where_no_kernel_can_be_compiled(monkeypatch):
    skip_if_refused("native")
    monkeypatch.setattr(compiled, "runs_before", lambda: 0)
    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(compiled, "binary", lambda *_, **__: b"no kernel")
    problem = Problem("native", seed=11)
    with pytest.warns(UserWarning, match="no kernel is compiled"):
        found = problem.results()
    monkeypatch.setattr(compiled, "runs_before", lambda: None)
    assert same(found, Problem("native", seed=11).results())

"""What only the native executor promises: the same bits from any threads, neighbours and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from fastmaml.executors import native, reference
from fastmaml.extension import extension
from fastmaml.program import INPUT, Cotangents, InnerLoop, Inputs, Loss, Outputs, Samples
from oracle import errors, flatten, oracle
from programs import Builder, random_case
from torch import Tensor

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no native executor: {native.unavailable()}"
)


@pytest.fixture(autouse=True)
def _poison(monkeypatch):
    """Working memory begins as NaN, so that a number read before it is written shows."""
    monkeypatch.setenv("FASTMAML_POISON", "1")


@pytest.fixture
def threads():
    """Sets the number of threads; puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def mlp(sizes: list[int], tasks: int, n: int, m: int, steps: int, dtype=torch.float32):
    """A batch-normalised MLP with cross entropy, large enough to be given several cores a task."""
    build = Builder([(sizes[0],)])
    x = 0
    for width, following in pairwise(sizes):
        weight, bias = build.slot(following, width), build.slot(following)
        x = build.op("linear", (x,), (following,), (weight, bias))
        x = build.op("batch_norm", (x,), None, (None, None), eps=1e-5)
        x = build.op("tanh", (x,))
    program = build.program()
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    def samples(count: int) -> Samples:
        labels = torch.randint(0, sizes[-1], (tasks, count), generator=generator)
        return Samples(normal(tasks, count, sizes[0]), labels)

    loop = InnerLoop(program, Loss("cross_entropy"), (True,) * len(program.slots), steps)
    parameters = tuple(0.1 * normal(*slot.shape) for slot in program.slots)
    rates = tuple(torch.tensor([0.1], dtype=dtype) for _ in program.slots)
    inputs = Inputs(parameters, rates, samples(n), samples(m))
    cotangents = Cotangents(task_loss=torch.full((tasks,), 1 / tasks, dtype=dtype))
    wanted = {key for key, tensor in inputs.tensors(program) if tensor.is_floating_point()}
    return loop, inputs, cotangents, wanted


def run(case) -> list[Tensor]:
    """Every tensor that comes back."""
    loop, inputs, cotangents, wanted = case
    outputs = native.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
    tensors = [*flatten(outputs), *outputs.gradients.values()]
    return [tensor for tensor in tensors if tensor is not None]


def select(inputs: Inputs, loop: InnerLoop, tasks: list[int]) -> Inputs:
    """The inputs of some of the tasks."""

    def cut(samples: Samples | None) -> Samples | None:
        if samples is None:
            return None
        tensors = {
            name: None if getattr(samples, name) is None else getattr(samples, name)[tasks]
            for name in ("x", "y", "weights")
        }
        return Samples(**tensors, size=samples.size and tuple(samples.size[task] for task in tasks))

    parameters = tuple(
        parameter[tasks] if inputs.per_task(loop.program, slot) else parameter
        for slot, parameter in enumerate(inputs.parameters)
    )
    return replace(
        inputs, parameters=parameters, support=cut(inputs.support), query=cut(inputs.query)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tasks", [1, 2, 70])
def test_same_bits_from_any_number_of_threads(tasks, dtype, threads):
    # One task of 300-300-7 is given several cores; 70 tasks are more than there are chunks.
    case = mlp([300, 300, 7], tasks, 40, 9, 2, dtype)
    threads(1)
    alone = run(case)
    for count in (2, 3, 5):
        threads(count)
        together = run(case)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_large_tasks_share_the_cores(dtype, threads):
    # Three tasks do not come out even on two cores: each is given both.
    case = mlp([120, 120, 7], 3, 600, 9, 2, dtype)
    loop, inputs, cotangents, wanted = case
    exact = reference.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    threads(1)
    alone = run(case)
    for key, gradient in exact.gradients.items():
        ours = native.run(loop, inputs, cotangents=cotangents, wanted=wanted).gradients[key]
        assert (ours - gradient).abs().max() <= tolerance * gradient.abs().max().clamp(min=1e-3)
    for count in (2, 4):
        threads(count)
        assert all(torch.equal(a, b) for a, b in zip(alone, run(case), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_same_bits_whatever_the_neighbours(seed, monkeypatch):
    monkeypatch.setenv("FASTMAML_LOCKSTEP", "0")  # which hangs on how many tasks there are
    loop, inputs, _, _ = random_case(seed, torch.float32, dropout=False)
    if inputs.tasks == 1:
        inputs = select(inputs, loop, [0, 0, 0])
    whole = native.run(loop, inputs, adapted=True)
    for task in range(inputs.tasks):
        one = [task]
        alone = native.run(loop, select(inputs, loop, one), adapted=True)
        for many, single in zip(flatten(whole), flatten(alone), strict=True):
            assert many is None or torch.equal(many[one], single)


def test_nan_stays_in_its_task():
    loop, inputs, cotangents, wanted = mlp([20, 30, 5], 4, 6, 6, 3)
    clean = native.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
    x = inputs.support.x.clone()
    x[2, 1, 3] = float("nan")
    spoilt_inputs = replace(inputs, support=replace(inputs.support, x=x))
    spoilt = native.run(loop, spoilt_inputs, adapted=True, cotangents=cotangents, wanted=wanted)
    others = [0, 1, 3]
    assert torch.equal(spoilt.task_loss[others], clean.task_loss[others])
    assert torch.equal(spoilt.prediction[others], clean.prediction[others])
    assert spoilt.task_loss[2].isnan()
    for after, before in zip(spoilt.adapted, clean.adapted, strict=True):
        assert torch.equal(after[others], before[others])
    # As PyTorch's sum over tasks would be.
    assert all(spoilt.gradients[f"parameter:{s.name}"].isnan().any() for s in loop.program.slots)


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, None), (None, "sin"), ("tanh", None), (None, "add")],
    ids=["alone", "before another", "after an activation", "beside a residual"],
)
@pytest.mark.parametrize("together", ["0", "1"])
def test_a_sine_leaves_its_derivative_where_nobody_needs_its_input(
    before, after, together, monkeypatch
):
    monkeypatch.setenv("FASTMAML_LOCKSTEP", together)
    build = Builder([(3,)])
    x = build.op("linear", (INPUT,), (8,), (build.slot(8, 3), build.slot(8)))
    if before:
        x = build.op(before, (x,))
    y = build.op("sin", (x,), frequency=3.0)
    if after:
        y = build.op(after, (x, y)) if after == "add" else build.op(after, (y,), frequency=2.0)
    build.op("linear", (y,), (2,), (build.slot(2, 8), None))
    program = build.program()
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = Inputs(
        tuple(normal(*slot.shape) for slot in program.slots),
        tuple(torch.tensor([0.05], dtype=torch.float64) for _ in program.slots),
        Samples(normal(5, 4, 3), normal(5, 4, 2)),
        Samples(normal(5, 6, 3), normal(5, 6, 2)),
    )
    loop = InnerLoop(program, Loss("mse"), (True,) * len(program.slots), 3)
    cotangents = Cotangents(task_loss=torch.full((5,), 0.2, dtype=torch.float64))
    wanted = frozenset(key for key, _ in inputs.tensors(program) if key.startswith("parameter:"))
    exact = oracle(loop, inputs, cotangents, wanted)
    ours = native.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
    assert max(errors(program, ours, exact).values()) < 1e-9


def test_large_tapes_are_computed_again_in_part():
    # 64 steps of 1,200 samples pass the 64 MiB that activations may take.
    loop, inputs, cotangents, wanted = mlp([4, 30, 3], 1, 1200, 5, 64, torch.float64)
    tape_bytes = 2 * 8 * 64 * 1200 * sum(loop.program.features(v) for v in range(1, 7))
    assert tape_bytes > 64 << 20
    trajectory = native.recipe(loop, inputs, cotangents=cotangents, wanted=wanted).trajectory()
    assert trajectory.segment == 64
    assert 1 < trajectory.activations < 64
    exact = oracle(loop, inputs, cotangents, wanted)
    actual = native.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
    assert max(errors(loop.program, actual, exact).values()) < 1e-9


def supported_isas() -> list[str]:
    return [] if native.unavailable() else extension.supported_isas()


@pytest.mark.parametrize("isa", supported_isas())
def test_every_instruction_set_of_this_processor(isa):
    program = """
import torch
from fastmaml.executors import native
from fastmaml.extension import extension
from oracle import errors, oracle
from programs import random_case
assert extension.isa() == {isa!r}
for seed in range(100, 130):
    loop, inputs, cotangents, wanted = random_case(seed)
    exact = oracle(loop, inputs, cotangents, wanted)
    actual = native.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
    assert max(errors(loop.program, actual, exact).values(), default=0) < 1e-9, seed
"""
    environment = {**os.environ, "FASTMAML_ISA": isa}
    environment["PYTHONPATH"] = os.pathsep.join(
        [os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    subprocess.run([sys.executable, "-c", program.format(isa=isa)], env=environment, check=True)


def test_an_unknown_instruction_set_is_refused():
    program = "from fastmaml.executors import native; print(native.unavailable())"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FASTMAML_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "FASTMAML_ISA" in answer
    assert "mmx" in answer
    assert "portable" in answer


def test_fork_after_use(threads):
    threads(2)
    case = mlp([20, 30, 5], 8, 6, 6, 2)
    before = run(case)
    child = os.fork()
    if child == 0:
        same = all(torch.equal(a, b) for a, b in zip(before, run(case), strict=True))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_loss_and_no_support():
    loop, inputs, _, _ = mlp([20, 30, 5], 3, 6, 6, 0, torch.float64)
    loop = replace(loop, loss=None)
    inputs = replace(
        inputs, rates=(None,) * len(inputs.rates), support=None, query=Samples(inputs.query.x)
    )
    outputs = native.run(loop, inputs)
    assert isinstance(outputs, Outputs)
    assert outputs.task_loss is None
    exact = oracle(loop, inputs, adapted=False)
    assert max(errors(loop.program, outputs, exact).values()) < 1e-12

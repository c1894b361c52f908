"""Random programs on a CUDA device, in every executor, against the oracle on the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from types import ModuleType

import fastmaml as fm
import pytest
import torch
from device import DEVICE, back, needs_device, there
from fastmaml import plan
from fastmaml.program import Inputs, Outputs, Samples
from generic_models import as_module
from oracle import errors, float32_tolerance, named, oracle
from programs import Case, random_case
from test_executors import check_products, random_vectors
from torch import Tensor, nn

pytestmark = [
    needs_device,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
]

SEEDS = range(120)
FLOAT32_SEEDS = range(40)
HVP_SEEDS = range(40)
REPEATED_SEEDS = range(24)
BLOCK = 20


class Call:
    """A random call on the device, as an executor takes it."""

    def __init__(self, backend: str, case: Case) -> None:
        self.program = case[0].program
        self.loop, self.inputs, self.cotangents, self.wanted = case[0], *there(case[1:3]), case[3]
        self._module: nn.Module | None = None  # programs do not keep it alive
        if backend == "generic":
            self.loop, self._module = as_module(self.loop, self.inputs)
        self._backend = backend

    def executor(self, inputs: Inputs | None = None) -> ModuleType:
        """
        Raises:
            BackendError: it does not run this call.
        """
        return plan.choose(self.loop, inputs or self.inputs, self._backend)

    def run(self) -> Outputs:
        """All outputs and gradients, on the device."""
        return self.executor().run(
            self.loop, self.inputs, adapted=True, cotangents=self.cotangents, wanted=self.wanted
        )

    def results(self, inputs: Inputs) -> Outputs:
        """Without gradients."""
        return self.executor(inputs).run(self.loop, inputs, adapted=True)


def calls(backend: str, seeds: range, dtype: torch.dtype = torch.float64) -> Iterator[tuple]:
    """(seed, case, call) of what the executor runs; at the end, skips if there were refusals.

    The generic executor makes a trial of each program first, so it has every third of them.
    """
    seeds, refused = seeds[:: 3 if backend == "generic" else 1], {}
    for seed in seeds:
        case = random_case(seed, dtype, dropout=dtype is torch.float64)
        call = Call(backend, case)
        try:
            call.executor()
        except fm.BackendError as refusal:
            refused[seed] = str(refusal)
            continue
        yield seed, case, call
    if refused:
        pytest.skip(f"{len(refused)} of {len(seeds)} programs are refused: {refused}")


@cache
def exact_outputs(seed: int) -> Outputs:
    return oracle(*random_case(seed))


@cache
def float32_errors(seed: int) -> tuple[Outputs, dict[str, float]]:
    """The float32 rule, with PyTorch's own loop on the device among those that it looks at."""
    loop, *tensors, wanted = random_case(seed, torch.float32, dropout=False)
    exact, allowed = float32_tolerance(loop, *tensors, wanted)
    own = back(oracle(loop, *there(tuple(tensors)), wanted))
    for name, error in errors(loop.program, own, exact).items():
        allowed[name] = max(allowed[name], 2 * error)
    return exact, allowed


@pytest.mark.parametrize("start", SEEDS[::BLOCK])
def test_random_programs_agree_with_autograd(device_backend: str, start: int):
    for seed, case, call in calls(device_backend, range(start, start + BLOCK)):
        outputs = call.run()
        on_device = {t.device for t in named(call.program, outputs).values()}
        assert on_device == {call.inputs.device}
        found = errors(case[0].program, back(outputs), exact_outputs(seed))
        assert all(error <= 1e-9 for error in found.values()), (seed, found)


@pytest.mark.parametrize("start", FLOAT32_SEEDS[::BLOCK])
def test_float32_errs_no_more_than_pytorch(device_backend: str, start: int):
    for seed, case, call in calls(device_backend, range(start, start + BLOCK), torch.float32):
        exact, allowed = float32_errors(seed)
        for name, error in errors(case[0].program, back(call.run()), exact).items():
            assert error <= allowed[name], (seed, name, error, allowed[name])


@pytest.mark.parametrize("start", HVP_SEEDS[::BLOCK])
def test_hvp_agrees_with_autograd(device_backend: str, start: int):
    compared = 0
    for seed, (loop, inputs, *_), call in calls(device_backend, range(start, start + BLOCK)):
        if inputs.support is None or loop.loss is None:
            continue
        vectors = random_vectors(seed, loop, inputs)
        products = back(call.executor().hvp(call.loop, call.inputs, there(vectors)))
        compared += check_products(seed, loop, inputs, vectors, products)
    assert compared >= BLOCK // 3


def same_bits(program: object, one: Outputs, other: Outputs) -> bool:
    tensors, others = named(program, one), named(program, other)
    return tensors.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_second_run_has_the_same_bits(device_backend: str, dtype: torch.dtype):
    for seed, _, call in calls(device_backend, REPEATED_SEEDS, dtype):
        assert same_bits(call.program, call.run(), call.run()), seed


def test_results_do_not_depend_on_neighbours(device_backend: str, monkeypatch):
    """The generic executor's products run side by side, in kernels chosen by how many there are;
    and on a CPU tasks are in lockstep where there are enough."""
    monkeypatch.setenv("FASTMAML_LOCKSTEP", "0")
    if device_backend == "generic":
        pytest.skip("not promised of it")
    compared = 0
    for seed, _, call in calls(device_backend, range(2 * BLOCK)):
        together = call.results(call.inputs)
        for tasks in range(1, call.inputs.tasks):
            few = call.results(first_tasks(call, tasks))
            for name, tensor in named(call.program, few).items():
                own = named(call.program, together)[name][:tasks]
                assert torch.equal(tensor, own), (seed, tasks, name)
                compared += 1
    assert compared >= BLOCK


def first_tasks(call: Call, tasks: int) -> Inputs:
    """The inputs of the first few tasks."""

    def of(samples: Samples | None) -> Samples | None:
        if samples is None:
            return None
        parts = [None if t is None else t[:tasks] for t in (samples.x, samples.y, samples.weights)]
        return Samples(*parts, None if samples.size is None else samples.size[:tasks])

    def of_slot(slot: int, parameter: Tensor) -> Tensor:
        return parameter[:tasks] if call.inputs.per_task(call.program, slot) else parameter

    inputs = call.inputs
    parameters = tuple(of_slot(*each) for each in enumerate(inputs.parameters))
    return replace(
        inputs, parameters=parameters, support=of(inputs.support), query=of(inputs.query)
    )


def test_a_class_that_does_not_exist_is_nan_in_its_task(device_backend: str):
    """On a GPU nobody looks at labels before: that would wait for the device."""
    if device_backend == "generic":
        pytest.skip("it runs PyTorch's own loss, which ends the process's use of the device")
    if device_backend == "native" and DEVICE.type == "cpu":
        pytest.skip("labels on the CPU are looked at before")
    checked = 0
    for seed, (loop, inputs, *_), call in calls(device_backend, SEEDS[: 2 * BLOCK]):
        query = inputs.query
        if query is None or query.y is None or query.y.dtype is not torch.int64:
            continue
        if inputs.tasks < 2 or query.weights is not None or not loop.step_weight(loop.steps):
            continue
        for label in (-1, -100, loop.program.output_shape[0], 2**40):
            y = call.inputs.query.y.clone()
            y[1, 0] = label
            spoilt = replace(call.inputs, query=replace(call.inputs.query, y=y))
            hit, clean = call.results(spoilt), call.results(call.inputs)
            is_nan = hit.task_loss.isnan().tolist()
            assert is_nan == [task == 1 for task in range(inputs.tasks)], (seed, label)
            others = [task for task in range(inputs.tasks) if task != 1]
            assert torch.equal(hit.task_loss[others], clean.task_loss[others])
            assert torch.equal(hit.prediction, clean.prediction)
            checked += 1
    assert checked >= 4

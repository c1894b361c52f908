"""Every executor against PyTorch's own derivatives of a recorded inner loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from fastmaml.program import LOSS_KINDS, OP_KINDS, Cotangents, InnerLoop, Inputs, Loss, Samples
from oracle import (
    errors,
    evaluate,
    float32_tolerance,
    largest,
    map_tensors,
    named,
    oracle,
)
from programs import Builder, Normal, random_case
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = range(240)
BLOCK = 20


@pytest.mark.parametrize("start", SEEDS[::BLOCK])
def test_random_programs_agree_with_autograd(executor: ModuleType, start: int):
    for seed in range(start, start + BLOCK):
        loop, inputs, cotangents, wanted = random_case(seed)
        exact = oracle(loop, inputs, cotangents, wanted)
        actual = executor.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
        found = errors(loop.program, actual, exact)
        assert all(error <= 1e-9 for error in found.values()), (seed, found)
        assert not any(t.requires_grad for t in named(loop.program, actual).values())


def test_random_programs_cover_everything():
    """What the seeds above reach, so that their agreement means something."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        loop, inputs, cotangents, wanted = random_case(seed)
        program = loop.program
        seen.update({op.kind for op in program.ops})
        reads = Counter(value for op in program.ops for value in op.inputs)
        slots = Counter(slot for op in program.ops for slot in op.parameters if slot is not None)
        targets = inputs.support.y.dtype if inputs.support is not None else None
        seen[f"{loop.loss.kind} {targets}" if loop.loss else "no loss"] += 1
        seen[f"{loop.steps} steps"] += 1
        seen[f"{inputs.tasks} tasks"] += 1
        seen.update(key.split(":")[0] for key in wanted)
        per_task = {inputs.per_task(program, slot) for slot in range(len(program.slots))}
        facts = {
            "a value read twice": max(reads.values()) > 1,
            "a tied slot": max(slots.values()) > 1,
            "a slot that is not adapted": not all(loop.adapted),
            "initial parameters a task": True in per_task,
            "shared initial parameters": False in per_task,
            "momentum": loop.momentum > 0,
            "step weights": bool(loop.step_weights),
            "first order": loop.first_order,
            "label smoothing": loop.loss is not None and loop.loss.label_smoothing > 0,
            "no support": inputs.support is None,
            "no query": inputs.query is None,
            "no query targets": inputs.query is not None and inputs.query.y is None,
            "padding": inputs.support is not None and inputs.support.size is not None,
            "per-step rates": any(rate is not None and len(rate) > 1 for rate in inputs.rates),
            "of the loss": cotangents.task_loss is not None,
            "of the prediction": cotangents.prediction is not None,
            "of the adapted": cotangents.adapted is not None,
        }
        seen.update(fact for fact, holds in facts.items() if holds)
        seen.update({fact: 0 for fact in facts})
    kinds = {f"{kind} torch.float64" for kind in LOSS_KINDS} | {"cross_entropy torch.int64"}
    keys = {f"{source}_{part}" for source in ("support", "query") for part in ("x", "y", "weights")}
    expected = OP_KINDS.keys() | kinds | keys | {"parameter", "rate"} | {"0 steps", "4 steps"}
    rare = {fact: seen[fact] for fact in expected | seen.keys() if seen[fact] < 3}
    assert not rare


@pytest.mark.parametrize("start", range(0, 60, BLOCK))
def test_float32_errs_no_more_than_pytorch(executor: ModuleType, start: int):
    for seed in range(start, start + BLOCK):
        loop, inputs, cotangents, wanted = random_case(seed, torch.float32, dropout=False)
        exact, allowed = float32_tolerance(loop, inputs, cotangents, wanted)
        actual = executor.run(loop, inputs, adapted=True, cotangents=cotangents, wanted=wanted)
        for name, error in errors(loop.program, actual, exact).items():
            assert error <= allowed[name], (seed, name, error, allowed[name])
        assert all(t.dtype == torch.float32 for t in named(loop.program, actual).values())


@pytest.mark.parametrize("start", range(0, 80, BLOCK))
def test_hvp_agrees_with_autograd(executor: ModuleType, start: int):
    compared = 0
    for seed in range(start, start + BLOCK):
        loop, inputs, _, _ = random_case(seed)
        if inputs.support is None or loop.loss is None:
            continue
        vectors = random_vectors(seed, loop, inputs)
        compared += check_products(seed, loop, inputs, vectors, executor.hvp(loop, inputs, vectors))
    assert compared >= BLOCK


def random_vectors(seed: int, loop: InnerLoop, inputs: Inputs) -> tuple[Tensor | None, ...]:
    """What an executor's `hvp` multiplies by."""
    draw = Normal(seed, torch.float64)
    return tuple(
        draw(inputs.tasks, *slot.shape) if moves else None
        for slot, moves in zip(loop.program.slots, loop.adapted, strict=True)
    )


def check_products(
    seed: int,
    loop: InnerLoop,
    inputs: Inputs,
    vectors: tuple[Tensor | None, ...],
    products: tuple[Tensor | None, ...],
) -> int:
    """Compare an executor's products with autograd's; how many they are."""
    compared = 0
    for task in range(inputs.tasks):
        for product, expected in zip(
            [p[task] for p in products if p is not None],
            autograd_hvp(loop, inputs, task, [v[task] for v in vectors if v is not None]),
            strict=True,
        ):
            assert largest(product - expected) <= 1e-9 * max(1.0, largest(expected)), seed
            compared += 1
    assert [p is None for p in products] == [v is None for v in vectors]
    return compared


def autograd_hvp(
    loop: InnerLoop, inputs: Inputs, task: int, vectors: list[Tensor]
) -> tuple[Tensor, ...]:
    """Grad of <grad, u>, for one task."""
    parameters = [
        (parameter[task] if inputs.per_task(loop.program, slot) else parameter)
        .clone()
        .requires_grad_()
        for slot, parameter in enumerate(inputs.parameters)
    ]
    adapted = [p for p, moves in zip(parameters, loop.adapted, strict=True) if moves]
    _, loss = evaluate(loop, inputs.support, inputs.seed, task, parameters, 0)
    gradient = torch.autograd.grad(loss, adapted, create_graph=True, materialize_grads=True)
    slope = sum((g * u).sum() for g, u in zip(gradient, vectors, strict=True))
    return torch.autograd.grad(slope, adapted, allow_unused=True, materialize_grads=True)


def wide_dropout_case() -> tuple[InnerLoop, Inputs]:
    """Two tasks of two inner steps, with two dropouts of 64 numbers each."""
    build, draw = Builder([(8,)]), Normal(0, torch.float64)
    x = build.op("linear", (0,), (64,), (build.slot(64, 8), build.slot(64)))
    x = build.op("dropout", (x,), p=0.5, stream=0)
    x = build.op("dropout", (build.op("tanh", (x,)),), p=0.25, stream=1)
    build.op("linear", (x,), (1,), (build.slot(1, 64), build.slot(1)))
    loop = InnerLoop(build.program(), Loss("mse"), (True,) * 4, steps=2)
    inputs = Inputs(
        parameters=tuple(0.3 * draw(*slot.shape) for slot in loop.program.slots),
        rates=tuple(torch.full((1,), 0.1, dtype=torch.float64) for _ in range(4)),
        support=Samples(draw(1, 4, 8).expand(2, 4, 8), draw(1, 4, 1).expand(2, 4, 1)),
        query=Samples(draw(1, 4, 8).expand(2, 4, 8), draw(1, 4, 1).expand(2, 4, 1)),
        seed=11,
    )
    return loop, inputs


def test_dropout_replays_and_differs_by_seed_and_task(executor: ModuleType):
    loop, inputs = wide_dropout_case()
    first = executor.run(loop, inputs, adapted=True)
    again = executor.run(loop, inputs, adapted=True)
    other = executor.run(loop, replace(inputs, seed=12), adapted=True)
    assert torch.equal(first.prediction, again.prediction)
    assert torch.equal(first.adapted[0], again.adapted[0])
    assert not torch.equal(first.prediction, other.prediction)
    # the two tasks have the same numbers, but masks of their own
    assert not torch.equal(first.prediction[0], first.prediction[1])
    exact = oracle(loop, inputs)
    assert max(errors(loop.program, first, exact).values()) <= 1e-12


def test_dropout_keeps_its_share(executor: ModuleType):
    build = Builder([(1000,)])
    build.op("dropout", (0,), p=0.3, stream=0)
    loop = InnerLoop(build.program(), None, (), steps=0)
    inputs = Inputs((), (), query=Samples(torch.ones(4, 25, 1000)), seed=5)
    kept = executor.run(loop, inputs).prediction != 0
    # 25,000 draws a task: six standard deviations
    assert (kept.double().mean((1, 2)) - 0.7).abs().max() < 6 * (0.3 * 0.7 / 25_000) ** 0.5
    assert (kept[0] != kept[1]).double().mean() > 0.4


def test_nan_stays_in_its_task(executor: ModuleType):
    for seed in range(40):
        loop, inputs, _, _ = random_case(seed)
        if inputs.tasks < 2:
            continue
        clean = named(loop.program, executor.run(loop, inputs, adapted=True))
        x_of_task_0_is_nan = {
            source: replace(samples, x=samples.x.index_fill(0, torch.tensor([0]), torch.nan))
            for source in ("support", "query")
            if (samples := getattr(inputs, source)) is not None
        }
        hit = executor.run(loop, replace(inputs, **x_of_task_0_is_nan), adapted=True)
        for name, tensor in named(loop.program, hit).items():
            assert torch.equal(tensor[1:], clean[name][1:]), (seed, name)


def test_padding_is_never_read(executor: ModuleType):
    for seed in range(60):
        loop, inputs, cotangents, wanted = random_case(seed)
        poisoned = replace(
            inputs, support=poison_padding(inputs.support), query=poison_padding(inputs.query)
        )
        if cotangents.prediction is not None and inputs.query.size is not None:
            bars = poison_padding(Samples(cotangents.prediction, size=inputs.query.size)).x
            poisoned_cotangents = replace(cotangents, prediction=bars)
        else:
            poisoned_cotangents = cotangents
        run = {"adapted": True, "wanted": wanted}
        clean = named(loop.program, executor.run(loop, inputs, cotangents=cotangents, **run))
        other = executor.run(loop, poisoned, cotangents=poisoned_cotangents, **run)
        for name, tensor in named(loop.program, other).items():
            assert torch.equal(tensor, clean[name]), (seed, name)


def poison_padding(samples: Samples | None) -> Samples | None:
    """NaN, or a class that does not exist, in the samples beyond a task's size."""
    if samples is None or samples.size is None:
        return samples

    def poison(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        for task, size in enumerate(samples.size):
            tensor[task, size:] = torch.nan if tensor.is_floating_point() else -1
        return tensor

    return map_tensors(samples, poison)


def test_gradients_are_for_the_keys_wanted(executor: ModuleType):
    loop, inputs, cotangents, _ = random_case(3)
    assert executor.run(loop, inputs).gradients == {}
    assert executor.run(loop, inputs, cotangents=cotangents).gradients == {}
    assert executor.run(loop, inputs).adapted is None
    everything = {key for key, t in inputs.tensors(loop.program) if t.is_floating_point()}
    full = executor.run(loop, inputs, cotangents=cotangents, wanted=everything).gradients
    assert full.keys() == everything
    for key in everything:
        alone = executor.run(loop, inputs, cotangents=cotangents, wanted={key}).gradients
        assert alone.keys() == {key}
        assert torch.equal(alone[key], full[key])


def test_first_order_gradient_of_the_support_is_zero_not_missing(executor: ModuleType):
    loop, inputs = wide_dropout_case()
    wanted = {"support_x", "support_y", "query_x"}
    found = executor.run(
        replace(loop, first_order=True),
        inputs,
        cotangents=Cotangents(task_loss=torch.ones(2, dtype=torch.float64)),
        wanted=wanted,
    ).gradients
    assert torch.equal(found["support_x"], torch.zeros(2, 4, 8, dtype=torch.float64))
    assert torch.equal(found["support_y"], torch.zeros(2, 4, 1, dtype=torch.float64))
    assert largest(found["query_x"]) > 0


def test_run_leaves_its_inputs_alone_and_ignores_autograd(executor: ModuleType):
    loop, inputs, cotangents, wanted = random_case(8)
    before = map_tensors(inputs, Tensor.clone)
    tracked = map_tensors(inputs, lambda t: t.clone().requires_grad_(t.is_floating_point()))
    run = {"adapted": True, "cotangents": cotangents, "wanted": wanted}
    plain, same = executor.run(loop, inputs, **run), executor.run(loop, tracked, **run)
    for name, tensor in named(loop.program, same).items():
        assert not tensor.requires_grad
        assert torch.equal(tensor, named(loop.program, plain)[name])
    for (key, old), (_, new) in zip(
        before.tensors(loop.program), inputs.tensors(loop.program), strict=True
    ):
        assert torch.equal(old, new), key

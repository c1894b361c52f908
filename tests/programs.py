"""Seeded random calls of an executor: programs, inputs and cotangents of every kind."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cache

import torch
from fastmaml.program import (
    INPUT,
    LOSS_KINDS,
    OP_KINDS,
    Cotangents,
    InnerLoop,
    Inputs,
    Loss,
    Op,
    Program,
    Samples,
    Slot,
)
from oracle import cast, largest, named, oracle
from torch import Tensor

Case = tuple[InnerLoop, Inputs, Cotangents, frozenset[str]]
"""loop, inputs, cotangents, wanted: what `run` takes."""


@dataclass
class Builder:
    """A program that grows by one op at a time; each method returns the value it wrote."""

    values: list[tuple[int, ...]]
    ops: list[Op] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)

    def op(
        self,
        kind: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...] | None = None,
        parameters: tuple[int | None, ...] = (),
        **attributes: float | int | None,
    ) -> int:
        """`shape` of the output, where it is not that of the first input."""
        self.values.append(self.values[inputs[0]] if shape is None else shape)
        output = len(self.values) - 1
        self.ops.append(Op(kind, inputs, output, parameters, attributes))
        return output

    def slot(self, *shape: int) -> int:
        self.slots.append(Slot(f"p{len(self.slots)}", shape))
        return len(self.slots) - 1

    def program(self) -> Program:
        output = len(self.values) - 1
        return Program(tuple(self.ops), tuple(self.values), tuple(self.slots), output)


ACTIVATIONS = (
    "relu", "leaky_relu", "elu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu", "softplus", "sin",
)  # fmt: skip
NORMS = ("batch_norm", "layer_norm", "rms_norm")


def random_program(rng: random.Random, *, dropout: bool, vector_output: bool) -> Program:
    """A chain of random ops with residual additions and tied slots, which ends in a linear."""
    shape = (rng.randint(1, 5),) if rng.random() < 0.6 else (rng.randint(1, 3), rng.randint(2, 4))
    build = Builder([shape])
    x = INPUT
    for _ in range(rng.randint(1, 7)):
        (grow,) = rng.choices(
            (_linear, _activation, _norm, _reshape, _add, _scale, _dropout),
            weights=(4, 4, 3, 1, 2, 1, int(dropout)),
        )
        x = grow(build, rng, x)
    if vector_output and len(build.values[x]) > 1:
        x = build.op("reshape", (x,), (math.prod(build.values[x]),))
    _linear(build, rng, x)
    return build.program()


def _linear(build: Builder, rng: random.Random, x: int) -> int:
    *leading, width = build.values[x]
    out = rng.choice((width, rng.randint(1, 5)))
    weight = _tied_or_new(build, rng, out, width)
    bias = _tied_or_new(build, rng, out) if rng.random() < 0.8 else None
    return build.op("linear", (x,), (*leading, out), (weight, bias))


def _tied_or_new(build: Builder, rng: random.Random, *shape: int) -> int:
    same = [index for index, slot in enumerate(build.slots) if slot.shape == shape]
    return rng.choice(same) if same and rng.random() < 0.3 else build.slot(*shape)


def _activation(build: Builder, rng: random.Random, x: int) -> int:
    kind = rng.choice(ACTIVATIONS)
    attributes = {
        "leaky_relu": {"slope": rng.choice((0.01, 0.3, -0.2))},
        "elu": {"alpha": rng.choice((1.0, 0.6))},
        "softplus": {"beta": rng.choice((1.0, 2.5)), "threshold": rng.choice((20.0, 0.4))},
        "sin": {"frequency": rng.choice((1.0, 3.0))},
    }
    return build.op(kind, (x,), **attributes.get(kind, {}))


def _norm(build: Builder, rng: random.Random, x: int) -> int:
    kind, shape = rng.choice(NORMS), build.values[x]
    # An eps near zero makes the derivatives of a constant row huge: only where there is none.
    varied = x == INPUT or (build.ops[-1].kind == "linear" and None not in build.ops[-1].parameters)
    attributes: dict[str, float | int | None] = {
        "eps": rng.choice((1e-1, 1e-2, 1e-5) if varied else (1e-1, 1e-2))
    }
    if kind == "batch_norm":
        normalised = shape[:1]
    else:
        attributes["axes"] = rng.randint(1, len(shape))
        normalised = shape[len(shape) - attributes["axes"] :]
    if kind == "rms_norm" and varied and rng.random() < 0.3:
        attributes["eps"] = None
    parameters = [
        _tied_or_new(build, rng, *normalised) if rng.random() < 0.7 else None
        for _ in OP_KINDS[kind].parameters
    ]
    return build.op(kind, (x,), None, tuple(parameters), **attributes)


def _reshape(build: Builder, rng: random.Random, x: int) -> int:
    features = math.prod(build.values[x])
    rows = rng.choice([d for d in range(1, features + 1) if features % d == 0])
    shape = rng.choice([(features,), (rows, features // rows)])
    return build.op("reshape", (x,), shape)


def _add(build: Builder, rng: random.Random, x: int) -> int:
    """A residual: any earlier value of the same shape, or the value itself."""
    same = [value for value, shape in enumerate(build.values) if shape == build.values[x]]
    return build.op("add", (x, rng.choice(same)))


def _scale(build: Builder, rng: random.Random, x: int) -> int:
    return build.op("scale", (x,), factor=rng.uniform(-1, 1))


def _dropout(build: Builder, rng: random.Random, x: int) -> int:
    stream = sum(op.kind == "dropout" for op in build.ops)
    return build.op("dropout", (x,), p=rng.choice((0.0, 0.2, 0.5, 0.5, 1.0)), stream=stream)


@cache
def random_case(seed: int, dtype: torch.dtype = torch.float64, *, dropout: bool = True) -> Case:
    """A small random call of an executor's `run`; the same one for the same seed.

    Everything that `InnerLoop`, `Inputs` and `Cotangents` allow occurs over a few hundred
    seeds. Loops that diverge are left out, so that rounding errors stay near the precision.
    """
    rng, draw = random.Random(seed), Normal(seed, dtype)
    while True:
        loop, inputs, cotangents, wanted = _draw_case(rng, draw, dropout)
        outputs = oracle(loop, *cast((inputs, cotangents), torch.float64), wanted)
        if all(largest(tensor) < 100 for tensor in named(loop.program, outputs).values()):
            return loop, inputs, cotangents, wanted


def _draw_case(rng: random.Random, draw: Normal, dropout: bool) -> Case:
    loss = Loss(rng.choice(LOSS_KINDS))
    if loss.kind == "cross_entropy":
        loss = Loss("cross_entropy", label_smoothing=rng.choice((0.0, 0.0, 0.1, 1.0)))
    program = random_program(rng, dropout=dropout, vector_output=loss.kind == "cross_entropy")
    steps, tasks = rng.randint(0, 4), rng.randint(1, 4)
    adapted = [rng.random() < 0.7 for _ in program.slots]
    adapted[rng.randrange(len(adapted))] = True
    loop = InnerLoop(
        program,
        loss,
        tuple(adapted),
        steps,
        momentum=rng.choice((0.0, 0.0, 0.5, 0.9)),
        step_weights=tuple(rng.choice((0.0, 1.0, rng.uniform(-1, 1))) for _ in range(steps + 1))
        if rng.random() < 0.4
        else (),
        first_order=rng.random() < 0.2,
    )
    # Without a query only the adapted parameters are wanted, without steps no support is read.
    query = None if rng.random() < 0.1 else _samples(rng, draw, loop, tasks)
    support = _samples(rng, draw, loop, tasks) if steps > 0 or query is None else None
    if query is not None and rng.random() < 0.1:
        query = Samples(query.x, size=query.size)
        loop = loop if steps > 0 else InnerLoop(program, None, loop.adapted, 0)
    inputs = Inputs(
        parameters=tuple(
            _parameter(draw, slot, tasks if moves and rng.random() < 0.3 else None)
            for slot, moves in zip(program.slots, adapted, strict=True)
        ),
        rates=tuple(
            _rate(rng, draw, slot) if moves and steps > 0 else None
            for slot, moves in zip(program.slots, adapted, strict=True)
        ),
        support=support,
        query=query,
        seed=rng.randrange(2**32),
    )
    return loop, inputs, _cotangents(rng, draw, loop, inputs), _wanted(rng, loop, inputs)


class Normal:
    """Draws of the normal distribution, the same numbers in every dtype up to rounding."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.dtype)


def _samples(rng: random.Random, draw: Normal, loop: InnerLoop, tasks: int) -> Samples:
    program = loop.program
    fewest = 2 if any(op.kind == "batch_norm" for op in program.ops) else 1
    n = rng.randint(fewest, 6)
    output = program.values[program.output]
    if loop.loss.kind == "mse":
        y = draw(tasks, n, *output)
    elif loop.loss.kind == "bce_with_logits" or rng.random() < 0.4:
        y = draw(tasks, n, *output).sigmoid()
    else:
        y = torch.randint(output[0], (tasks, n), generator=draw.generator)
    return Samples(
        x=draw(tasks, n, *program.values[INPUT]),
        y=y,
        weights=draw(tasks, n).abs() / n if rng.random() < 0.4 else None,
        size=tuple(rng.randint(fewest, n) for _ in range(tasks)) if rng.random() < 0.4 else None,
    )


def _parameter(draw: Normal, slot: Slot, tasks: int | None) -> Tensor:
    """Matrices keep the size of what they multiply; vectors serve as biases and as gains."""
    shape = slot.shape if tasks is None else (tasks, *slot.shape)
    if len(slot.shape) == 2:
        return draw(*shape) / math.sqrt(slot.shape[-1])
    return 0.5 + 0.3 * draw(*shape)


def _rate(rng: random.Random, draw: Normal, slot: Slot) -> Tensor:
    shape = (rng.randint(1, 3), *(slot.shape if rng.random() < 0.5 else ()))
    return 0.03 * draw(*shape)


def _cotangents(rng: random.Random, draw: Normal, loop: InnerLoop, inputs: Inputs) -> Cotangents:
    """Of a random choice of the outputs; of the adapted parameters, if there is no other."""
    tasks, query = inputs.tasks, inputs.query
    task_loss = prediction = adapted = None
    if query is not None and query.y is not None and rng.random() < 0.8:
        task_loss = draw(tasks)
    if query is not None and rng.random() < 0.4:
        output = loop.program.values[loop.program.output]
        prediction = draw(tasks, query.x.shape[1], *output)
    if (task_loss is None and prediction is None) or rng.random() < 0.4:
        adapted = tuple(
            draw(tasks, *slot.shape) if moves else None
            for slot, moves in zip(loop.program.slots, loop.adapted, strict=True)
        )
    return Cotangents(task_loss, prediction, adapted)


def _wanted(rng: random.Random, loop: InnerLoop, inputs: Inputs) -> frozenset[str]:
    keys = [key for key, t in inputs.tensors(loop.program) if t.is_floating_point()]
    return frozenset(key for key in keys if rng.random() < 0.8)

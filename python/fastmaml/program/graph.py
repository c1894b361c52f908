"""The program: a model's forward pass as a list of ops. Plain data, knows no executor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

INPUT = 0
"""The value that the model's input holds."""


@dataclass(frozen=True)
class OpKind:
    """What every executor must know of an op: its operands and its attributes, by name."""

    inputs: tuple[str, ...] = ("x",)
    parameters: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


OP_KINDS: Mapping[str, OpKind] = MappingProxyType(
    {
        # y = x weight^T + bias over the last axis; weight [out, in], bias [out] or absent
        "linear": OpKind(parameters=("weight", "bias")),
        # statistics of the batch itself, per channel (axis 1), over samples and positions
        "batch_norm": OpKind(parameters=("weight", "bias"), attributes=("eps",)),
        # statistics over the last `axes` axes of each sample; weight and bias of their shape
        "layer_norm": OpKind(parameters=("weight", "bias"), attributes=("axes", "eps")),
        # eps None: the smallest step of the dtype, as torch does
        "rms_norm": OpKind(parameters=("weight",), attributes=("axes", "eps")),
        "relu": OpKind(),
        "leaky_relu": OpKind(attributes=("slope",)),
        "elu": OpKind(attributes=("alpha",)),
        "tanh": OpKind(),
        "sigmoid": OpKind(),
        "gelu": OpKind(),
        "gelu_tanh": OpKind(),
        "silu": OpKind(),
        "softplus": OpKind(attributes=("beta", "threshold")),
        # sin(frequency * x)
        "sin": OpKind(attributes=("frequency",)),
        # y = x * mask / (1 - p); `stream` tells the dropouts of one program apart
        "dropout": OpKind(attributes=("p", "stream")),
        # the same numbers in the shape of the output value
        "reshape": OpKind(),
        "add": OpKind(inputs=("a", "b")),
        "scale": OpKind(attributes=("factor",)),
    }
)


@dataclass(frozen=True)
class Op:
    """One op: reads values, writes one value.

    `inputs` and `output` index `Program.values`; `parameters` indexes `Program.slots`, with
    None where the op has no such parameter, in the order of `OP_KINDS[kind].parameters`.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    parameters: tuple[int | None, ...] = ()
    attributes: Mapping[str, float | int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = OP_KINDS[self.kind]
        assert len(self.inputs) == len(kind.inputs), self
        assert len(self.parameters) == len(kind.parameters), self
        assert tuple(sorted(self.attributes)) == tuple(sorted(kind.attributes)), self


@dataclass(frozen=True)
class Slot:
    """A place for one parameter. Tied parameters share a slot, under the first name."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Program:
    """A model as ops in an order in which every value is written before it is read.

    `values[v]` is the shape of value v without the sample axis; value 0 is the input. Every
    op and every slot contributes to value `output`. Programs compare by identity.
    """

    ops: tuple[Op, ...]
    values: tuple[tuple[int, ...], ...]
    slots: tuple[Slot, ...]
    output: int
    derived: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What others derived from this program and keep as long as it lives, under their own keys.
    Nothing here may refer to the program."""

    def features(self, value: int) -> int:
        """How many numbers a sample of `value` holds."""
        return math.prod(self.values[value])

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample of the input."""
        return self.values[INPUT]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one sample of the output."""
        return self.values[self.output]

    @cached_property
    def has_dropout(self) -> bool:
        return any(op.kind == "dropout" for op in self.ops)

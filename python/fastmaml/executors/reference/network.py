"""The four passes over a program's graph, from the four functions of its ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ...program import INPUT, Op, Program
from . import activation, norm
from .dropout import Dropout
from .linear import Linear
from .rules import Context, Draw, Operands, OpRules
from .shape import Add, Reshape, Scale

RULES: Mapping[str, OpRules] = MappingProxyType(
    {
        "linear": Linear(),
        "batch_norm": norm.BATCH_NORM,
        "layer_norm": norm.LAYER_NORM,
        "rms_norm": norm.RMS_NORM,
        "relu": activation.RELU,
        "leaky_relu": activation.LEAKY_RELU,
        "elu": activation.ELU,
        "tanh": activation.TANH,
        "sigmoid": activation.SIGMOID,
        "gelu": activation.GELU,
        "gelu_tanh": activation.GELU_TANH,
        "silu": activation.SILU,
        "softplus": activation.SOFTPLUS,
        "sin": activation.SIN,
        "dropout": Dropout(),
        "reshape": Reshape(),
        "add": Add(),
        "scale": Scale(),
    }
)
"""One entry for every kind of `OP_KINDS`."""


@dataclass(frozen=True)
class Field:
    """A tensor for each value and each slot of a program.

    The numbers themselves, their tangents, their cotangents, and the tangents of those are all
    fields; a pass fills one from the ones before it.
    """

    values: dict[int, Tensor]
    parameters: list[Tensor]

    @classmethod
    def zeros_like(cls, other: Field) -> Field:
        return cls(
            {index: torch.zeros_like(value) for index, value in other.values.items()},
            [torch.zeros_like(parameter) for parameter in other.parameters],
        )

    def operands(self, op: Op) -> Operands:
        """What the op reads of this field: its inputs, then its parameters."""
        return (
            *(self.values[value] for value in op.inputs),
            *(None if slot is None else self.parameters[slot] for slot in op.parameters),
        )

    def accumulate(self, op: Op, terms: Operands) -> None:
        """Add an op's part to its operands: one that is read twice gets the sum of both."""
        inputs, parameters = terms[: len(op.inputs)], terms[len(op.inputs) :]
        for value, term in zip(op.inputs, inputs, strict=True):
            self.values[value] = self.values[value] + term
        for slot, term in zip(op.parameters, parameters, strict=True):
            if slot is not None:
                self.parameters[slot] = self.parameters[slot] + term


@dataclass(frozen=True)
class Network:
    """A program with the dropout masks of one pass over the samples of one task."""

    program: Program
    draw: Draw

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> Field:
        """All values for x [n, *value 0] and parameters, one a slot."""
        primal = Field({INPUT: x}, list(parameters))
        for op in self.program.ops:
            primal.values[op.output] = RULES[op.kind].forward(
                self._context(op), primal.operands(op)
            )
        return primal

    def backward(self, primal: Field, y_bar: Tensor) -> Field:
        """The cotangents, from that of the output."""
        bars = Field.zeros_like(primal)
        bars.values[self.program.output] = y_bar
        for op in reversed(self.program.ops):
            terms = RULES[op.kind].backward(
                self._context(op), primal.operands(op), bars.values[op.output]
            )
            bars.accumulate(op, terms)
        return bars

    def forward_jvp(self, primal: Field, x_dot: Tensor, parameter_dots: Sequence[Tensor]) -> Field:
        """The tangents, from those of x and the parameters."""
        dots = Field({INPUT: x_dot}, list(parameter_dots))
        for op in self.program.ops:
            dots.values[op.output] = RULES[op.kind].forward_jvp(
                self._context(op), primal.operands(op), dots.operands(op)
            )
        return dots

    def backward_jvp(self, primal: Field, dots: Field, bars: Field, y_bar_dot: Tensor) -> Field:
        """The tangents of the cotangents `bars`, from that of the output's."""
        bar_dots = Field.zeros_like(primal)
        bar_dots.values[self.program.output] = y_bar_dot
        for op in reversed(self.program.ops):
            terms = RULES[op.kind].backward_jvp(
                self._context(op),
                primal.operands(op),
                dots.operands(op),
                bars.values[op.output],
                bar_dots.values[op.output],
            )
            bar_dots.accumulate(op, terms)
        return bar_dots

    def _context(self, op: Op) -> Context:
        return Context(op.attributes, self.program.values[op.output], self.draw)

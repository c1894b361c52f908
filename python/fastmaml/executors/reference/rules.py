"""The four functions of an op, as an interface: every op kind implements it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

Operands: TypeAlias = tuple[Tensor | None, ...]
"""An op's inputs, then its parameters (None where it has no such parameter)."""


@dataclass(frozen=True)
class Draw:
    """Which masks dropout draws: one set for each task and each pass over its samples."""

    seed: int = 0
    task: int | Tensor = 0
    pass_index: int = 0
    """2 * step for the support pass at phi_step, 2 * step + 1 for the query pass there."""


@dataclass(frozen=True)
class Context:
    """What an op reads besides its operands."""

    attributes: Mapping[str, float | int | None]
    shape: tuple[int, ...]
    """Of one sample of the output."""
    draw: Draw


class OpRules(Protocol):
    """y = f(operands), its gradient, and the tangents of both.

    A cotangent `y_bar` has y's shape; what comes back for the operands is a tuple like them.
    Tangents (`dots`, `y_bar_dot`) are zero, not None, where nothing moves.
    """

    def forward(self, context: Context, operands: Operands) -> Tensor:
        """y."""

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        """The operands' cotangents."""

    def forward_jvp(self, context: Context, operands: Operands, dots: Operands) -> Tensor:
        """The tangent of y."""

    def backward_jvp(
        self, context: Context, operands: Operands, dots: Operands, y_bar: Tensor, y_bar_dot: Tensor
    ) -> Operands:
        """The tangents of the operands' cotangents."""


class LinearMap(OpRules):
    """An op that is linear in all of its operands together: its tangents are the map itself."""

    def forward_jvp(self, context: Context, operands: Operands, dots: Operands) -> Tensor:
        return self.forward(context, dots)

    def backward_jvp(
        self, context: Context, operands: Operands, dots: Operands, y_bar: Tensor, y_bar_dot: Tensor
    ) -> Operands:
        return self.backward(context, operands, y_bar_dot)

"""What the tests of tracing share."""

from __future__ import annotations

from collections.abc import Callable

from fastmaml.program import Program
from torch import Tensor, nn


def kinds(program: Program) -> list[str]:
    return [op.kind for op in program.ops]


def names(program: Program) -> list[str]:
    return [slot.name for slot in program.slots]


def function(forward: Callable[..., object], **modules: object) -> nn.Module:
    """A model with this forward, and these modules, parameters and attributes."""
    model = type("Net", (nn.Module,), {"forward": forward})()
    for name, module in modules.items():
        setattr(model, name, module)
    return model


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)

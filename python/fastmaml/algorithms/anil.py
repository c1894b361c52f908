"""ANIL: Raghu et al. 2020, Rapid Learning or Feature Reuse? Towards Understanding MAML."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from typing import TypeAlias

from torch import nn

from ..functional.losses import LossLike
from .maml import MAML

Head: TypeAlias = "str | nn.Module | Sequence[str | nn.Module]"


class ANIL(MAML):
    """MAML whose inner loop adapts the head alone, while the backbone learns in the outer loop.

    Args:
        model: whose parameters are the initial ones.
        head: submodules of the model whose parameters adapt: a name, the module, or several.
        lr, steps, loss, first_order, momentum, step_weights, backend, memory_budget: see `MAML`.

    Raises:
        TypeError, ValueError: an argument is not as described; `head` names no submodule of the
            model, or one without parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head = "classifier",
        *,
        lr: float,
        steps: int,
        loss: LossLike = "cross_entropy",
        first_order: bool = False,
        momentum: float = 0.0,
        step_weights: Sequence[float] | None = None,
        backend: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(
            model,
            lr,
            steps,
            loss=loss,
            first_order=first_order,
            momentum=momentum,
            step_weights=step_weights,
            backend=backend,
            memory_budget=memory_budget,
        )
        self.inner_parameters = tuple(glob.escape(name) for name in _names(model, head))


def _names(model: nn.Module, head: Head) -> list[str]:
    """Of the head's parameters, in the model."""
    heads = head if isinstance(head, list | tuple) else [head]
    members = {id(parameter) for part in heads for parameter in _module(model, part).parameters()}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in members]
    if not names:
        raise ValueError(f"head must have parameters, got {head!r}, which has none")
    return names


def _module(model: nn.Module, part: str | nn.Module) -> nn.Module:
    modules = dict(model.named_modules())
    if isinstance(part, nn.Module):
        if not any(part is module for module in modules.values()):
            raise ValueError(
                f"head must be a submodule of the model, got a {type(part).__name__} that is not"
            )
        return part
    if not isinstance(part, str):
        raise TypeError(f"head must be a name, an nn.Module or several, got {part!r}")
    if part not in modules or not part:
        known = ", ".join(repr(name) for name in modules if name)
        raise ValueError(f"head must name a submodule of the model ({known}), got {part!r}")
    return modules[part]

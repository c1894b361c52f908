"""What users may give as `loss`, as a `Loss`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from ..program import LOSS_KINDS, Loss

LossLike: TypeAlias = "str | nn.Module | Callable[[Tensor, Tensor], Tensor] | Loss"

_MODULES = {
    nn.MSELoss: "mse",
    nn.CrossEntropyLoss: "cross_entropy",
    nn.BCEWithLogitsLoss: "bce_with_logits",
}
_FUNCTIONS = {
    F.mse_loss: "mse",
    F.cross_entropy: "cross_entropy",
    F.binary_cross_entropy_with_logits: "bce_with_logits",
}
_DEFAULTS = {"reduction": "mean", "weight": None, "pos_weight": None, "ignore_index": -100}
"""The options of torch's loss modules that must stand at their defaults."""


def resolve(loss: LossLike) -> Loss:
    """The loss that a name, a torch loss module or a torch function means.

    Raises:
        ValueError: the loss is none of these, or a module with an option that is not supported.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSS_KINDS:
        return _plain(loss)
    if type(loss) in _MODULES:
        for option, default in _DEFAULTS.items():
            value = getattr(loss, option, default)
            if value is not default and value != default:
                raise ValueError(
                    f"loss must have {option}={default!r}, got {type(loss).__name__} with {value!r}"
                )
        return Loss(_MODULES[type(loss)], float(getattr(loss, "label_smoothing", 0.0)))
    if not isinstance(loss, nn.Module) and callable(loss) and loss in _FUNCTIONS:
        return _plain(_FUNCTIONS[loss])
    names = ", ".join(repr(kind) for kind in LOSS_KINDS)
    modules = ", ".join(f"nn.{module.__name__}()" for module in _MODULES)
    functions = ", ".join(f"F.{function.__name__}" for function in _FUNCTIONS)
    raise ValueError(f"loss must be one of {names}, {modules}, {functions}, got {loss!r}")


@lru_cache
def _plain(kind: str) -> Loss:
    return Loss(kind)

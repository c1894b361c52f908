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
"""The options of torch's loss modules that the known losses have not."""


def resolve(loss: LossLike) -> Loss:
    """The loss that a name, a torch loss module or a torch function means.

    Any other callable is a loss as it is, and so are torch's modules with options that the known
    losses have not.

    Raises:
        ValueError: the loss is none of these.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSS_KINDS:
        return _plain(loss)
    if type(loss) in _MODULES:
        options = (getattr(loss, name, default) for name, default in _DEFAULTS.items())
        if all(map(_is, options, _DEFAULTS.values())):
            return Loss(_MODULES[type(loss)], float(getattr(loss, "label_smoothing", 0.0)))
    for function, kind in _FUNCTIONS.items():
        if loss is function:
            return _plain(kind)
    if callable(loss) and not isinstance(loss, type):
        return Loss("callable", function=loss)
    names = ", ".join(repr(kind) for kind in LOSS_KINDS)
    modules = ", ".join(f"nn.{module.__name__}()" for module in _MODULES)
    functions = ", ".join(f"F.{function.__name__}" for function in _FUNCTIONS)
    raise ValueError(
        f"loss must be one of {names}, {modules}, {functions}, or a callable that returns one "
        f"number for (prediction, target), got {loss!r}"
    )


def _is(value: object, default: object) -> bool:
    return value is default or (not isinstance(value, Tensor) and value == default)


@lru_cache
def _plain(kind: str) -> Loss:
    return Loss(kind)

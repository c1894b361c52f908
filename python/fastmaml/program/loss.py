"""Losses as layers with inputs (prediction, target, weight)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

LOSS_KINDS = ("mse", "cross_entropy", "bce_with_logits")
"""The losses that executors have rules for; the other kind is "callable"."""


@dataclass(frozen=True)
class Loss:
    """The value is sum_i weight_i l_i over samples i; weight_i = 1/n unless it is given.

    =================  ========================================  ===========================
    kind               l_i                                       target
    =================  ========================================  ===========================
    mse                mean over features (prediction-target)^2  float, prediction's shape
    cross_entropy      -sum_c t_c log softmax(prediction)_c      int64 class, or float [C]
    bce_with_logits    mean over features of the two-class loss  float, prediction's shape
    =================  ========================================  ===========================

    A callable is called with the prediction and the target of all samples of a task and returns
    the value, one number. Only the generic executor runs it, without weights.

    With label smoothing s, t = (1-s) target + s/C (Szegedy et al. 2016, section 7), where an
    integer target stands for its one-hot row.
    """

    kind: str
    label_smoothing: float = 0.0
    function: Callable[[Any, Any], Tensor] | None = None
    """Of the kind "callable" alone."""

    def __post_init__(self) -> None:
        assert self.kind in (*LOSS_KINDS, "callable"), self.kind
        assert (self.kind == "callable") == (self.function is not None), self

    @property
    def key(self) -> tuple[str, float]:
        """What tells apart losses that are no callables."""
        return self.kind, self.label_smoothing

    @property
    def name(self) -> str:
        """Of the kind, or of the callable."""
        if self.function is None:
            return self.kind
        return getattr(self.function, "__name__", type(self.function).__name__)

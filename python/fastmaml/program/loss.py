"""Losses as layers with inputs (prediction, target, weight)."""

from __future__ import annotations

from dataclasses import dataclass

LOSS_KINDS = ("mse", "cross_entropy", "bce_with_logits")


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

    With label smoothing s, t = (1-s) target + s/C (Szegedy et al. 2016, section 7), where an
    integer target stands for its one-hot row.
    """

    kind: str
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        assert self.kind in LOSS_KINDS, self.kind

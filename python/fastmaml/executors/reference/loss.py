"""Losses: sum_i weight_i l_i(prediction, target), with their gradients and the tangents of both.

Only the prediction has a tangent: nothing that the inner loop adapts reaches the target or the
weights. The weights enter through the cotangents alone, and their own gradient is l_i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...program import Loss


class LossRules(Protocol):
    """prediction [n, *output], target and weights [n] of one task."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """l_i, [n]."""

    def backward(
        self, prediction: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Cotangents of prediction and target (None if the target holds integers)."""

    def forward_jvp(self, prediction: Tensor, target: Tensor, prediction_dot: Tensor) -> Tensor:
        """Tangent of l_i, [n]."""

    def backward_jvp(
        self, prediction: Tensor, target: Tensor, weights: Tensor, prediction_dot: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Tangents of the two cotangents."""


class MeanSquaredError(LossRules):
    """l_i = mean over features of (prediction - target)^2."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return _feature_mean((prediction - target).square())

    def backward(
        self, prediction: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        prediction_bar = 2 * _feature_weights(weights, prediction) * (prediction - target)
        return prediction_bar, -prediction_bar

    def forward_jvp(self, prediction: Tensor, target: Tensor, prediction_dot: Tensor) -> Tensor:
        return _feature_mean(2 * (prediction - target) * prediction_dot)

    def backward_jvp(
        self, prediction: Tensor, target: Tensor, weights: Tensor, prediction_dot: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        prediction_bar_dot = 2 * _feature_weights(weights, prediction) * prediction_dot
        return prediction_bar_dot, -prediction_bar_dot


class BinaryCrossEntropy(LossRules):
    """l_i = mean over features of log(1 + exp(prediction)) - target * prediction."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        # log(1 + e^x) in the form that never overflows
        softplus = prediction.clamp_min(0) + torch.log1p(torch.exp(-prediction.abs()))
        return _feature_mean(softplus - target * prediction)

    def backward(
        self, prediction: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        weights = _feature_weights(weights, prediction)
        return weights * (torch.sigmoid(prediction) - target), -weights * prediction

    def forward_jvp(self, prediction: Tensor, target: Tensor, prediction_dot: Tensor) -> Tensor:
        return _feature_mean((torch.sigmoid(prediction) - target) * prediction_dot)

    def backward_jvp(
        self, prediction: Tensor, target: Tensor, weights: Tensor, prediction_dot: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        weights = _feature_weights(weights, prediction)
        s = torch.sigmoid(prediction)
        return weights * s * (1 - s) * prediction_dot, -weights * prediction_dot


@dataclass(frozen=True)
class CrossEntropy(LossRules):
    """l_i = -sum_c t_c log softmax(prediction)_c, t = (1 - label_smoothing) target + it / C.

    The rows of t need not sum to one: the gradient is softmax(prediction) sum(t) - t.
    """

    label_smoothing: float

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return -(self._probabilities(prediction, target) * prediction.log_softmax(1)).sum(1)

    def backward(
        self, prediction: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        t, weights = self._probabilities(prediction, target), weights[:, None]
        prediction_bar = weights * (prediction.softmax(1) * t.sum(1, keepdim=True) - t)
        return prediction_bar, self._target_bar(target, weights, prediction.log_softmax(1))

    def forward_jvp(self, prediction: Tensor, target: Tensor, prediction_dot: Tensor) -> Tensor:
        log_softmax_dot = _log_softmax_dot(prediction, prediction_dot)
        return -(self._probabilities(prediction, target) * log_softmax_dot).sum(1)

    def backward_jvp(
        self, prediction: Tensor, target: Tensor, weights: Tensor, prediction_dot: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        t, weights = self._probabilities(prediction, target), weights[:, None]
        log_softmax_dot = _log_softmax_dot(prediction, prediction_dot)
        softmax_dot = prediction.softmax(1) * log_softmax_dot
        prediction_bar_dot = weights * softmax_dot * t.sum(1, keepdim=True)
        return prediction_bar_dot, self._target_bar(target, weights, log_softmax_dot)

    def _probabilities(self, prediction: Tensor, target: Tensor) -> Tensor:
        """t, [n, C]."""
        classes = prediction.shape[1]
        if not target.is_floating_point():
            # of a class that does not exist, NaN: on a GPU nobody has looked at the labels before
            is_class = target[:, None] == torch.arange(classes, device=target.device)
            exists = is_class.any(1, keepdim=True)
            target = is_class.to(prediction.dtype).masked_fill(~exists, torch.nan)
        return (1 - self.label_smoothing) * target + self.label_smoothing / classes

    def _target_bar(self, target: Tensor, weights: Tensor, t_bar: Tensor) -> Tensor | None:
        return -(1 - self.label_smoothing) * weights * t_bar if target.is_floating_point() else None


def rules_of(loss: Loss) -> LossRules:
    """The rules that a loss means."""
    if loss.kind == "cross_entropy":
        return CrossEntropy(loss.label_smoothing)
    return {"mse": MeanSquaredError(), "bce_with_logits": BinaryCrossEntropy()}[loss.kind]


def _feature_mean(tensor: Tensor) -> Tensor:
    """[n, ...] to [n]."""
    return tensor.reshape(len(tensor), -1).mean(1)


def _feature_weights(weights: Tensor, prediction: Tensor) -> Tensor:
    """[n] to the weight of each feature in the loss, to broadcast against the prediction."""
    features = prediction[0].numel()
    return weights.reshape(-1, *[1] * (prediction.dim() - 1)) / features


def _log_softmax_dot(prediction: Tensor, prediction_dot: Tensor) -> Tensor:
    # less the largest class's tangent, or no digits are left where one class is all but certain
    largest = prediction.argmax(1, keepdim=True)
    relative = prediction_dot - prediction_dot.gather(1, largest)
    return relative - (prediction.softmax(1) * relative).sum(1, keepdim=True)

"""The four functions every op has, laid bare for one task, so that tests can check each alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Point:
    """Where to evaluate a program's four functions: n samples of one task."""

    x: Tensor
    """[n, *value 0]"""
    parameters: tuple[Tensor, ...]
    """One a slot, [*shape]."""
    x_dot: Tensor
    """Tangent of x."""
    parameter_dots: tuple[Tensor, ...]
    """Tangents of the parameters."""
    y_bar: Tensor
    """Cotangent of the output, [n, *output]."""
    y_bar_dot: Tensor
    """Tangent of that cotangent."""


@dataclass(frozen=True)
class Passes:
    """forward, backward, forward_jvp and backward_jvp at a `Point`."""

    y: Tensor
    x_bar: Tensor
    parameter_bars: tuple[Tensor, ...]
    y_dot: Tensor
    x_bar_dot: Tensor
    parameter_bar_dots: tuple[Tensor, ...]


@dataclass(frozen=True)
class LossPoint:
    """Where to evaluate a loss: n samples of one task. Targets and weights have no tangent:
    nothing that the inner loop adapts reaches them."""

    prediction: Tensor
    """[n, *output]"""
    target: Tensor
    """[n] int64, or float [n, *output]"""
    weights: Tensor
    """[n]"""
    prediction_dot: Tensor
    """Tangent of the prediction."""


@dataclass(frozen=True)
class LossPasses:
    """The loss sum_i weight_i l_i, its gradient and the tangent of both."""

    sample_loss: Tensor
    """l_i, [n]; this is also the gradient by the weights."""
    prediction_bar: Tensor
    target_bar: Tensor | None
    """None for integer targets."""
    sample_loss_dot: Tensor
    """Tangent of l_i, [n]."""
    prediction_bar_dot: Tensor
    target_bar_dot: Tensor | None

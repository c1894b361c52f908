"""One task's loss on its samples, as a function of the parameters: gradient and its tangent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...program import INPUT, InnerLoop, Inputs
from .loss import LossRules, rules_of
from .network import Network
from .rules import Draw


@dataclass(frozen=True)
class Bars:
    """Cotangents of everything that a loss reads, or their tangents."""

    parameters: Sequence[Tensor]
    x: Tensor
    y: Tensor | None = None
    """None for integer targets, and where no loss was read."""
    weights: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """The support or the query samples of one task, n real ones, and the loss on them."""

    loop: InnerLoop
    x: Tensor
    """[n, *value 0]"""
    y: Tensor | None
    """[n] or [n, *output]"""
    weights: Tensor
    """[n]"""
    seed: int
    task: int
    is_query: bool

    @classmethod
    def of(cls, loop: InnerLoop, inputs: Inputs, task: int, *, is_query: bool) -> Objective | None:
        """The samples of one task without its padding; None where the call has none."""
        samples = inputs.query if is_query else inputs.support
        if samples is None:
            return None
        n = samples.x.shape[1] if samples.size is None else samples.size[task]
        x, y, weights = (
            None if tensor is None else tensor[task, :n]
            for tensor in (samples.x, samples.y, samples.weights)
        )
        if weights is None:
            weights = torch.full((n,), 1 / n, dtype=x.dtype, device=x.device)
        return cls(loop, x, y, weights, inputs.seed, task, is_query)

    def network(self, step: int) -> Network:
        """The program as it runs on these samples after `step` inner steps."""
        draw = Draw(self.seed, self.task, pass_index=2 * step + self.is_query)
        return Network(self.loop.program, draw)

    @property
    def loss(self) -> LossRules:
        assert self.loop.loss is not None
        return rules_of(self.loop.loss)

    def prediction(self, parameters: Sequence[Tensor], step: int) -> Tensor:
        """[n, *output]"""
        values = self.network(step).forward(self.x, parameters).values
        return values[self.loop.program.output]

    def value(self, parameters: Sequence[Tensor], step: int) -> Tensor:
        """The loss, a scalar."""
        sample_loss = self.loss.forward(self.prediction(parameters, step), self.y)
        return self.weights @ sample_loss

    def pullback(self, parameters: Sequence[Tensor], step: int, prediction_bar: Tensor) -> Bars:
        """The gradient of <prediction_bar, prediction>."""
        network = self.network(step)
        bars = network.backward(network.forward(self.x, parameters), prediction_bar)
        return Bars(bars.parameters, bars.values[INPUT])

    def gradient(
        self, parameters: Sequence[Tensor], step: int, scale: Tensor | float = 1.0
    ) -> Bars:
        """The gradient of scale times the loss."""
        network = self.network(step)
        primal = network.forward(self.x, parameters)
        prediction = primal.values[self.loop.program.output]
        prediction_bar, y_bar = self.loss.backward(prediction, self.y, scale * self.weights)
        bars = network.backward(primal, prediction_bar)
        weights_bar = scale * self.loss.forward(prediction, self.y)
        return Bars(bars.parameters, bars.values[INPUT], y_bar, weights_bar)

    def gradient_jvp(
        self, parameters: Sequence[Tensor], step: int, parameter_dots: Sequence[Tensor]
    ) -> Bars:
        """The tangent of the gradient along the parameters (Pearlmutter 1994): for parameters
        it is H u, for everything else the loss reads the mixed second derivative times u."""
        network, output = self.network(step), self.loop.program.output
        primal = network.forward(self.x, parameters)
        dots = network.forward_jvp(primal, torch.zeros_like(self.x), parameter_dots)
        prediction, prediction_dot = primal.values[output], dots.values[output]
        prediction_bar, _ = self.loss.backward(prediction, self.y, self.weights)
        prediction_bar_dot, y_bar_dot = self.loss.backward_jvp(
            prediction, self.y, self.weights, prediction_dot
        )
        bars = network.backward(primal, prediction_bar)
        bar_dots = network.backward_jvp(primal, dots, bars, prediction_bar_dot)
        weights_bar_dot = self.loss.forward_jvp(prediction, self.y, prediction_dot)
        return Bars(bar_dots.parameters, bar_dots.values[INPUT], y_bar_dot, weights_bar_dot)

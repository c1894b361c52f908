"""batch_norm, layer_norm and rms_norm: y = weight * xh + bias, xh the normalised input.

With centre(t) = t - mean(t) (rms_norm: t itself) and r = 1 / sqrt(mean(centre(x)^2) + eps):

    xh = r centre(x)                        P d = centre(d) - xh mean(xh d)
    x_bar = r P d,  d = weight * y_bar      xh' = r P x',   r' = -r^2 mean(xh x')
    x_bar' = r' P d + r (P d' - xh' mean(xh d) - xh mean(xh' d))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rules import Context, Operands, OpRules


@dataclass(frozen=True)
class Norm(OpRules):
    """x [n, ...]; weight and bias of the normalised axes' shape (batch_norm: [C]), or None."""

    of_batch: bool = False
    """Statistics per channel (axis 1) over samples and positions, not within each sample."""
    centred: bool = True

    def forward(self, context: Context, operands: Operands) -> Tensor:
        x, weight, bias = self._operands(operands)
        return _Normalised(self, context, x).xh * weight + bias

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        x, weight, _ = self._operands(operands)
        norm = _Normalised(self, context, x)
        x_bar = norm.r * norm.project(y_bar * weight)
        return self._bars(operands, x_bar, y_bar * norm.xh, y_bar)

    def forward_jvp(self, context: Context, operands: Operands, dots: Operands) -> Tensor:
        x, weight, _ = self._operands(operands)
        x_dot, weight_dot, bias_dot = self._operands(dots, missing=(0.0, 0.0))
        norm = _Normalised(self, context, x)
        return norm.xh_dot(x_dot) * weight + norm.xh * weight_dot + bias_dot

    def backward_jvp(
        self, context: Context, operands: Operands, dots: Operands, y_bar: Tensor, y_bar_dot: Tensor
    ) -> Operands:
        x, weight, _ = self._operands(operands)
        x_dot, weight_dot, _ = self._operands(dots, missing=(0.0, 0.0))
        norm = _Normalised(self, context, x)
        xh_dot = norm.xh_dot(x_dot)
        d = y_bar * weight
        d_dot = y_bar_dot * weight + y_bar * weight_dot
        project_d_dot = (
            norm.project(d_dot) - xh_dot * norm.mean(norm.xh * d) - norm.xh * norm.mean(xh_dot * d)
        )
        x_bar_dot = norm.r_dot(x_dot) * norm.project(d) + norm.r * project_d_dot
        weight_bar_dot = y_bar_dot * norm.xh + y_bar * xh_dot
        return self._bars(operands, x_bar_dot, weight_bar_dot, y_bar_dot)

    def _operands(
        self, operands: Operands, missing: tuple[float, float] = (1.0, 0.0)
    ) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """x, and weight and bias as they broadcast against it."""
        x, *affine = operands
        weight, bias = (
            default if parameter is None else self._spread(parameter, x)
            for parameter, default in zip((*affine, None)[:2], missing, strict=True)
        )
        return x, weight, bias

    def _spread(self, parameter: Tensor, x: Tensor) -> Tensor:
        return parameter.reshape(-1, *[1] * (x.dim() - 2)) if self.of_batch else parameter

    def _bars(self, operands: Operands, x_bar: Tensor, *affine_bars: Tensor) -> Operands:
        """x_bar, and the cotangents of weight and bias summed to the shapes of those."""
        x, *affine = operands
        return (
            x_bar,
            *(
                None
                if parameter is None
                else bar.sum_to_size(self._spread(parameter, x).shape).reshape(parameter.shape)
                for parameter, bar in zip(affine, affine_bars, strict=False)
            ),
        )


class _Normalised:
    """xh and r of one input, with the maps of the module's docstring."""

    def __init__(self, rules: Norm, context: Context, x: Tensor) -> None:
        if rules.of_batch:
            self.axes = (0, *range(2, x.dim()))
        else:
            self.axes = tuple(range(-context.attributes["axes"], 0))
        self.centred = rules.centred
        eps = context.attributes["eps"]
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        centred = self.centre(x)
        self.r = (self.mean(centred * centred) + eps).rsqrt()
        self.xh = self.r * centred

    def mean(self, t: Tensor) -> Tensor:
        return t.mean(self.axes, keepdim=True)

    def centre(self, t: Tensor) -> Tensor:
        return t - self.mean(t) if self.centred else t

    def project(self, d: Tensor) -> Tensor:
        return self.centre(d) - self.xh * self.mean(self.xh * d)

    def xh_dot(self, x_dot: Tensor) -> Tensor:
        return self.r * self.project(x_dot)

    def r_dot(self, x_dot: Tensor) -> Tensor:
        return -self.r.square() * self.mean(self.xh * x_dot)


BATCH_NORM = Norm(of_batch=True)
LAYER_NORM = Norm()
RMS_NORM = Norm(centred=False)

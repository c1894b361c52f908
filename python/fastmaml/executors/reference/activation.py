"""Element-wise activations: each is a value, a first and a second derivative.

The conventions at kinks are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .rules import Context, Operands, OpRules


@dataclass(frozen=True)
class Activation(OpRules):
    """y = f(x), with f, f' and f'' functions of x and the op's attributes, by name."""

    value: Callable[..., Tensor]
    first: Callable[..., Tensor]
    second: Callable[..., Tensor]

    def forward(self, context: Context, operands: Operands) -> Tensor:
        (x,) = operands
        return self.value(x, **context.attributes)

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        (x,) = operands
        return (y_bar * self.first(x, **context.attributes),)

    def forward_jvp(self, context: Context, operands: Operands, dots: Operands) -> Tensor:
        (x,), (x_dot,) = operands, dots
        return x_dot * self.first(x, **context.attributes)

    def backward_jvp(
        self, context: Context, operands: Operands, dots: Operands, y_bar: Tensor, y_bar_dot: Tensor
    ) -> Operands:
        (x,), (x_dot,) = operands, dots
        first = self.first(x, **context.attributes)
        second = self.second(x, **context.attributes)
        return (y_bar_dot * first + y_bar * second * x_dot,)


RELU = Activation(
    value=torch.relu,
    first=lambda x: (x > 0).to(x.dtype),
    second=torch.zeros_like,
)

LEAKY_RELU = Activation(
    value=lambda x, slope: torch.where(x > 0, x, slope * x),
    first=lambda x, slope: torch.where(x > 0, torch.ones_like(x), slope),
    second=lambda x, slope: torch.zeros_like(x),
)

ELU = Activation(
    value=lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x)),
    first=lambda x, alpha: torch.where(x > 0, 1.0, alpha * torch.exp(x)),
    second=lambda x, alpha: torch.where(x < 0, alpha * torch.exp(x), 0.0),
)

SIN = Activation(
    value=lambda x, frequency: torch.sin(frequency * x),
    first=lambda x, frequency: frequency * torch.cos(frequency * x),
    second=lambda x, frequency: -(frequency**2) * torch.sin(frequency * x),
)


def _tanh_first(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


def _tanh_second(x: Tensor) -> Tensor:
    return -2 * torch.tanh(x) * _tanh_first(x)


TANH = Activation(torch.tanh, _tanh_first, _tanh_second)


def _sigmoid_first(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


def _sigmoid_second(x: Tensor) -> Tensor:
    return _sigmoid_first(x) * (1 - 2 * torch.sigmoid(x))


SIGMOID = Activation(torch.sigmoid, _sigmoid_first, _sigmoid_second)


def _silu_first(x: Tensor) -> Tensor:
    return torch.sigmoid(x) + x * _sigmoid_first(x)


def _silu_second(x: Tensor) -> Tensor:
    return 2 * _sigmoid_first(x) + x * _sigmoid_second(x)


SILU = Activation(F.silu, _silu_first, _silu_second)


# softplus is the identity where beta * x is beyond the threshold.
def _softplus_first(x: Tensor, beta: float, threshold: float) -> Tensor:
    return torch.where(beta * x > threshold, 1.0, torch.sigmoid(beta * x))


def _softplus_second(x: Tensor, beta: float, threshold: float) -> Tensor:
    return torch.where(beta * x < threshold, beta * _sigmoid_first(beta * x), 0.0)


SOFTPLUS = Activation(F.softplus, _softplus_first, _softplus_second)


# gelu(x) = x Phi(x), Phi the normal distribution and phi its density (Hendrycks & Gimpel 2016).
def _normal_density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _gelu_first(x: Tensor) -> Tensor:
    return torch.special.ndtr(x) + x * _normal_density(x)


def _gelu_second(x: Tensor) -> Tensor:
    return (2 - x.square()) * _normal_density(x)


GELU = Activation(F.gelu, _gelu_first, _gelu_second)


# gelu_tanh(x) = x (1 + tanh z) / 2 with z = sqrt(2 / pi) (x + 0.044715 x^3).
def _gelu_tanh_inner(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tanh z, z' and z''."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    z = scale * (x + cubic * x**3)
    return torch.tanh(z), scale * (1 + 3 * cubic * x.square()), 6 * scale * cubic * x


def _gelu_tanh_first(x: Tensor) -> Tensor:
    t, z_first, _ = _gelu_tanh_inner(x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t.square()) * z_first


def _gelu_tanh_second(x: Tensor) -> Tensor:
    t, z_first, z_second = _gelu_tanh_inner(x)
    return (1 - t.square()) * (z_first + 0.5 * x * (z_second - 2 * t * z_first.square()))


GELU_TANH = Activation(lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_first, _gelu_tanh_second)

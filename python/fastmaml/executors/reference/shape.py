"""reshape, add and scale: the linear ops that hold no parameters."""

from __future__ import annotations

from torch import Tensor

from .rules import Context, LinearMap, Operands


class Reshape(LinearMap):
    """x [n, ...]; y [n, *shape of the output value], the same numbers in the same order."""

    def forward(self, context: Context, operands: Operands) -> Tensor:
        (x,) = operands
        return x.reshape(len(x), *context.shape)

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        (x,) = operands
        return (y_bar.reshape(x.shape),)


class Add(LinearMap):
    """y = a + b, all of one shape [n, ...]."""

    def forward(self, context: Context, operands: Operands) -> Tensor:
        a, b = operands
        return a + b

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        return y_bar, y_bar


class Scale(LinearMap):
    """y = factor * x."""

    def forward(self, context: Context, operands: Operands) -> Tensor:
        (x,) = operands
        return context.attributes["factor"] * x

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        return (context.attributes["factor"] * y_bar,)

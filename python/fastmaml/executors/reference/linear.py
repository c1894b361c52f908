"""linear: y = x weight^T + bias over the last axis."""

from __future__ import annotations

from torch import Tensor

from .rules import Context, Operands, OpRules


class Linear(OpRules):
    """x [n, ..., in], weight [out, in], bias [out] or None; y [n, ..., out]."""

    def forward(self, context: Context, operands: Operands) -> Tensor:
        x, weight, bias = operands
        y = x @ weight.T
        return y if bias is None else y + bias

    def backward(self, context: Context, operands: Operands, y_bar: Tensor) -> Operands:
        x, weight, bias = operands
        return (
            y_bar @ weight,
            _rows(y_bar).T @ _rows(x),
            None if bias is None else _rows(y_bar).sum(0),
        )

    def forward_jvp(self, context: Context, operands: Operands, dots: Operands) -> Tensor:
        x, weight, bias = operands
        x_dot, weight_dot, bias_dot = dots
        y_dot = x_dot @ weight.T + x @ weight_dot.T
        return y_dot if bias is None else y_dot + bias_dot

    def backward_jvp(
        self, context: Context, operands: Operands, dots: Operands, y_bar: Tensor, y_bar_dot: Tensor
    ) -> Operands:
        x, weight, bias = operands
        x_dot, weight_dot, _ = dots
        return (
            y_bar_dot @ weight + y_bar @ weight_dot,
            _rows(y_bar_dot).T @ _rows(x) + _rows(y_bar).T @ _rows(x_dot),
            None if bias is None else _rows(y_bar_dot).sum(0),
        )


def _rows(tensor: Tensor) -> Tensor:
    """[n, ..., d] as the rows of one matrix."""
    return tensor.reshape(-1, tensor.shape[-1])

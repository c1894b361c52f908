"""Recurrent layers and cells on a GPU, from primitives.

On a CPU torch composes them of primitives itself. On a GPU it has fused cells, without rules for
vmap and forward mode, and cuDNN's layers, which have no second derivative at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def layer(own: Callable[..., Any]) -> Callable[..., Any]:
    """torch.gru, torch.lstm, torch.rnn_tanh or torch.rnn_relu as torch's compiler composes it.

    It is torch's `own` for packed sequences, and where this version of torch composes it nowhere.
    """

    def composed(*args: Any) -> Any:
        # (input, hx, weights, has_biases, ...) or, packed, (data, batch_sizes, hx, weights, ...)
        if not isinstance(args[3], bool):
            return own(*args)
        from torch._decomp import decomposition_table

        operation = getattr(torch.ops.aten, own.__name__).input
        return decomposition_table.get(operation, own)(*args)

    return composed


def gru_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """torch.gru_cell (Cho et al. 2014)."""
    r_x, z_x, n_x = F.linear(x, w_ih, b_ih).chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, w_hh, b_hh).chunk(3, -1)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + torch.sigmoid(z_x + z_h) * (h - n)


def lstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """torch.lstm_cell (Hochreiter & Schmidhuber 1997)."""
    h, c = state
    i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


COMPOSED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.gru: layer(torch.gru),
    torch.lstm: layer(torch.lstm),
    torch.rnn_tanh: layer(torch.rnn_tanh),
    torch.rnn_relu: layer(torch.rnn_relu),
    torch.gru_cell: gru_cell,
    torch.lstm_cell: lstm_cell,
}
"""What takes the place of what on a GPU."""


def override(own: Callable[..., Any]) -> Callable[..., Any]:
    """One of them as a method of `Overrides`."""

    def method(_mode: object, *args: Any) -> Any:
        return (own if args[0].device.type == "cpu" else COMPOSED[own])(*args)

    return method

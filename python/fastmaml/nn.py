"""Modules that torch.nn lacks and fastmaml traces."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sin(nn.Module):
    """y = sin(frequency * x), the activation of sinusoidal representation networks.

    Sitzmann et al. 2020, "Implicit Neural Representations with Periodic Activation Functions"
    (SIREN), section 3.2: `frequency` is their omega_0. They use 30, and draw the weights of the
    first linear layer from U(-1/in, 1/in) and of the others from U(-b, b) with
    b = sqrt(6 / in) / omega_0, which keeps the distribution of activations through depth.
    This module has no parameters; the initialisation is that of the layers before it.

    Args:
        frequency: what the input is multiplied with, in radians per unit of x.

    Shape:
        any, and the same back.
    """

    def __init__(self, frequency: float = 30.0) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)

    def extra_repr(self) -> str:
        return f"frequency={self.frequency}"

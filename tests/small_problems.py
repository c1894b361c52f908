"""Small problems in float64, and how exactly their results should agree."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EXACT = {"rtol": 1e-9, "atol": 1e-11}


class Net(nn.Module):
    """A backbone and a head: 4 features, 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh())
        self.classifier = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x))


def double(*shape: int, seed: int = 2) -> Tensor:
    """Normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def gradients(scalar: Tensor, module: nn.Module) -> list[Tensor]:
    """Of all parameters of a module."""
    return list(torch.autograd.grad(scalar, list(module.parameters())))

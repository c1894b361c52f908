"""Meta-training."""

from __future__ import annotations

import time
from itertools import islice

import torch
from torch import Tensor, nn

from .. import MAML
from ..tasks import EpisodeSampler
from .display import Display
from .settings import Settings


def meta_train(maml: MAML, sampler: EpisodeSampler, settings: Settings, display: Display) -> float:
    """Trains the model of `maml` on tasks of `sampler`; returns the seconds it took."""
    optimization = Optimization(maml, settings.iterations, settings.outer_lr, settings.weight_decay)
    start = time.perf_counter()
    with display.track("MAML", settings.iterations) as report:
        for episodes in islice(sampler, settings.iterations):
            loss = maml(*episodes).loss
            optimization.step(loss)
            report(loss.item())
    return time.perf_counter() - start


class Optimization:
    """`steps` steps of AdamW with a rate that falls from `lr` to zero along a cosine."""

    def __init__(self, model: nn.Module, steps: int, lr: float, weight_decay: float) -> None:
        self.optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

"""The same meta-gradient as one writes it in plain PyTorch, to time fastmaml beside."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .. import MAML
from ..tasks import Episodes

TOLERANCE = 1e-6
"""Gradients further apart than this, in float64, are not the same."""


@dataclass(frozen=True)
class Timing:
    """Both ways of taking the meta-gradient of the same meta-batches."""

    fastmaml: float
    """Median seconds of a meta-batch."""
    plain: float
    batches: int
    difference: float
    """The largest of |g - g'| / |g'| over the meta-batches, in float64."""


def meta_gradient(model: nn.Module, episodes: Episodes, lr: float, steps: int) -> list[Tensor]:
    """Of the mean query loss by the parameters of the model, in their order."""
    parameters = dict(model.named_parameters())
    losses = []
    for support_x, support_y, query_x, query_y in zip(*episodes, strict=True):
        adapted = parameters
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(model, adapted, support_x), support_y)
            gradients = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
            adapted = {
                name: parameter - lr * gradient
                for (name, parameter), gradient in zip(adapted.items(), gradients, strict=True)
            }
        losses.append(F.cross_entropy(functional_call(model, adapted, query_x), query_y))
    return list(torch.autograd.grad(torch.stack(losses).mean(), list(parameters.values())))


def compare(maml: MAML, batches: Sequence[Episodes]) -> Timing:
    """Takes the meta-gradients of `batches` in both ways, by turns, after one to warm up.

    They are timed as they are, and compared in float64: in float32 the rounding of either,
    amplified by the second derivatives, can hide whether they mean the same.

    Raises RuntimeError if they do not agree.
    """

    def fused(learner: MAML, episodes: Episodes) -> list[Tensor]:
        loss = learner(*episodes).loss
        return list(torch.autograd.grad(loss, list(learner.module.parameters())))

    def plain(learner: MAML, episodes: Episodes) -> list[Tensor]:
        return meta_gradient(learner.module, episodes, learner.lr, learner.steps)

    exact = copy.deepcopy(maml).double()
    seconds: dict[str, list[float]] = {"fused": [], "plain": []}
    differences = []
    for way in (fused, plain):
        way(maml, batches[0])
    for episodes in batches:
        for way in (fused, plain):
            start = time.perf_counter()
            way(maml, episodes)
            seconds[way.__name__].append(time.perf_counter() - start)
        in_float64 = episodes.to(torch.float64)
        differences.append(_difference(fused(exact, in_float64), plain(exact, in_float64)))
    if not max(differences) < TOLERANCE:
        raise RuntimeError(
            f"the meta-gradients of fastmaml and of the plain loop differ by {max(differences):.1e}"
        )
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    return Timing(medians["fused"], medians["plain"], len(batches), max(differences))


def _difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    a, b = (torch.cat([part.flatten() for part in parts]) for parts in (ours, theirs))
    return float((a - b).norm() / b.norm())

"""How well a model does on tasks that it adapts to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import MAML
from ..tasks import Episodes


@dataclass(frozen=True)
class Learner:
    """A model and how it adapts to a task: so many steps at this rate. `print` it."""

    model: nn.Module
    lr: float
    steps: int
    inner_parameters: str = "*"
    """The names of what adapts, as a pattern."""
    note: str = ""
    """What else there is to say."""

    def predict(self, episodes: Episodes) -> Tensor:
        """The class of every query sample: [T, m]."""
        maml = MAML(self.model, self.lr, self.steps, inner_parameters=self.inner_parameters)
        with torch.no_grad():
            adapted = maml.adapt(episodes.support_x, episodes.support_y)
            return adapted(episodes.query_x).argmax(-1)

    def __str__(self) -> str:
        steps = f"{self.steps} step{'s' * (self.steps != 1)} at rate {self.lr:g}"
        what = "all layers" if self.inner_parameters == "*" else "head alone"
        return ", ".join(filter(None, (steps, what, self.note)))


@dataclass(frozen=True)
class Accuracy:
    """A mean over tasks, and half the width of its 95% interval (normal approximation)."""

    mean: float
    interval: float
    tasks: int

    @classmethod
    def of(cls, correct: Iterable[Tensor]) -> Accuracy:
        """Of batches [T, m] that say which query samples were recognised."""
        per_task = torch.cat([batch.double().mean(-1) for batch in correct])
        deviation = per_task.std() / len(per_task) ** 0.5
        return cls(per_task.mean().item(), 1.96 * deviation.item(), len(per_task))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f}% ± {100 * self.interval:.1f}"


def accuracy(learner: Learner, batches: Sequence[Episodes]) -> Accuracy:
    return Accuracy.of(learner.predict(batch) == batch.query_y for batch in batches)


def best(learners: Iterable[Learner], batches: Sequence[Episodes]) -> Learner:
    """The learner with the highest accuracy, the first one of equals."""
    return max(learners, key=lambda learner: accuracy(learner, batches).mean)


def nearest_image_accuracy(batches: Sequence[Episodes]) -> Accuracy:
    """Of the label of the support image whose pixels are nearest: what needs no training."""

    def predict(batch: Episodes) -> Tensor:
        distances = torch.cdist(batch.query_x.flatten(2), batch.support_x.flatten(2))
        return batch.support_y.gather(1, distances.argmin(-1))

    return Accuracy.of(predict(batch) == batch.query_y for batch in batches)

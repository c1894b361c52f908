"""The same net without meta-learning: trained on all classes at once or not at all, fine-tuned."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_linear_bn_eval

from ..tasks import ClassDataset, Episodes
from .display import Display
from .evaluation import Accuracy, Learner, accuracy, best
from .model import classifier
from .settings import Settings
from .training import Optimization


@dataclass(frozen=True)
class Baseline:
    """The net trained in some way, the way of fine-tuning that suits it best, and its accuracy."""

    name: str
    learner: Learner
    accuracy: Accuracy

    @classmethod
    def of(
        cls,
        name: str,
        learners: Iterator[Learner],
        validation: Sequence[Episodes],
        test: Sequence[Episodes],
    ) -> Baseline:
        """The one of `learners` that does best in validation, tested."""
        learner = best(learners, validation)
        return cls(name, learner, accuracy(learner, test))


TURNS = 4
"""A letter turned by 0, 90, 180 and 270 degrees is four classes, as in meta-training."""


def train_classifier(
    letters: ClassDataset, settings: Settings, display: Display
) -> tuple[nn.Sequential, float]:
    """The net trained to tell all turned letters apart, and the seconds it took.

    It sees as many images as in meta-training, in as many batches, drawn from the same ones.
    """
    model = classifier(TURNS * len(letters))
    optimization = Optimization(
        model,
        settings.iterations,
        settings.ordinary_lr,
        settings.ordinary_weight_decay,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    start = time.perf_counter()
    with display.track("ordinary classifier", settings.iterations) as report:
        for _ in range(settings.iterations):
            images, labels = _draw(letters, settings.images, generator)
            loss = F.cross_entropy(model(images), labels)
            optimization.step(loss)
            report(loss.item())
    return model, time.perf_counter() - start


def fine_tuned(
    model: nn.Sequential, classes: int, *, keep_statistics: bool = False
) -> Iterator[Learner]:
    """The ways to fine-tune a net to a few images of new classes.

    Its head is replaced by zeros, which prefer no class. BatchNorm takes the statistics of the
    images at hand, as in MAML, or keeps those of training, as is usual elsewhere.
    """
    net = _with_new_head(_with_kept_statistics(model) if keep_statistics else model, classes)
    note = "statistics of training" if keep_statistics else "statistics of the task"
    for names in (f"{len(net) - 1}.*", "*"):
        for lr in (0.03, 0.1, 0.3):
            for steps in (5, 20):
                yield Learner(net, lr, steps, names, note)


def _draw(letters: ClassDataset, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """About `count` images with their labels: a letter, one of its samples, each way up."""
    shape = (TURNS, count // TURNS)
    classes = torch.randint(len(letters), shape, generator=generator)
    samples = (torch.rand(shape, generator=generator) * letters.counts[classes]).long()
    upright = letters.gather(classes, samples)
    images = [part.rot90(turns, (-2, -1)) for turns, part in enumerate(upright)]
    labels = classes + len(letters) * torch.arange(TURNS).unsqueeze(1)
    return torch.cat(images), labels.flatten()


def _with_new_head(model: nn.Sequential, classes: int) -> nn.Sequential:
    head = nn.Linear(model[-1].in_features, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*model[:-1], head)


def _with_kept_statistics(model: nn.Sequential) -> nn.Sequential:
    """The net in evaluation, its BatchNorms merged into the linear layers before them."""
    layers: list[nn.Module] = []
    for layer in model.eval():
        if isinstance(layer, nn.BatchNorm1d):
            layers[-1] = fuse_linear_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)

"""`fastmaml demo`: MAML learns to recognise letters of scripts that it has never seen.

It is trained on Latin and Greek letters, and chooses how many steps to adapt by on Cyrillic ones.
Its accuracy on Georgian, Armenian and Lao letters stands beside that of the same net without
meta-learning, its time beside that of the meta-gradient in plain PyTorch.
"""

from __future__ import annotations

import copy

import torch

from .. import MAML
from .baseline import Baseline, fine_tuned, train_classifier
from .data import Data, load
from .display import Display
from .evaluation import Learner, accuracy, best, nearest_image_accuracy
from .model import classifier
from .picture import Scene, check_output, draw
from .plain_loop import compare
from .report import Report
from .settings import FAST, Settings
from .training import meta_train

__all__ = ["FAST", "Data", "Display", "Report", "Settings", "check_output", "load", "run"]


def run(settings: Settings, data: Data, display: Display) -> Report:
    """Trains with MAML and without, tests both, and draws the picture."""
    torch.manual_seed(settings.seed)  # of the initial parameters
    model = classifier(settings.way)
    maml = MAML(model, settings.inner_lr, settings.steps)

    batches = [data.training.sample() for _ in range(settings.timed_batches)]
    plan = maml.plan(batches[0].support_x, batches[0].query_x)
    display.say(str(plan))
    display.say("timing the plain PyTorch loop")
    timing = compare(maml, batches)

    untrained = copy.deepcopy(model)
    training_seconds = meta_train(maml, data.training, settings, display)
    ordinary, ordinary_seconds = train_classifier(data.letters, settings, display)

    display.say("choosing on the validation letters how to adapt")
    before = Learner(model, settings.inner_lr, 0)
    adapted = best(
        (Learner(model, settings.inner_lr, k) for k in sorted({settings.steps, 3, 5, 10, 20})),
        data.validation,
    )
    baselines = tuple(
        Baseline.of(name, learners, data.validation, data.test)
        for name, learners in (
            ("not trained", fine_tuned(untrained, settings.way)),
            ("ordinary training", fine_tuned(ordinary, settings.way)),
            ("ordinary training", fine_tuned(ordinary, settings.way, keep_statistics=True)),
        )
    )

    display.say("testing")
    report = Report(
        settings=settings,
        scripts=tuple(data.pictured),
        plan=plan,
        threads=torch.get_num_threads(),
        nearest_image=nearest_image_accuracy(data.test),
        baselines=baselines,
        ordinary_classes=ordinary[-1].out_features,
        ordinary_seconds=ordinary_seconds,
        before=accuracy(before, data.test),
        maml=accuracy(adapted, data.test),
        maml_learner=adapted,
        maml_seconds=training_seconds,
        timing=timing,
    )
    scenes = [
        Scene(script, task, before.predict(task), adapted.predict(task))
        for script, task in data.pictured.items()
    ]
    subtitle = (
        f"Adapting to the support images takes the accuracy on {report.maml.tasks:,} tasks "
        f"from {100 * report.before.mean:.1f}% to {100 * report.maml.mean:.1f}%.  "
        "Below each query image: the letter it is taken for."
    )
    draw(scenes, report.heading, subtitle, settings.output)
    return report

"""What came of the demo."""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Plan
from .baseline import Baseline
from .evaluation import Accuracy, Learner
from .plain_loop import Timing
from .settings import Settings


@dataclass(frozen=True)
class Report:
    """The figures of one run, all measured in it. `print` it.

    Accuracies are over the test tasks.
    """

    settings: Settings
    scripts: tuple[str, ...]
    """Of the test tasks."""
    plan: Plan
    threads: int
    nearest_image: Accuracy
    baselines: tuple[Baseline, ...]
    """The same net without meta-learning."""
    ordinary_classes: int
    """What ordinary training told apart."""
    ordinary_seconds: float
    before: Accuracy
    """Of the meta-learned parameters without adapting."""
    maml: Accuracy
    maml_learner: Learner
    maml_seconds: float
    """All of training: drawing tasks, meta-gradients and the optimiser."""
    timing: Timing

    @property
    def chance(self) -> float:
        return 1 / self.settings.way

    @property
    def plain_seconds(self) -> float:
        """The meta-gradients of training in plain PyTorch, extrapolated from a few of them."""
        return self.settings.iterations * self.timing.plain

    @property
    def heading(self) -> str:
        way, shot = self.settings.way, self.settings.shot
        return f"{way}-way {shot}-shot: letters of scripts never seen in training"

    def __str__(self) -> str:
        settings, timing = self.settings, self.timing
        accuracies = (
            ("chance", f"{100 * self.chance:.1f}%", ""),
            ("nearest image", str(self.nearest_image), "pixel by pixel, nothing learned"),
            *((each.name, str(each.accuracy), str(each.learner)) for each in self.baselines),
            ("MAML, not adapted", str(self.before), ""),
            ("MAML", str(self.maml), str(self.maml_learner)),
        )
        times = (
            ("fastmaml", self.maml_seconds, timing.fastmaml, "training, as measured"),
            (
                "plain PyTorch",
                self.plain_seconds,
                timing.plain,
                f"the meta-gradients alone, extrapolated from {timing.batches} of them",
            ),
        )
        lines = (
            self.heading,
            f"{self.maml.tasks:,} tasks in {', '.join(self.scripts)}, mean and 95% interval",
            *(f"  {name:<20}{value:<14}{note}" for name, value, note in accuracies),
            "",
            f"{settings.iterations:,} meta-batches of {settings.tasks} tasks, inner steps: "
            f"{settings.steps}, threads: {self.threads}, executor: {self.plan.executor}",
            *(
                f"  {name:<20}{seconds:6.0f} s   {1e3 * each:6.1f} ms a meta-gradient   {note}"
                for name, seconds, each, note in times
            ),
            f"  {'':<20}{self.plain_seconds / self.maml_seconds:6.1f} x   "
            f"{timing.plain / timing.fastmaml:6.1f} x                    "
            f"both agree to {timing.difference:.0e} in float64",
            "",
            "Without meta-learning, the same net: as it begins; and trained on as many images to "
            "tell",
            f"{self.ordinary_classes:,} classes apart, which MAML is not told, in "
            f"{self.ordinary_seconds:.0f} s. Each is then fine-tuned",
            "in the way that does best on validation letters.",
        )
        return "\n".join(line.rstrip() for line in lines)

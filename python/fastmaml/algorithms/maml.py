"""MAML: Finn et al. 2017, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .. import checks
from ..functional.arguments import NamePattern
from ..functional.losses import LossLike
from .wrapper import MetaLearner


class MAML(MetaLearner):
    """Learns initial parameters from which a few steps of SGD adapt to a task.

    >>> maml = MAML(model, lr=0.1, steps=5)
    >>> out = maml(support_x, support_y, query_x, query_y)
    >>> out.loss.backward()
    >>> maml.adapt(support_x, support_y, steps=10)(query_x)

    Args:
        model: whose parameters are the initial ones.
        lr: the rate of the inner steps.
        steps: K, their number.
        loss: "mse", "cross_entropy", "bce_with_logits", or the torch.nn module or function.
        first_order: FOMAML (section 5.2): leave out the second derivatives.
        inner_parameters: names of what the inner loop adapts: a pattern as of a shell, a list of
            them, or a predicate; None: all that are not frozen.
        momentum: of the inner SGD.
        step_weights: weights of the query loss after 0..K steps; None: after the last alone.
        backend: "auto", "native", "reference" or "generic".
        memory_budget: the bytes that a call may take beside its inputs and results: steps are
            computed again where it does not hold them all; None: what is fastest.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        steps: int,
        loss: LossLike = "cross_entropy",
        first_order: bool = False,
        inner_parameters: NamePattern | None = None,
        momentum: float = 0.0,
        step_weights: Sequence[float] | None = None,
        backend: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(
            model,
            steps=steps,
            loss=loss,
            first_order=first_order,
            inner_parameters=inner_parameters,
            momentum=momentum,
            step_weights=step_weights,
            backend=backend,
            memory_budget=memory_budget,
        )
        self.lr = checks.number("lr", lr, minimum=0.0)

    def rates(self) -> float:
        return self.lr

    def extra_repr(self) -> str:
        return f"lr={self.lr:g}, {super().extra_repr()}"

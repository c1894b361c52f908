"""Meta-SGD: Li et al. 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import checks
from ..functional.arguments import NamePattern, named
from ..functional.losses import LossLike
from .wrapper import MetaLearner

GRANULARITIES = ("element", "tensor", "tensor_step")


class MetaSGD(MetaLearner):
    """MAML that learns the rates of the inner steps along with the initial parameters.

    The rates are parameters of this module, in `learned_rates`, and may become negative. With
    more steps than there are rows of rates, the last row repeats.

    Args:
        model: whose parameters are the initial ones. What can be adapted at construction gets
            rates.
        lr: what all rates start from.
        steps: K.
        granularity: "element": one rate an element (Li et al. 2017, equation 2); "tensor": one a
            parameter; "tensor_step": one a parameter and step (MAML++, Antoniou et al. 2019,
            section 4.1).
        loss, first_order, inner_parameters, momentum, step_weights, backend, memory_budget: see
            `MAML`.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        steps: int,
        granularity: str = "element",
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
        lr = checks.number("lr", lr, minimum=0.0)
        self.granularity = checks.choice("granularity", granularity, GRANULARITIES)
        chosen = named(model, inner_parameters)
        self.learned_rates = nn.ParameterDict(
            {
                _key(name): nn.Parameter(_initial_rate(parameter, lr, granularity, self.steps))
                for name, parameter in model.named_parameters()
                if parameter.requires_grad and name in chosen
            }
        )
        if not self.learned_rates:
            raise ValueError(
                "nothing is left to adapt: no parameter of the model has requires_grad=True "
                f"with inner_parameters={inner_parameters!r}"
            )

    def rates(self) -> dict[str, Tensor]:
        """The rates by name of parameter: [*shape], [] or [S, 1, ..., 1]."""
        return {key.replace("/", "."): rate for key, rate in self.learned_rates.items()}

    def extra_repr(self) -> str:
        return f"granularity={self.granularity!r}, {super().extra_repr()}"


def _key(name: str) -> str:
    """torch wants no dot in the name of a parameter."""
    return name.replace(".", "/")


def _initial_rate(parameter: Tensor, lr: float, granularity: str, steps: int) -> Tensor:
    shape = {
        "element": parameter.shape,
        "tensor": (),
        "tensor_step": (max(steps, 1), *(1,) * parameter.dim()),
    }[granularity]
    return torch.full(shape, lr, dtype=parameter.dtype, device=parameter.device)

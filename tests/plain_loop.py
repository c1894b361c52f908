"""The inner loop as a user would write it in plain PyTorch: functional_call and create_graph.

Every pass starts from copies of the model's buffers, so that none leaves a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._pytree import tree_map

Rate = Callable[[str, int], "Tensor | float"]


def plain_loop(
    model: nn.Module,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    *,
    parameters: Mapping[str, Tensor] | None = None,
    lr: float | Rate = 0.1,
    steps: int = 1,
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    inner_parameters: Sequence[str] | None = None,
    momentum: float = 0.0,
    first_order: bool = False,
    step_weights: Sequence[float] | None = None,
) -> tuple[Tensor, Any, list[dict[str, Tensor]]]:
    """(task_loss [T], prediction [T, m, *output], adapted parameters of each task)."""
    start = dict(parameters or model.named_parameters())
    names = list(start) if inner_parameters is None else list(inner_parameters)

    def call(phi: Mapping[str, Tensor], x: Tensor) -> Any:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return functional_call(model, {**phi, **buffers}, (x,))

    weights = step_weights or [0.0] * steps + [1.0]
    losses, predictions, adapted = [], [], []
    for support_x, support_y, query_x, query_y in zip(*support, *query, strict=True):
        phi, velocity, task_loss = dict(start), dict.fromkeys(names, 0.0), 0.0
        for step in range(steps + 1):
            prediction = call(phi, query_x)
            task_loss = task_loss + weights[step] * loss(prediction, query_y)
            if step == steps:
                break
            value = loss(call(phi, support_x), support_y)
            inner = [phi[name] for name in names]
            gradients = torch.autograd.grad(value, inner, create_graph=not first_order)
            for name, gradient in zip(names, gradients, strict=True):
                velocity[name] = momentum * velocity[name] + gradient
                rate = lr(name, step) if callable(lr) else lr
                phi[name] = phi[name] - rate * velocity[name]
        losses.append(task_loss)
        predictions.append(prediction)
        adapted.append(phi)
    prediction = tree_map(lambda *tasks: torch.stack(tasks), *predictions)
    return torch.stack(losses), prediction, adapted

"""The native executor: the C++ program, one task a team of cores or a thread block, all tasks in
one call.

Python allocates every tensor and hands over addresses; nothing here computes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ...program import Cotangents, InnerLoop, Inputs, ModuleProgram, Outputs
from . import forms
from .extension import cuda_unavailable, unavailable
from .forms import Layer
from .lowering import SUPPORTED_OPS
from .passes import loss_passes, passes
from .recipe import ProductRecipe, RunRecipe

__all__ = [
    "Layer",
    "cuda_unavailable",
    "hvp",
    "layers",
    "loss_passes",
    "passes",
    "placement",
    "refusal",
    "run",
    "unavailable",
]

FLOAT_TYPES = (torch.float32, torch.float64)


def refusal(loop: InnerLoop, inputs: Inputs) -> str | None:
    """Why this call cannot run here, or None."""
    if isinstance(loop.program, ModuleProgram):
        return f"it runs traced models: {loop.program.why}"
    x = next(samples.x for samples in (inputs.query, inputs.support) if samples is not None)
    if x.device.type not in ("cpu", "cuda"):
        return f"it runs on CPUs and CUDA, and the tensors are on {x.device}"
    if x.dtype not in FLOAT_TYPES:
        return f"it computes in float32 or float64, and the tensors are {x.dtype}"
    reason = unavailable() or (x.is_cuda and cuda_unavailable(x.device.index)) or None
    if reason:
        return reason
    missing = sorted({op.kind for op in loop.program.ops} - SUPPORTED_OPS)
    return f"it has no kernel for {', '.join(missing)}" if missing else None


def run(
    loop: InnerLoop,
    inputs: Inputs,
    *,
    adapted: bool = False,
    cotangents: Cotangents | None = None,
    wanted: Collection[str] = frozenset(),
    memo: dict[Any, Any] | None = None,
) -> Outputs:
    """The inner loop of every task; with `cotangents` also the gradients of the keys `wanted`."""
    given = None if cotangents is None else cotangents.given()
    key = (RunRecipe, adapted, given, frozenset(wanted))
    recipe = None if memo is None else memo.get(key)
    if recipe is None:
        recipe = RunRecipe(loop, inputs, adapted, cotangents, wanted)
        if memo is not None:
            memo[key] = recipe
    return recipe.run(inputs, cotangents)


def layers(loop: InnerLoop, inputs: Inputs) -> tuple[Layer, ...]:
    """The layers that a call of the query loss, with the gradients that its tensors require, may
    run in either form."""
    wanted = [key for key, tensor in inputs.tensors(loop.program) if tensor.requires_grad]
    return forms.layers(loop, inputs, wanted, hands_out_weights=False)


def placement(loop: InnerLoop, inputs: Inputs) -> str | None:
    """How a call of the query loss, with the gradients that its tensors require, lies on a GPU;
    None on a CPU."""
    if inputs.device.type != "cuda":
        return None
    wanted = [key for key, tensor in inputs.tensors(loop.program) if tensor.requires_grad]
    has_loss = inputs.query is not None and inputs.query.y is not None
    bar = torch.empty(inputs.tasks, dtype=inputs.dtype, device=inputs.device)
    cotangents = Cotangents(bar) if has_loss else None
    return RunRecipe(loop, inputs, False, cotangents, wanted).placement()


def hvp(
    loop: InnerLoop, inputs: Inputs, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """H u of every task: H the Hessian of the support loss by the adapted slots."""
    return ProductRecipe(loop, inputs).run(inputs, vectors)

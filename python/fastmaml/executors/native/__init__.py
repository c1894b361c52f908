"""The native executor: the C++ program, one task a team of cores or a thread block, all tasks in
one call.

Python allocates every tensor and hands over addresses; nothing here computes.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ...extension import cuda_unavailable, unavailable
from ...program import Cotangents, InnerLoop, Inputs, ModuleProgram, Outputs
from . import recipes
from .forms import Layer
from .launch import Trajectory
from .lockstep import lockstep
from .lowering import SUPPORTED_OPS
from .passes import loss_passes, passes
from .recipes import ProductRecipe, RunRecipe

__all__ = [
    "Layer",
    "Trajectory",
    "cuda_unavailable",
    "hvp",
    "layers",
    "lockstep",
    "loss_passes",
    "passes",
    "placement",
    "recipe",
    "refusal",
    "run",
    "trajectory",
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
    if x.is_cuda and loop.memory_budget is not None:
        return "it keeps to a memory_budget on CPUs alone"
    missing = sorted({op.kind for op in loop.program.ops} - SUPPORTED_OPS)
    return f"it has no kernel for {', '.join(missing)}" if missing else None


def run(
    loop: InnerLoop,
    inputs: Inputs,
    *,
    adapted: bool = False,
    cotangents: Cotangents | None = None,
    wanted: Collection[str] = frozenset(),
) -> Outputs:
    """The inner loop of every task; with `cotangents` also the gradients of the keys `wanted`."""
    options = {"adapted": adapted, "cotangents": cotangents, "wanted": wanted}
    return recipe(loop, inputs, **options).run(inputs.flat(), inputs.seed, cotangents)


recipe = RunRecipe


def layers(loop: InnerLoop, inputs: Inputs) -> tuple[Layer, ...]:
    """The layers that a call of the query loss, with the gradients that its tensors require, may
    run in either form."""
    return recipes.layers(loop, inputs, _required(loop, inputs), hands_out_weights=False)


def placement(loop: InnerLoop, inputs: Inputs) -> str:
    """How such a call lies on the machine: on a CPU whether its tasks run in lockstep, on a GPU the
    threads and the memory of a task."""
    wanted = _required(loop, inputs)
    if inputs.device.type == "cpu":
        together = lockstep(loop, inputs, wanted)
        if any(layer.is_dual for layer in layers(loop, inputs)):
            together = together._replace(why_not="a layer is in the dual form")
        return str(together)
    return _with_gradients(loop, inputs).placement()


def trajectory(loop: InnerLoop, inputs: Inputs) -> Trajectory | None:
    """What such a call keeps of its inner steps on a CPU, on as many threads as torch has now; None
    on a GPU.

    Raises:
        ValueError: its memory_budget is less than it can do with.
    """
    return _with_gradients(loop, inputs).trajectory()


def _with_gradients(loop: InnerLoop, inputs: Inputs) -> RunRecipe:
    """The recipe of a call of the query loss, with the gradients that its tensors require."""
    has_loss = inputs.query is not None and inputs.query.y is not None
    bar = torch.empty(inputs.tasks, dtype=inputs.dtype, device=inputs.device)
    cotangents = Cotangents(bar) if has_loss else None
    return recipe(loop, inputs, cotangents=cotangents, wanted=_required(loop, inputs))


def _required(loop: InnerLoop, inputs: Inputs) -> list[str]:
    """Keys of the inputs that require grad."""
    return [key for key, tensor in inputs.tensors(loop.program) if tensor.requires_grad]


def hvp(
    loop: InnerLoop, inputs: Inputs, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """H u of every task: H the Hessian of the support loss by the adapted slots."""
    return ProductRecipe(loop, inputs).run(inputs, vectors)

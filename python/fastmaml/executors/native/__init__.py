"""The native executor: the C++ program, one task a team of cores, all tasks in one call.

Python allocates every tensor and hands over addresses; nothing here computes.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ...program import Cotangents, InnerLoop, Inputs, ModuleProgram, Outputs
from .call import Call, address_of
from .extension import extension, unavailable
from .lowering import SUPPORTED_OPS
from .passes import loss_passes, passes

__all__ = ["hvp", "loss_passes", "passes", "refusal", "run", "unavailable"]

FLOAT_TYPES = (torch.float32, torch.float64)


def refusal(loop: InnerLoop, inputs: Inputs) -> str | None:
    """Why this call cannot run here, or None."""
    if isinstance(loop.program, ModuleProgram):
        return f"it runs traced models: {loop.program.why}"
    x = next(samples.x for samples in (inputs.query, inputs.support) if samples is not None)
    if x.device.type == "cuda" and extension is not None:
        return str(extension.cuda_refusal())
    if x.device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {x.device}"
    if x.dtype not in FLOAT_TYPES:
        return f"it computes in float32 or float64, and the tensors are {x.dtype}"
    if unavailable():
        return unavailable()
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
    call = Call(loop, inputs)
    slots = loop.program.slots
    task_loss = prediction = None
    if inputs.query is not None:
        m = inputs.query.x.shape[1]
        output_shape = loop.program.values[loop.program.output]
        prediction = call.zeros(inputs.tasks, m, *output_shape)
        call.native.prediction = prediction.data_ptr()
        if inputs.query.y is not None:
            task_loss = call.zeros(inputs.tasks)
            call.native.task_loss = task_loss.data_ptr()
    phi: tuple[Tensor | None, ...] | None = None
    if adapted:
        phi = tuple(
            call.zeros(inputs.tasks, *slot.shape) if adapts else None
            for slot, adapts in zip(slots, loop.adapted, strict=True)
        )
        call.native.adapted = [address_of(tensor) for tensor in phi]
    gradients: dict[str, Tensor] = {}
    if cotangents is not None and wanted:
        gradients = {
            key: torch.zeros_like(tensor, memory_format=torch.contiguous_format)
            for key, tensor in inputs.tensors(loop.program)
            if key in wanted
        }
        call.differentiate(cotangents, gradients)
    call.run(gradients)
    return Outputs(task_loss, prediction, phi, gradients)


def hvp(
    loop: InnerLoop, inputs: Inputs, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """H u of every task: H the Hessian of the support loss by the adapted slots."""
    call = Call(loop, inputs)
    products = tuple(None if vector is None else call.zeros(*vector.shape) for vector in vectors)
    call.native.vectors = [call.address(vector) for vector in vectors]
    call.native.products = [address_of(product) for product in products]
    call.run({})
    return products

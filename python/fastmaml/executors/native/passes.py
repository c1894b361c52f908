"""The four functions of a program and of a loss for one task, for the tests to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from ...extension import extension
from ...program import Loss, Program
from ..passes import LossPasses, LossPoint, Passes, Point
from .lowering import lowered


def passes(
    program: Program, point: Point, *, seed: int = 0, task: int = 0, pass_index: int = 0
) -> Passes:
    """The four functions of a program for one task."""
    everything = (True,) * len(program.slots)
    native = lowered(program, everything, None, point.x.dtype, True)
    n = point.x.shape[0]
    w, w_dot = (
        torch.cat([point.x.new_zeros(0), *(tensor.reshape(-1) for tensor in tensors)])
        for tensors in (point.parameters, point.parameter_dots)
    )
    results = {
        "y": torch.zeros_like(point.y_bar),
        "y_dot": torch.zeros_like(point.y_bar),
        "x_bar": torch.zeros_like(point.x),
        "x_bar_dot": torch.zeros_like(point.x),
        "w_bar": torch.zeros_like(w),
        "w_bar_dot": torch.zeros_like(w),
    }
    argument = extension.Passes()
    argument.samples, argument.seed, argument.task, argument.pass_index = n, seed, task, pass_index
    tensors = {
        "x": point.x.contiguous(),
        "x_dot": point.x_dot.contiguous(),
        "w": w,
        "w_dot": w_dot,
        "y_bar": point.y_bar.contiguous(),
        "y_bar_dot": point.y_bar_dot.contiguous(),
        **results,
    }
    for name, tensor in tensors.items():
        setattr(argument, name, tensor.data_ptr())
    extension.passes(native, argument, point.x.dtype == torch.float64)

    def by_slot(flat: Tensor) -> tuple[Tensor, ...]:
        parts = flat.split([slot.size for slot in program.slots]) if program.slots else ()
        return tuple(
            part.reshape(slot.shape) for part, slot in zip(parts, program.slots, strict=True)
        )

    return Passes(
        results["y"],
        results["x_bar"],
        by_slot(results["w_bar"]),
        results["y_dot"],
        results["x_bar_dot"],
        by_slot(results["w_bar_dot"]),
    )


def loss_passes(loss: Loss, point: LossPoint) -> LossPasses:
    """A loss over the samples of one task, its gradients and the tangents of both."""
    argument = extension.LossPasses()
    argument.kind = loss.kind
    argument.label_smoothing = loss.label_smoothing
    argument.samples = point.prediction.shape[0]
    argument.features = point.prediction[0].numel()
    integer = point.target.dtype == torch.int64
    results = {
        "sample_loss": torch.zeros_like(point.weights),
        "sample_loss_dot": torch.zeros_like(point.weights),
        "prediction_bar": torch.zeros_like(point.prediction),
        "prediction_bar_dot": torch.zeros_like(point.prediction),
    }
    if not integer:
        results["target_bar"] = torch.zeros_like(point.target)
        results["target_bar_dot"] = torch.zeros_like(point.target)
    tensors = {
        "prediction": point.prediction.contiguous(),
        "labels" if integer else "target": point.target.contiguous(),
        "weights": point.weights.contiguous(),
        "prediction_dot": point.prediction_dot.contiguous(),
        **results,
    }
    for name, tensor in tensors.items():
        setattr(argument, name, tensor.data_ptr())
    extension.loss_passes(argument, point.prediction.dtype == torch.float64)
    return LossPasses(
        results["sample_loss"],
        results["prediction_bar"],
        results.get("target_bar"),
        results["sample_loss_dot"],
        results["prediction_bar_dot"],
        results.get("target_bar_dot"),
    )

"""One call of the extension: addresses, sizes and flags, and the tensors behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...program import Cotangents, InnerLoop, Inputs, Samples
from .extension import extension
from .lowering import lowered


def address_of(tensor: Tensor | None) -> int:
    """Of a contiguous tensor's first number; 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()


class Call:
    """A call as the extension takes it, and the tensors whose addresses it holds."""

    def __init__(self, loop: InnerLoop, inputs: Inputs) -> None:
        self.loop = loop
        self.inputs = inputs
        self.alive: list[Tensor] = []
        samples = inputs.query or inputs.support
        assert samples is not None
        self.like = samples.x
        self.native = native = extension.Call()
        native.tasks = inputs.tasks
        native.steps = loop.steps
        native.momentum = loop.momentum
        native.step_weights = [loop.step_weight(k) for k in range(loop.steps + 1)]
        native.first_order = loop.first_order
        native.seed = inputs.seed

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.like.dtype, device=self.like.device)

    def address(self, tensor: Tensor | None) -> int:
        """Of the tensor's numbers, contiguous; they live as long as this."""
        if tensor is None:
            return 0
        tensor = tensor.contiguous()
        self.alive.append(tensor)
        return tensor.data_ptr()

    def differentiate(self, cotangents: Cotangents, gradients: dict[str, Tensor]) -> None:
        native = self.native
        native.differentiate = True
        # The query's own gradients need the inner steps where losses between them count.
        native.through_steps = any(map(self.loop.step_weight, range(self.loop.steps))) or any(
            not key.startswith("query_") for key in gradients
        )
        native.task_loss_bar = self.address(cotangents.task_loss)
        native.prediction_bar = self.address(cotangents.prediction)
        if cotangents.adapted is not None:
            native.adapted_bar = [self.address(bar) for bar in cotangents.adapted]

    def run(self, gradients: dict[str, Tensor]) -> None:
        loop, inputs, native = self.loop, self.inputs, self.native
        slots = loop.program.slots
        for index, (slot, parameter) in enumerate(zip(slots, inputs.parameters, strict=True)):
            native.add_parameter(
                self.address(parameter),
                inputs.per_task(loop.program, index),
                address_of(gradients.get(f"parameter:{slot.name}")),
            )
        for slot, rate in zip(slots, inputs.rates, strict=True):
            rows = 1 if rate is None else rate.shape[0]
            elements = 1 if rate is None else rate.numel() // rows
            grad = address_of(gradients.get(f"rate:{slot.name}"))
            native.add_rate(self.address(rate), rows, elements, grad)
        if inputs.support is not None:
            native.support = self._samples("support", inputs.support, gradients)
        if inputs.query is not None:
            native.query = self._samples("query", inputs.query, gradients)
        program = lowered(loop.program, loop.adapted, loop.loss, self.like.dtype)
        is_double = self.like.dtype == torch.float64
        extension.run(program, native, is_double, torch.get_num_threads())

    def _samples(self, name: str, samples: Samples, gradients: dict[str, Tensor]) -> object:
        native = extension.Samples()
        native.count = samples.x.shape[1]
        native.size = None if samples.size is None else list(samples.size)
        native.x = self.address(samples.x)
        if samples.y is not None and samples.y.dtype == torch.int64:
            native.labels = self.address(samples.y)
        else:
            native.target = self.address(samples.y)
        native.weights = self.address(samples.weights)
        native.x_grad = address_of(gradients.get(f"{name}_x"))
        native.target_grad = address_of(gradients.get(f"{name}_y"))
        native.weights_grad = address_of(gradients.get(f"{name}_weights"))
        return native

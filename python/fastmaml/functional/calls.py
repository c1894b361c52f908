"""Calls of an executor, without their tensors: what autograd's Functions run.

A call keeps no tensor that its caller gave: autograd keeps those, and sees when they are freed
or overwritten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from .. import checks, plan
from ..program import Cotangents, InnerLoop, Inputs, Outputs, Program, Samples


class Call:
    """What is asked of an executor, and how to read its inputs from a list of tensors.

    Args:
        loop: the part of the call that holds no tensor.
        inputs: the tensors, which are not kept.
        backend: see `plan.choose`.
    """

    def __init__(self, loop: InnerLoop, inputs: Inputs, backend: str) -> None:
        self.loop = loop
        self.backend = backend
        self.keys = tuple(key for key, _ in inputs.tensors(loop.program))
        self._sizes = {
            name: samples.size
            for name, samples in (("support", inputs.support), ("query", inputs.query))
            if samples is not None
        }
        self._seed = inputs.seed
        self._executor: ModuleType | None = None

    def tensors(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """The tensors of the inputs, in the order of `keys`."""
        return tuple(tensor for _, tensor in inputs.tensors(self.loop.program))

    def inputs(self, tensors: Sequence[Tensor]) -> Inputs:
        """The tensors, in the order of `Inputs.tensors`, in their places."""
        given = dict(zip(self.keys, tensors, strict=True))
        slots = self.loop.program.slots
        return Inputs(
            tuple(tensors[: len(slots)]),
            tuple(given.get(f"rate:{slot.name}") for slot in slots),
            self._samples("support", given),
            self._samples("query", given),
            self._seed,
        )

    def executor(self, inputs: Inputs) -> ModuleType:
        """What runs this call, chosen once, after a last check of the data.

        Only data on the CPU is checked: elsewhere looking at it would wait for the device.
        """
        if self._executor is None:
            if inputs.parameters and inputs.parameters[0].device.type == "cpu":
                checks.rate_values({rate for rate in inputs.rates if rate is not None})
                for name, samples in (("support", inputs.support), ("query", inputs.query)):
                    if samples is not None and samples.y is not None:
                        checks.labels(f"{name}_y", samples, self.loop)
            self._executor = plan.choose(self.loop, inputs, self.backend)
        return self._executor

    def _samples(self, name: str, given: dict[str, Tensor]) -> Samples | None:
        if name not in self._sizes:
            return None
        y, weights = given.get(f"{name}_y"), given.get(f"{name}_weights")
        return Samples(given[f"{name}_x"], y, weights, self._sizes[name])


class RunCall(Call):
    """A call of an executor's `run`. Subclasses say which outputs become results."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results."""
        raise NotImplementedError

    def cotangents(self, given: Sequence[Tensor | None], tasks: int) -> Cotangents:
        """Those of an executor, from those of the results; None is zero."""
        raise NotImplementedError

    def gradients(
        self,
        keys: Sequence[str],
        given: Sequence[Tensor | None],
        tensors: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Those of the inputs with these keys, given the cotangents of the results."""
        inputs = self.inputs(tensors)
        cotangents = self.cotangents(given, inputs.tasks)
        outputs = self._call(inputs, cotangents=cotangents, wanted=frozenset(keys))
        return tuple(outputs.gradients[key] for key in keys)

    def _call(self, inputs: Inputs, **options: object) -> Outputs:
        executor = self.executor(inputs)
        with without_autocast(inputs):
            return executor.run(self.loop, inputs, **options)


class AdaptCall(RunCall):
    """The results are the adapted parameters, [T, *shape] each, in the order of the slots."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        adapted = self._call(self.inputs(tensors), adapted=True).adapted
        return tuple(parameter for parameter in adapted if parameter is not None)

    def cotangents(self, given: Sequence[Tensor | None], tasks: int) -> Cotangents:
        rest = iter(given)
        return Cotangents(adapted=tuple(next(rest) if flag else None for flag in self.loop.adapted))


class PredictCall(RunCall):
    """The result is the prediction, [T, m, *output], or its leaves."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return _leaves(self._call(self.inputs(tensors)).prediction)

    def cotangents(self, given: Sequence[Tensor | None], tasks: int) -> Cotangents:
        return Cotangents(prediction=_joined(given, self.loop))


class LossCall(RunCall):
    """The results are the loss [], the loss of each task [T] and the prediction [T, m, *output],
    or its leaves.

    Where a gradient may follow, the first run computes that of the loss along with its value,
    so that an executor passes through its inner loop once.

    Args:
        loop, inputs, backend: see `Call`.
        reduction: "mean" or "sum" over tasks.
    """

    def __init__(self, loop: InnerLoop, inputs: Inputs, backend: str, reduction: str) -> None:
        super().__init__(loop, inputs, backend)
        self._share = 1.0 / inputs.tasks if reduction == "mean" else 1.0
        self._of_loss: dict[str, Tensor] = {}
        self._wanted = frozenset(
            key
            for key, tensor in inputs.tensors(loop.program)
            if torch.is_grad_enabled() and tensor.requires_grad
        )

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        inputs = self.inputs(tensors)
        cotangents = None
        if self._wanted:
            share = torch.full(
                (inputs.tasks,), self._share, dtype=inputs.dtype, device=inputs.device
            )
            cotangents = Cotangents(share)
        outputs = self._call(inputs, cotangents=cotangents, wanted=self._wanted)
        self._of_loss = outputs.gradients
        loss = outputs.task_loss.sum()
        return loss * self._share, outputs.task_loss, *_leaves(outputs.prediction)

    def cotangents(self, given: Sequence[Tensor | None], tasks: int) -> Cotangents:
        loss, task_loss, *leaves = given
        if loss is not None:
            share = (loss * self._share).expand(tasks)
            task_loss = share if task_loss is None else task_loss + share
        return Cotangents(task_loss, _joined(leaves, self.loop))

    def gradients(
        self,
        keys: Sequence[str],
        given: Sequence[Tensor | None],
        tensors: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        loss, *others = given
        is_known = all(other is None for other in others) and self._of_loss.keys() >= set(keys)
        if is_known:
            return tuple(self._of_loss[key] * loss for key in keys)
        return super().gradients(keys, given, tensors)


class ProductCall(Call):
    """A call of an executor's `hvp`: the tensors of its inputs are followed by the vectors."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """H u for each adapted slot, [T, *shape]."""
        inputs = self.inputs(tensors[: len(self.keys)])
        rest = iter(tensors[len(self.keys) :])
        vectors = tuple(next(rest) if flag else None for flag in self.loop.adapted)
        executor = self.executor(inputs)
        with without_autocast(inputs):
            products = executor.hvp(self.loop, inputs, vectors)
        return tuple(product for product in products if product is not None)


def _leaves(prediction: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return prediction if isinstance(prediction, tuple) else (prediction,)


def _joined(
    leaves: Sequence[Tensor | None], loop: InnerLoop
) -> Tensor | tuple[Tensor | None, ...] | None:
    """Cotangents of the prediction, as executors take them."""
    is_tensor = isinstance(loop.program, Program) or loop.program.returns_a_tensor
    return leaves[0] if is_tensor else tuple(leaves)


def is_autocast_on(device_type: str) -> bool:
    """Whether autocast changes what operations compute on such a device."""
    is_available = device_type == "cpu" or torch.amp.is_autocast_available(device_type)
    return is_available and torch.is_autocast_enabled(device_type)


def without_autocast(inputs: Inputs) -> contextlib.AbstractContextManager[None]:
    """Autocast, where it is on, would change an executor's own arithmetic."""
    samples = inputs.query or inputs.support
    device_type = samples.x.device.type
    if is_autocast_on(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()

"""Calls of an executor, without their tensors: what autograd's Functions run.

A call keeps no tensor that its caller gave: autograd keeps those, and sees when they are freed
or overwritten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..program import Cotangents, InnerLoop, Inputs, Outputs, Program
from .constants import constant
from .prepared import Prepared


class Call:
    """One call of an executor, without its tensors.

    Args:
        prepared: what it shares with others of the same shapes.
        seed: of dropout's masks.
    """

    def __init__(self, prepared: Prepared, seed: int) -> None:
        self.prepared = prepared
        self.seed = seed

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the tensors that it takes, in their order."""
        return self.prepared.keys

    def checked_inputs(self, tensors: Sequence[Tensor]) -> Inputs:
        """The tensors in their places, after a last check of the data."""
        inputs = self.prepared.inputs(tensors, self.seed)
        self.prepared.check_data(inputs)
        return inputs


class RunCall(Call):
    """A call of an executor's `run`. Subclasses say which outputs become results."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results."""
        raise NotImplementedError

    def cotangents(self, given: Sequence[Tensor | None]) -> Cotangents:
        """Those of an executor, from those of the results; None is zero."""
        raise NotImplementedError

    def gradients(
        self,
        keys: Sequence[str],
        given: Sequence[Tensor | None],
        tensors: Sequence[Tensor],
    ) -> Sequence[Tensor]:
        """Those of the inputs with these keys, given the cotangents of the results."""
        inputs = self.prepared.inputs(tensors, self.seed)
        cotangents = self.cotangents(given)
        outputs = self._call(inputs, cotangents=cotangents, wanted=frozenset(keys))
        return tuple(outputs.gradients[key] for key in keys)

    def known_gradients(
        self, keys: Sequence[str], given: Sequence[Tensor | None]
    ) -> Sequence[Tensor] | None:
        """Those that no run is needed for; None otherwise."""
        return None

    def _call(self, inputs: Inputs, **options: Any) -> Outputs:
        prepared = self.prepared
        with without_autocast(inputs):
            return prepared.executor.run(prepared.loop, inputs, memo=prepared.memo, **options)


class AdaptCall(RunCall):
    """The results are the adapted parameters, [T, *shape] each, in the order of the slots."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        adapted = self._call(self.checked_inputs(tensors), adapted=True).adapted
        return tuple(parameter for parameter in adapted if parameter is not None)

    def cotangents(self, given: Sequence[Tensor | None]) -> Cotangents:
        rest = iter(given)
        flags = self.prepared.loop.adapted
        return Cotangents(adapted=tuple(next(rest) if flag else None for flag in flags))


class PredictCall(RunCall):
    """The result is the prediction, [T, m, *output], or its leaves."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return _leaves(self._call(self.checked_inputs(tensors)).prediction)

    def cotangents(self, given: Sequence[Tensor | None]) -> Cotangents:
        return Cotangents(prediction=_joined(given, self.prepared.loop))


class LossCall(RunCall):
    """The results are the loss [], the loss of each task [T] and the prediction [T, m, *output],
    or its leaves.

    Where a gradient may follow, the first run computes that of the loss along with its value,
    so that an executor passes through its inner loop once.

    Args:
        prepared, seed: see `Call`.
        reduction: "mean" or "sum" over tasks.
    """

    def __init__(self, prepared: Prepared, seed: int, reduction: str) -> None:
        super().__init__(prepared, seed)
        self._share = 1.0 / prepared.tasks if reduction == "mean" else 1.0
        self._wanted = prepared.wanted if torch.is_grad_enabled() else frozenset()
        self._of_loss: dict[str, Tensor] = {}

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        inputs = self.checked_inputs(tensors)
        share = constant(self._share, inputs.tasks, inputs.dtype, inputs.device)
        cotangents = Cotangents(share) if self._wanted else None
        outputs = self._call(inputs, cotangents=cotangents, wanted=self._wanted)
        self._of_loss = outputs.gradients
        loss = torch.dot(outputs.task_loss, share)  # in a tenth of the time of mean
        return loss, outputs.task_loss, *_leaves(outputs.prediction)

    def cotangents(self, given: Sequence[Tensor | None]) -> Cotangents:
        loss, task_loss, *leaves = given
        if loss is not None:
            share = (loss * self._share).expand(self.prepared.tasks)
            task_loss = share if task_loss is None else task_loss + share
        return Cotangents(task_loss, _joined(leaves, self.prepared.loop))

    def gradients(
        self,
        keys: Sequence[str],
        given: Sequence[Tensor | None],
        tensors: Sequence[Tensor],
    ) -> Sequence[Tensor]:
        known = self.known_gradients(keys, given)
        return super().gradients(keys, given, tensors) if known is None else known

    def known_gradients(
        self, keys: Sequence[str], given: Sequence[Tensor | None]
    ) -> Sequence[Tensor] | None:
        loss, *others = given
        if not all([other is None for other in others]):
            return None
        try:
            known = [self._of_loss[key] for key in keys]
        except KeyError:
            return None
        if loss.device.type == "cpu" and loss.item() == 1.0:
            # As it is, and handed over rather than kept: autograd may then take it for .grad
            # without a copy. Another backward pass through the same call, a rare thing, runs it.
            self._of_loss = {}
            return known
        return torch._foreach_mul(known, loss)


class ProductCall(Call):
    """A call of an executor's `hvp`: the tensors of its inputs are followed by the vectors."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """H u for each adapted slot, [T, *shape]."""
        prepared = self.prepared
        inputs = self.checked_inputs(tensors[: len(self.keys)])
        rest = iter(tensors[len(self.keys) :])
        vectors = tuple(next(rest) if flag else None for flag in prepared.loop.adapted)
        with without_autocast(inputs):
            products = prepared.executor.hvp(prepared.loop, inputs, vectors)
        return tuple(product for product in products if product is not None)


_NOTHING = contextlib.nullcontext()


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
    return _NOTHING

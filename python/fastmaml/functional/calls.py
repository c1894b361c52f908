"""Calls of an executor, without their tensors: what autograd's Functions run.

A call keeps no tensor that its caller gave: autograd keeps those, and sees when they are freed
or overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..program import Cotangents, InnerLoop, Program
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
        outputs = self.prepared.run(
            tensors, self.seed, cotangents=self.cotangents(given), wanted=frozenset(keys)
        )
        return tuple(outputs.gradients[key] for key in keys)

    def known_gradients(
        self, keys: Sequence[str], given: Sequence[Tensor | None]
    ) -> Sequence[Tensor] | None:
        """Those that no run is needed for; None otherwise."""
        return None


class AdaptCall(RunCall):
    """The results are the adapted parameters, [T, *shape] each, in the order of the slots."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.prepared.look_at(tensors)
        adapted = self.prepared.run(tensors, self.seed, adapted=True).adapted
        return tuple(parameter for parameter in adapted if parameter is not None)

    def cotangents(self, given: Sequence[Tensor | None]) -> Cotangents:
        rest = iter(given)
        flags = self.prepared.loop.adapted
        return Cotangents(adapted=tuple(next(rest) if flag else None for flag in flags))


class PredictCall(RunCall):
    """The result is the prediction, [T, m, *output], or its leaves."""

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.prepared.look_at(tensors)
        return _leaves(self.prepared.run(tensors, self.seed).prediction)

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
        self._reduction = reduction
        self._share = prepared.share(reduction)
        self._wanted = prepared.wanted if torch.is_grad_enabled() else frozenset()
        self._of_loss: dict[str, Tensor] = {}

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        prepared, share = self.prepared, self._share
        prepared.look_at(tensors)
        cotangents = Cotangents(share) if self._wanted else None
        outputs = prepared.run(tensors, self.seed, cotangents=cotangents, wanted=self._wanted)
        self._of_loss = outputs.gradients
        loss = self._total(outputs.task_loss)
        return loss, outputs.task_loss, *_leaves(outputs.prediction)

    def _total(self, task_loss: Tensor) -> Tensor:
        if task_loss.device.type == "cpu":
            return torch.dot(task_loss, self._share)  # in a tenth of the time of mean
        # one kernel, where dot is two
        return task_loss.mean() if self._reduction == "mean" else task_loss.sum()

    def leaves(self, keys: Sequence[str]) -> bool:
        """Whether a run leaves the gradients of the loss by these inputs."""
        return self._wanted.issuperset(keys)

    def handed_over(self, keys: Sequence[str]) -> list[Tensor]:
        """The gradients that the last run left, which are the caller's alone from now on."""
        of_loss, self._of_loss = self._of_loss, {}
        return [of_loss[key] for key in keys]

    def cotangents(self, given: Sequence[Tensor | None]) -> Cotangents:
        loss, task_loss, *leaves = given
        if loss is not None:
            of_loss = loss * self._share
            task_loss = of_loss if task_loss is None else task_loss + of_loss
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
        prepared, count = self.prepared, len(self.keys)
        inputs, rest = tensors[:count], iter(tensors[count:])
        prepared.look_at(inputs)
        vectors = tuple(next(rest) if flag else None for flag in prepared.loop.adapted)
        products = prepared.hvp(inputs, self.seed, vectors)
        return tuple(product for product in products if product is not None)


def _leaves(prediction: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return prediction if isinstance(prediction, tuple) else (prediction,)


def _joined(
    leaves: Sequence[Tensor | None], loop: InnerLoop
) -> Tensor | tuple[Tensor | None, ...] | None:
    """Cotangents of the prediction, as executors take them."""
    is_tensor = isinstance(loop.program, Program) or loop.program.returns_a_tensor
    return leaves[0] if is_tensor else tuple(leaves)

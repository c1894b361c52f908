"""A pass of the module over the support or the query samples of one task, as a pure function."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...program import Loss, ModuleProgram, StatelessModule, seed_generators
from ..reference.dropout import key_of
from ..reference.loss import rules_of
from ..reference.rules import Draw
from .overrides import Concern, Overrides

Tensors: TypeAlias = dict[str, Tensor]
"""By key: "parameter:NAME" and "buffer:NAME"; "x", "y" and "weights" of the samples; "task", the
task's index; "loss_bar" and "prediction:LEAF_bar", the cotangents of what the pass finds."""


_NOTHING = nullcontext()
_NO_CLASS = torch.iinfo(torch.int64).min
"""Torch leaves samples of class -100 out, which here is as wrong as any other that does not exist;
on a GPU nobody has looked for it before."""


@dataclass(frozen=True)
class Pass:
    """What a gear differentiates. Tensors are those of one task, without a task axis."""

    program: ModuleProgram
    module: StatelessModule
    """The program's."""
    concern: Concern
    """The module's."""
    loss: Loss | None
    """None where no loss is read."""
    seed: int
    index: int
    """See `Draw.pass_index`."""
    device: torch.device
    """Of the samples."""
    is_classic: bool = False
    """See `Overrides`."""

    def __call__(
        self, moving: Tensors, resting: Tensors, constant: Tensors
    ) -> tuple[Tensor, Tensors]:
        """(value, found): what to differentiate, and the "loss" and "prediction:LEAF" themselves.

        The value is the loss, or sum <cotangent, what it belongs to> where cotangents are given.

        Args:
            moving: what the inner loop moves.
            resting: what else a derivative is wanted by.
            constant: all the rest.
        """
        tensors = {**moving, **resting, **constant}
        state = self._state(tensors)
        with self._overrides(tensors, state):
            output = self.module(state, tensors["x"])
            leaves, tree = tree_flatten(output)
            if tree != self.program.output_tree:
                raise TypeError(f"forward returned {self.program.output_tree} and now {tree}")
            found = {f"prediction:{leaf}": tensor for leaf, tensor in enumerate(leaves)}
            if self.loss is not None and self.loss.function is not None:
                found["loss"] = self._callable_loss(tree_unflatten(leaves, tree), tensors["y"])
        if self.loss is not None and self.loss.function is None:
            found["loss"] = self._known_loss(leaves[0], tensors["y"], tensors.get("weights"))
        terms = [
            tensors[f"{key}_bar"] * tensor
            for key, tensor in found.items()
            if f"{key}_bar" in tensors
        ]
        value = sum(term.sum() for term in terms) if terms else found.get("loss")
        if value is None:
            value = leaves[0].new_zeros(())
        return value, found

    def prepare(self, task: Tensor) -> None:
        """Make torch's generators draw what belongs to this pass of a task, whenever it runs."""
        if self.program.has_dropout:
            seed_generators(key_of(self.seed, int(task), self.index), self.device)

    def _overrides(self, tensors: Tensors, state: Tensors) -> AbstractContextManager[Any]:
        if not self._may_need_overrides and (self.loss is None or self.loss.function is None):
            return _NOTHING
        draw = Draw(self.seed, tensors["task"], self.index)
        running = [state[name] for name in self.program.running_buffers]
        return Overrides(draw, running, self.is_classic)

    @property
    def _may_need_overrides(self) -> bool:
        return self.concern.classic if self.is_classic else self.concern.functional

    def _state(self, tensors: Tensors) -> dict[str, Tensor | None]:
        """What the module holds in this pass: the buffers that it writes to are copies."""
        program = self.program
        state = {slot.name: tensors[f"parameter:{slot.name}"] for slot in program.slots}
        for key, tensor in tensors.items():
            if key.startswith("buffer:"):
                name = key.removeprefix("buffer:")
                state[name] = tensor.clone() if name in program.written else tensor
        if self.concern.functional and not self._may_need_overrides:
            # What `Overrides.batch_norm` does, without a mode.
            state = {name: tensor.contiguous() for name, tensor in state.items()}
            state.update(dict.fromkeys(program.running_buffers))
        return state

    def _callable_loss(self, prediction: object, target: Tensor) -> Tensor:
        loss = self.loss.function(prediction, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"loss must return one number for all samples, got {got}")
        return loss.reshape(())

    def _known_loss(self, prediction: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None and self.loss.kind == "mse":
            return (prediction - target).square().mean()
        if weights is None and self.loss.kind == "cross_entropy" and target.dtype is torch.int64:
            smoothing = self.loss.label_smoothing
            return F.cross_entropy(
                prediction, target, ignore_index=_NO_CLASS, label_smoothing=smoothing
            )
        sample_loss = rules_of(self.loss).forward(prediction, target)
        return sample_loss.mean() if weights is None else weights @ sample_loss

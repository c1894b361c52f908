"""The outputs of a call, from those of its chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from ...program import InnerLoop, Inputs, Outputs
from .chunk import Chunk
from .inner_loop import Results
from .objective import Tensors


class Collected:
    """Results of chunks, in the order of tasks."""

    def __init__(self, loop: InnerLoop, inputs: Inputs, adapted: bool) -> None:
        self._loop = loop
        self._inputs = inputs
        self._returns_adapted = adapted
        self._adapted: list[Tensors] = []
        self._task_loss: list[Tensor] = []
        self._prediction: list[tuple[Tensor, ...]] = []

    def add(self, chunk: Chunk, results: Results) -> None:
        """The next chunk's."""
        if chunk.is_alone:
            results = _with_task_axis(results)
        if self._returns_adapted:
            self._adapted.append(results.adapted)
        if results.task_loss is not None:
            self._task_loss.append(results.task_loss)
        if self._inputs.query is not None:
            self._prediction.append(tuple(self._padded(leaf, chunk) for leaf in results.prediction))

    def outputs(self, gradients: Tensors) -> Outputs:
        """All of them, each with the axis T in front."""
        prediction = None
        if self._prediction:
            prediction = tuple(torch.cat(leaf) for leaf in zip(*self._prediction, strict=True))
            if self._loop.program.returns_a_tensor:
                (prediction,) = prediction
        adapted = None
        if self._returns_adapted:
            slots = zip(self._loop.program.slots, self._loop.adapted, strict=True)
            keys = [f"parameter:{slot.name}" if flag else None for slot, flag in slots]
            adapted = tuple(
                None if key is None else torch.cat([phi[key] for phi in self._adapted])
                for key in keys
            )
        task_loss = torch.cat(self._task_loss) if self._task_loss else None
        return Outputs(task_loss, prediction, adapted, gradients)

    def _padded(self, leaf: Tensor, chunk: Chunk) -> Tensor:
        """A leaf with samples on axis 1, zero beyond the real ones."""
        query = self._inputs.query
        if query.size is None or leaf.shape[1:2] != (query.size[chunk.first],):
            return leaf
        padded = leaf.new_zeros(len(leaf), query.x.shape[1], *leaf.shape[2:])
        padded[:, : leaf.shape[1]] = leaf
        return padded


def _with_task_axis(results: Results) -> Results:
    """Those of one task alone, as those of one task of several."""
    loss = results.task_loss
    return Results(
        {key: parameter.unsqueeze(0) for key, parameter in results.adapted.items()},
        None if loss is None else loss.unsqueeze(0),
        tuple([leaf.unsqueeze(0) for leaf in results.prediction]),
    )

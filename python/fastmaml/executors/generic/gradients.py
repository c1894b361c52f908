"""Where the terms of a chunk's gradients go."""

from __future__ import annotations

from torch import Tensor

from ..reference.inner_loop import rate_row
from .chunk import Chunk
from .objective import Tensors


class ChunkGradients:
    """A chunk's view of the gradients of a call: what is not wanted is dropped.

    Terms have the chunk's task axis; those of what tasks share are summed over it.
    """

    def __init__(self, chunk: Chunk, gradients: Tensors) -> None:
        self._chunk = chunk
        self._gradients = gradients
        self._own = {
            key
            for adapted in (True, False)
            for slot, key in chunk.parameters(adapted=adapted)
            if chunk.is_own(slot)
        }

    def add_parameters(self, terms: Tensors) -> None:
        """Terms [B, *shape] by key."""
        for key, term in terms.items():
            if key not in self._gradients:
                continue
            if key in self._own:
                self._gradients[key][self._chunk.tasks] += term
            else:
                self._gradients[key] += term if self._chunk.is_alone else term.sum(0)

    def add_rate(self, slot: int, step: int, v: Tensor, s: Tensor) -> None:
        """- v (.) s, [B, *shape] each; its sum where the rate is one number a tensor."""
        key = f"rate:{self._chunk.loop.program.slots[slot].name}"
        if key in self._gradients:
            row = rate_row(self._gradients[key], step)
            row -= (v * s).sum_to_size(row.shape)

    def add_resting(self, role: str, terms: Tensors) -> None:
        """Terms of what the support's or the query's pass reads besides what is adapted."""
        self.add_parameters({k: t for k, t in terms.items() if k.startswith("parameter:")})
        samples = getattr(self._chunk.inputs, role)
        for part in terms.keys() & {"x", "y", "weights"}:
            gradient = self._gradients[f"{role}_{part}"]
            gradient[self._chunk.tasks, self._chunk.real(samples)] += terms[part]

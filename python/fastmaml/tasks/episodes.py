"""Meta-batches of few-shot tasks, all tasks of a batch drawn at once."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .dataset import ClassDataset


class Episodes(NamedTuple):
    """T tasks, in the order in which `fastmaml.MAML` takes them: `maml(*episodes)`.

    Classification: way classes, shot support and query query samples of each, class after
    class, so that y is 0, 0, ..., 1, 1, ... in every task.
    """

    support_x: Tensor  # [T, way * shot, ...]; regression: [T, shot, ...]
    support_y: Tensor  # [T, way * shot] int64; regression: [T, shot, out] float
    query_x: Tensor  # [T, way * query, ...]
    query_y: Tensor  # [T, way * query] int64

    def to(
        self,
        device: torch.device | str | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        *,
        non_blocking: bool = False,
    ) -> Episodes:
        """The same tasks on `device`, floats in `dtype`; class labels stay int64."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device

        def move(tensor: Tensor) -> Tensor:
            kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
            return tensor.to(device=device, dtype=kept, non_blocking=non_blocking)

        return Episodes(*map(move, self))


class TaskSampler(ABC):
    """An endless, reproducible stream of meta-batches.

    Args:
        tasks: how many tasks a meta-batch of the iterator holds.
        seed: of the sampler's own generator; torch's global one is neither read nor changed.
    """

    def __init__(self, *, tasks: int, seed: int) -> None:
        self.tasks = check_count("tasks", tasks)
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def _draw(self, tasks: int) -> Episodes:
        """Draws `tasks` tasks at once."""

    def sample(self, tasks: int | None = None) -> Episodes:
        """Draws a meta-batch of `tasks` tasks, by default as many as the iterator does."""
        return self._draw(self.tasks if tasks is None else check_count("tasks", tasks))

    def __iter__(self) -> Iterator[Episodes]:
        while True:
            yield self._draw(self.tasks)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands; `load_state_dict` continues from there."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class EpisodeSampler(TaskSampler):
    """N-way K-shot classification tasks from a `ClassDataset`.

    Every task draws `way` classes in random order, whose places are their labels, and
    `shot + query` distinct samples of each. With `rotations` every class counts four times,
    turned by 0, 90, 180 and 270 degrees (the Omniglot protocol of Santoro et al. 2016): the
    turned classes come from the same data set, hence the same split, as the upright one, and a
    task may hold two turns of one class.

    Raises ValueError where a task wants more classes or samples than there are.
    """

    def __init__(
        self,
        dataset: ClassDataset,
        *,
        way: int = 5,
        shot: int = 1,
        query: int = 1,
        rotations: bool = False,
        tasks: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(tasks=tasks, seed=seed)
        self.dataset = dataset
        self.way = check_count("way", way)
        self.shot = check_count("shot", shot)
        self.query = check_count("query", query)
        self.rotations = rotations
        shape = tuple(dataset.inputs.shape)
        if rotations and (len(shape) < 3 or shape[-1] != shape[-2]):
            raise ValueError(
                f"rotations turn square images, inputs [samples, ..., size, size], got {shape}"
            )
        self.classes = len(dataset) * (4 if rotations else 1)
        if way > self.classes:
            raise ValueError(
                f"way is {way}, but there are {self.classes} classes"
                + (f" ({len(dataset)} in 4 rotations)" if rotations else "")
            )
        fewest = int(dataset.counts.min())
        if shot + query > fewest:
            name = dataset.names[int(dataset.counts.argmin())]
            enough = int((dataset.counts >= shot + query).sum())
            raise ValueError(
                f"shot + query is {shot} + {query} = {shot + query}, but class {name!r} has "
                f"{fewest} samples; {enough} of {len(dataset)} classes have enough, and "
                f"dataset.subset(dataset.counts >= {shot + query}) keeps those"
            )

    def _draw(self, tasks: int) -> Episodes:
        way, shot, query = self.way, self.shot, self.query
        available = torch.full((tasks,), self.classes)
        drawn = draw_without_replacement(available, way, self.generator)  # [T, way]
        turns, classes = drawn // len(self.dataset), drawn % len(self.dataset)
        samples = draw_without_replacement(
            self.dataset.counts[classes], shot + query, self.generator
        )  # [T, way, shot + query]
        labels = torch.arange(way, device=self.dataset.inputs.device)
        return Episodes(
            self._inputs(classes, samples[..., :shot], turns),
            labels.repeat_interleave(shot).repeat(tasks, 1),
            self._inputs(classes, samples[..., shot:], turns),
            labels.repeat_interleave(query).repeat(tasks, 1),
        )

    def _inputs(self, classes: Tensor, samples: Tensor, turns: Tensor) -> Tensor:
        """Samples [T, way, n] of classes [T, way] turned by turns [T, way]: [T, way * n, ...]."""
        x = self.dataset.gather(classes.unsqueeze(-1), samples).flatten(1, 2)
        if self.rotations:
            turns = turns.repeat_interleave(samples.shape[-1], dim=1).to(x.device)
            for quarter_turns in (1, 2, 3):
                turned = turns == quarter_turns
                x[turned] = x[turned].rot90(quarter_turns, dims=(-2, -1))
        return x


def draw_without_replacement(counts: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` distinct integers below each count, in uniformly random order: [*counts.shape, size].

    Robert Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", CACM 1987) for all
    rows at once: time and memory do not grow with the counts. Every count is at least `size`.
    """
    uniform = torch.rand(*counts.shape, size, dtype=torch.float64, generator=generator)
    chosen = torch.empty(uniform.shape, dtype=torch.int64)
    for i in range(size):
        # `last` may be drawn from this turn on, so it is free to stand in for one already taken
        last = counts - size + i
        candidate = (uniform[..., i] * (last + 1)).long()
        taken = (chosen[..., :i] == candidate.unsqueeze(-1)).any(-1)
        chosen[..., i] = torch.where(taken, last, candidate)
    # Floyd's sets are uniform, their order is not
    order = torch.rand(chosen.shape, dtype=torch.float64, generator=generator).argsort(-1)
    return chosen.gather(-1, order)


def check_count(name: str, value: int, least: int = 1) -> int:
    """`value` as an int, or an error that names the argument."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count

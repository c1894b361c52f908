"""Samples grouped by class, held in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .episodes import EpisodeSampler, check_count


class ClassDataset:
    """Samples grouped by class, the source of few-shot tasks.

    Args:
        inputs: [classes, samples, ...], or [samples, ...] together with `labels`.
        labels: [samples] integers of any values; every distinct one is a class, in ascending
            order, with as many samples as carry it.
        names: one a class; by default the labels, or the numbers 0, 1, ...
        groups: what each class belongs to (an alphabet, say); `select` and
            `split(by_group=True)` go by it. By default each class is its own group.

    Attributes:
        inputs: [samples, ...], on any device.
        counts: [classes] int64, the samples of each class.
        names, groups: one string a class.
    """

    def __init__(
        self,
        inputs: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        *,
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        inputs = torch.as_tensor(inputs)
        if labels is None:
            if inputs.ndim < 2:
                raise ValueError(
                    "inputs without labels must be [classes, samples, ...], "
                    f"got shape {tuple(inputs.shape)}"
                )
            values = torch.arange(inputs.shape[0])
            labels = values.repeat_interleave(inputs.shape[1])
            inputs = inputs.flatten(0, 1)
        labels = _check_labels(labels, inputs)
        values, of_class, self.counts = labels.unique(return_inverse=True, return_counts=True)
        self.inputs = inputs
        # rows of class c: _rows[_starts[c] : _starts[c] + counts[c]]
        self._rows = of_class.argsort(stable=True)
        self._starts = self.counts.cumsum(0) - self.counts
        self.names = _check_strings("names", names, len(values)) or tuple(
            str(value) for value in values.tolist()
        )
        self.groups = _check_strings("groups", groups, len(values)) or self.names

    def __len__(self) -> int:
        """How many classes there are."""
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """All samples of class `index`: [counts[index], ...]."""
        index = range(len(self))[index]
        return self.gather(torch.tensor(index), torch.arange(int(self.counts[index])))

    def gather(self, classes: Tensor, samples: Tensor) -> Tensor:
        """Sample `samples` of class `classes`, which broadcast to [...]: [..., *sample shape]."""
        rows = self._rows[self._starts[classes] + samples]
        x = self.inputs.index_select(0, rows.flatten().to(self.inputs.device))
        return x.unflatten(0, rows.shape)

    def subset(self, classes: Tensor | Sequence[int]) -> ClassDataset:
        """The classes of these indices, or of a mask [classes] of booleans. Copies no sample."""
        classes = torch.as_tensor(classes)
        if classes.dtype == torch.bool:
            if classes.shape != (len(self),):
                raise ValueError(
                    f"a mask of classes must be [{len(self)}], got {tuple(classes.shape)}"
                )
            classes = classes.nonzero().flatten()
        if classes.numel() == 0:
            raise ValueError("classes must name at least one class, got none")
        if classes.ndim != 1 or classes.is_floating_point() or classes.is_complex():
            raise ValueError(f"classes must be indices [n], got {tuple(classes.shape)}")
        if classes.min() < 0 or classes.max() >= len(self):
            raise ValueError(
                f"classes must be in 0 .. {len(self) - 1}, "
                f"got {int(classes.min())} .. {int(classes.max())}"
            )
        if len(classes.unique()) < len(classes):
            raise ValueError("classes must be distinct")
        view = copy.copy(self)
        view.counts, view._starts = self.counts[classes], self._starts[classes]
        view.names = tuple(self.names[c] for c in classes.tolist())
        view.groups = tuple(self.groups[c] for c in classes.tolist())
        return view

    def select(self, *groups: str) -> ClassDataset:
        """The classes of these groups, for example the characters of some alphabets."""
        known = sorted(set(self.groups))
        for group in groups:
            if group not in known:
                raise ValueError(f"no group {group!r}; there are {', '.join(known)}")
        return self.subset([c for c, group in enumerate(self.groups) if group in groups])

    def split(self, *sizes: int, seed: int = 0, by_group: bool = False) -> tuple[ClassDataset, ...]:
        """Random disjoint subsets of `sizes` classes; with `by_group`, of `sizes` whole groups.

        split(1100, 100, 423) makes training, validation and test classes. The same seed makes
        the same split, and `sizes` may add up to less than there is.
        """
        kind = "groups" if by_group else "classes"
        units = sorted(set(self.groups)) if by_group else list(range(len(self)))
        sizes = tuple(check_count("sizes", size) for size in sizes)
        if sum(sizes) > len(units):
            raise ValueError(f"sizes add up to {sum(sizes)}, but there are {len(units)} {kind}")
        order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
        parts = order[: sum(sizes)].split(sizes)
        if by_group:
            return tuple(self.select(*(units[unit] for unit in part.tolist())) for part in parts)
        return tuple(self.subset(part.sort().values) for part in parts)

    def episodes(
        self,
        way: int = 5,
        shot: int = 1,
        query: int = 1,
        *,
        rotations: bool = False,
        tasks: int = 32,
        seed: int = 0,
    ) -> EpisodeSampler:
        """An `EpisodeSampler` of N-way K-shot tasks over these classes."""
        return EpisodeSampler(
            self, way=way, shot=shot, query=query, rotations=rotations, tasks=tasks, seed=seed
        )


def _check_labels(labels: Tensor | np.ndarray | Sequence[int], inputs: Tensor) -> Tensor:
    labels = torch.as_tensor(labels).cpu()
    samples = inputs.shape[0] if inputs.ndim else 0
    if labels.shape != (samples,):
        raise ValueError(
            f"labels must be [samples] with the samples of inputs {tuple(inputs.shape)}, "
            f"got shape {tuple(labels.shape)}"
        )
    if labels.numel() == 0:
        raise ValueError(f"inputs must hold at least one sample, got {tuple(inputs.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    return labels


def _check_strings(name: str, strings: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    if strings is not None and len(strings) != classes:
        raise ValueError(f"{name} must be one a class, {classes}, got {len(strings)}")
    return tuple(strings or ())

"""Calls prepared once: what all calls with the same options and shapes of tensors share.

Checks of shapes, the choice of the executor and its own preparations depend on nothing else, and
cost a hundred microseconds; `known` finds what was prepared in a few.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from .. import checks, plan
from ..program import Cotangents, InnerLoop, Inputs, Outputs, Program, Samples
from . import rates
from .constants import constant


class Prepared:
    """A call without its tensors, checked, with the executor that runs it.

    Args:
        loop: the part of the call that holds no tensor.
        inputs: the tensors of the first such call, which are not kept.
        backend: see `plan.choose`.
        lr: the rates as they were given.

    Raises:
        BackendError: no executor runs it.
    """

    def __init__(self, loop: InnerLoop, inputs: Inputs, backend: str, lr: Any = None) -> None:
        self.loop = loop
        self.tasks, self.dtype, self.device = inputs.tasks, inputs.dtype, inputs.device
        self._device_type = self.device.type
        tensors = dict(inputs.tensors(loop.program))
        self.keys = tuple(tensors)
        """Of the inputs, in the order of `Inputs.flat`."""
        self.wanted = frozenset(key for key, tensor in tensors.items() if tensor.requires_grad)
        """The keys of what requires grad."""
        self._wanted_keys = tuple([key for key in self.keys if key in self.wanted])
        self._wanted_places = [i for i, key in enumerate(self.keys) if key in self.wanted]
        self._keys_where: dict[tuple[bool, ...], tuple[str, ...]] = {}
        self._slots = len(loop.program.slots)
        self._has_rate = tuple(rate is not None for rate in inputs.rates)
        self._support, self._query = _Parts(inputs.support), _Parts(inputs.query)
        self._rates_are_given = rates.are_given(lr)
        on_cpu = self._device_type == "cpu"
        # on a GPU they may belong to a graph that is captured
        are_kept = on_cpu and not self._rates_are_given
        self._numbers = [rate for rate in inputs.rates if rate is not None] if are_kept else None
        self._looks_at_rates = on_cpu and self._rates_are_given
        self._labels = _labels(loop, inputs) if on_cpu else {}
        self._shares: dict[str, Tensor] = {}
        self._executor = plan.choose(loop, inputs, backend)
        self._recipes: dict[Any, Any] = {}

    def keys_where(self, flags: tuple[bool, ...]) -> tuple[str, ...]:
        """Those of the inputs that have their flag up."""
        keys = self._keys_where.get(flags)
        if keys is None:
            keys = tuple([key for key, flag in zip(self.keys, flags, strict=True) if flag])
            self._keys_where[flags] = keys
        return keys

    def requiring_grad(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], tuple[str, ...]]:
        """Those of the inputs that require grad, and their keys."""
        if self._rates_are_given:  # and what is made of them under no_grad requires none
            flags = tuple([tensor.requires_grad for tensor in tensors])
            places = [place for place, flag in enumerate(flags) if flag]
            return [tensors[place] for place in places], self.keys_where(flags)
        return [tensors[place] for place in self._wanted_places], self._wanted_keys

    def tensors(
        self, model: nn.Module, parameters: Sequence[Tensor], lr: Any, data: Sequence[Any]
    ) -> list[Tensor]:
        """The inputs of a call like the first, in the order of `keys`.

        Args:
            parameters: one a slot.
            lr: the rates, as they are given.
            data: x, y and weights of the support, then of the query, None where there is none.
        """
        of_slots = self._numbers
        if of_slots is None:
            loop = self.loop
            of_slots = [
                rate
                for rate in rates.resolve(lr, model, loop, self.dtype, self.device)
                if rate is not None
            ]
        return [*parameters, *of_slots, *[tensor for tensor in data if tensor is not None]]

    def parameters(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Of the inputs, the initial parameters, one a slot."""
        return tensors[: self._slots]

    def inputs(self, tensors: Sequence[Tensor], seed: int) -> Inputs:
        """The inputs in their places."""
        rest = iter(tensors[self._slots :])
        return Inputs(
            tuple(tensors[: self._slots]),
            tuple([next(rest) if flag else None for flag in self._has_rate]),
            self._support.samples(rest),
            self._query.samples(rest),
            seed,
        )

    def seed(self, seed: Any) -> int:
        """Of dropout's masks; None is drawn from torch's default generator."""
        if seed is not None:
            return checks.seed(seed)
        if self.loop.program.has_dropout:
            return int(torch.randint(2**32, (), dtype=torch.int64))
        return 0

    def share(self, reduction: str) -> Tensor:
        """[T], what each task counts in a "mean" or a "sum"."""
        share = self._shares.get(reduction)
        if share is None:
            number = 1.0 / self.tasks if reduction == "mean" else 1.0
            share = constant(number, self.tasks, self.dtype, self.device)
            if self._device_type == "cpu":  # elsewhere it may belong to a graph that is captured
                self._shares[reduction] = share
        return share

    def look_at(self, tensors: Sequence[Tensor]) -> None:
        """Check the numbers in the inputs, which the CPU can do without waiting."""
        if self._looks_at_rates:
            checks.rate_values(set(tensors[self._slots : self._slots + sum(self._has_rate)]))
        for name, size in self._labels.items():
            (classes,) = self.loop.program.output_shape
            checks.labels(name, tensors[self.keys.index(name)], size, classes)

    def run(
        self,
        tensors: Sequence[Tensor],
        seed: int,
        *,
        adapted: bool = False,
        cotangents: Cotangents | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> Outputs:
        """What the executor makes of the inputs; see `executors`."""
        key = (adapted, None if cotangents is None else cotangents.given(), wanted)
        recipe = self._recipes.get(key)
        if recipe is not None and not is_autocast_on(self._device_type):
            return recipe.run(tensors, seed, cotangents)
        inputs = self.inputs(tensors, seed)
        options = {"adapted": adapted, "cotangents": cotangents, "wanted": wanted}
        with without_autocast(self._device_type):
            if not hasattr(self._executor, "recipe"):
                return self._executor.run(self.loop, inputs, **options)
            recipe = self._recipes[key] = self._executor.recipe(self.loop, inputs, **options)
            return recipe.run(tensors, seed, cotangents)

    def hvp(
        self, tensors: Sequence[Tensor], seed: int, vectors: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        """H u for each slot; see `executors`."""
        with without_autocast(self._device_type):
            return self._executor.hvp(self.loop, self.inputs(tensors, seed), vectors)

    def prediction(self, leaves: Sequence[Tensor]) -> Any:
        """What the model returns, from its tensors."""
        program = self.loop.program
        if isinstance(program, Program):
            (prediction,) = leaves
            return prediction
        return tree_unflatten(leaves, program.output_tree)


def _labels(loop: InnerLoop, inputs: Inputs) -> dict[str, tuple[int, ...] | None]:
    """The keys of class indices, and how many samples of each task are real."""
    parts = {"support_y": inputs.support, "query_y": inputs.query}
    return {
        key: samples.size
        for key, samples in parts.items()
        if samples is not None
        and samples.y is not None
        and samples.y.dtype is checks.LABELS
        and loop.loss.kind == "cross_entropy"
    }


class _Parts:
    """Which tensors of the support or the query there are."""

    def __init__(self, samples: Samples | None) -> None:
        self._there = samples is not None
        self._has_y = samples is not None and samples.y is not None
        self._has_weights = samples is not None and samples.weights is not None
        self._size = None if samples is None else samples.size

    def samples(self, rest: Any) -> Samples | None:
        """Those of one call, the next of the tensors `rest`."""
        if not self._there:
            return None
        return Samples(
            next(rest),
            next(rest) if self._has_y else None,
            next(rest) if self._has_weights else None,
            self._size,
        )


_NOTHING = contextlib.nullcontext()


def is_autocast_on(device_type: str) -> bool:
    """Whether autocast changes what operations compute on such a device."""
    is_available = device_type == "cpu" or torch.amp.is_autocast_available(device_type)
    return is_available and torch.is_autocast_enabled(device_type)


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[None]:
    """Autocast, where it is on, would change an executor's own arithmetic."""
    if is_autocast_on(device_type):
        return torch.autocast(device_type, enabled=False)
    return _NOTHING

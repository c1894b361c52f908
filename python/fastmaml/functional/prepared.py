"""Calls prepared once: what all calls with the same options and shapes of tensors share.

Checks of shapes, the choice of the executor and its own preparations depend on nothing else. So
the first such call makes a `Prepared`, kept as long as the model, and later ones look it up by a
key, which costs a few microseconds where the checks cost a hundred.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from .. import checks, plan
from ..program import InnerLoop, Inputs, Loss, Samples


class Prepared:
    """A call without its tensors, checked, with the executor that runs it.

    Args:
        loop: the part of the call that holds no tensor.
        inputs: the tensors of the first such call, which are not kept.
        backend: see `plan.choose`.
        given_rates: whether a rate is a tensor of the caller's, which may hold anything.

    Raises:
        BackendError: no executor runs it.
    """

    def __init__(
        self, loop: InnerLoop, inputs: Inputs, backend: str, given_rates: bool = False
    ) -> None:
        self.loop = loop
        self._given_rates = given_rates
        self._on_cpu = inputs.device.type == "cpu"
        # elsewhere they may belong to a graph that is captured
        are_kept = self._on_cpu and not given_rates
        self.numbers = [rate for rate in inputs.rates if rate is not None] if are_kept else None
        """The rates, where they are numbers and so the same in every call."""
        self.executor: ModuleType = plan.choose(loop, inputs, backend)
        self.memo: dict[Any, Any] = {}
        """The executor's."""
        tensors = dict(inputs.tensors(loop.program))
        self.keys = tuple(tensors)
        """Of the inputs, in the order of `Inputs.flat`."""
        self.wanted = frozenset(key for key, tensor in tensors.items() if tensor.requires_grad)
        """The keys of what requires grad."""
        self._keys_where: dict[tuple[bool, ...], tuple[str, ...]] = {}
        self.tasks = inputs.tasks
        self._slots = len(loop.program.slots)
        self._has_rate = tuple(rate is not None for rate in inputs.rates)
        self._support, self._query = _Parts(inputs.support), _Parts(inputs.query)

    def keys_where(self, flags: tuple[bool, ...]) -> tuple[str, ...]:
        """Those of the inputs that have their flag up."""
        keys = self._keys_where.get(flags)
        if keys is None:
            keys = tuple([key for key, flag in zip(self.keys, flags, strict=True) if flag])
            self._keys_where[flags] = keys
        return keys

    def inputs(self, tensors: Sequence[Tensor], seed: int) -> Inputs:
        """The tensors, in the order of `keys`, in their places."""
        rest = iter(tensors[self._slots :])
        return Inputs(
            tuple(tensors[: self._slots]),
            tuple([next(rest) if flag else None for flag in self._has_rate]),
            self._support.samples(rest),
            self._query.samples(rest),
            seed,
        )

    def check_data(self, inputs: Inputs) -> None:
        """Check what shapes do not tell; only on the CPU: elsewhere a look would wait for the
        device."""
        if not self._on_cpu:
            return
        if self._given_rates:
            checks.rate_values({rate for rate in inputs.rates if rate is not None})
        for name, samples in (("support", inputs.support), ("query", inputs.query)):
            if samples is not None and samples.y is not None:
                checks.labels(f"{name}_y", samples, self.loop)


_PLAIN = frozenset({type(None), bool, int, float, str, Loss})


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


def key_of(options: tuple[Any, ...], tensors: Sequence[Any]) -> Hashable | None:
    """What tells calls apart that differ in more than the numbers in their tensors.

    None where that is not so easily said: options that can change, subclasses of Tensor.

    Args:
        options: numbers, strings, flags, None, or what is immutable otherwise.
        tensors: tensors and None, or mappings of names to numbers and tensors.
    """
    shapes = [_shape(value) for value in tensors]
    types = tuple(map(type, options))
    if None in shapes or not (_PLAIN.issuperset(types) or all(map(_is_plain, options))):
        return None
    # the types too, since 1, 1.0 and True are equal
    return (*options, *types, *shapes)


def _is_plain(option: Any) -> bool:
    """Whether an option is a value that cannot change."""
    kind = type(option)
    return kind in _PLAIN or (kind is tuple and all(map(_is_plain, option)))


def _shape(value: Any) -> Hashable | None:
    kind = type(value)
    if kind is Tensor or kind is Parameter:
        if value.is_nested:
            return None
        return value.shape, value.dtype, value.device, value.layout, value.requires_grad
    if value is None or kind is float or kind is int:
        return kind, value
    if isinstance(value, Mapping):
        return key_of(tuple(value), tuple(value.values()))
    return None

"""What a trace read of a model, kept so that the next call can see whether it has changed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from . import facts


class Guards:
    """The state of a model that a trace may depend on, as it was when this was made.

    For every module its type and forward, its attributes (numbers, flags, `training`), and which
    parameters, buffers and submodules it holds under which names: what one forward can read,
    and so also which parameters are tied. Contents of tensors do not count. Lists, dicts, sets,
    dataclasses and namespaces are looked into; other objects count by identity alone, and
    globals are not watched. A tensor that stands for a number is read again every time.

    The model is held by weak references only: guards never keep it, or a parameter, alive.
    """

    def __init__(self, model: nn.Module) -> None:
        self._facts = tuple([facts.of_module(module) for module in model.modules()])
        self._shapes = [(weakref.ref(p), p.shape) for p in model.parameters()]
        self._scalars: list[tuple[weakref.ref[Tensor], float]] = []

    def add_called(self, modules: Iterable[nn.Module]) -> None:
        """Guard that these modules carry no hooks."""
        self._facts += tuple([facts.no_hooks(module) for module in dict.fromkeys(modules)])

    def add_scalars(self, scalars: Mapping[Tensor, float]) -> None:
        """Guard the numbers that were read from tensors."""
        self._scalars = [(weakref.ref(tensor), number) for tensor, number in scalars.items()]

    def hold(self) -> bool:
        """Whether nothing has changed since. A microsecond or two: this runs on every call."""
        return (
            not _has_any_global_hook()
            and facts.hold(self._facts)
            # alive: their modules were just seen to hold them
            and all([reference().shape == shape for reference, shape in self._shapes])
            and all([float(reference()) == number for reference, number in self._scalars])
        )

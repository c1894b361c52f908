"""What a trace read of a model, kept so that the next call can see whether it has changed."""

from __future__ import annotations

import dataclasses
import weakref
from argparse import Namespace
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

# What nn.Module keeps for itself and no forward reads, and where nn.RNN has its parameters again.
_BOOKKEEPING = frozenset(vars(nn.Module())) - {"training"} | {"_flat_weights", "_flat_weight_refs"}
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_MISSING = object()


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module would run more than its forward."""
    state = module.__dict__
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


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
        self._modules = [_module_guard(module) for module in model.modules()]
        self._shapes = [(weakref.ref(p), p.shape) for p in model.parameters()]
        self._called: list[weakref.ref[nn.Module]] = []
        self._scalars: list[tuple[weakref.ref[Tensor], float]] = []

    def add_called(self, modules: Iterable[nn.Module]) -> None:
        """Guard that these modules carry no hooks."""
        self._called = [weakref.ref(module) for module in dict.fromkeys(modules)]

    def add_scalars(self, scalars: Mapping[Tensor, float]) -> None:
        """Guard the numbers that were read from tensors."""
        self._scalars = [(weakref.ref(tensor), number) for tensor, number in scalars.items()]

    def hold(self) -> bool:
        """Whether nothing has changed since. A few microseconds: this runs on every call."""
        if _has_any_global_hook():
            return False
        for reference, kind, forward, attributes, empty, registries in self._modules:
            module = reference()
            if type(module) is not kind or kind.forward is not forward:
                return False
            state = module.__dict__
            if not attributes.hold(state):
                return False
            for registry in empty:
                if state[registry]:
                    return False
            for registry, names in registries:
                if not names.hold(state[registry]):
                    return False
        for reference, shape in self._shapes:
            if reference().shape != shape:  # alive: its module was just seen to hold it
                return False
        for reference in self._called:
            if has_hooks(reference()):
                return False
        return all(float(reference()) == number for reference, number in self._scalars)


def _module_guard(module: nn.Module) -> tuple[Any, ...]:
    """The module, its type and forward, and what its attributes and registries hold."""
    state, kind = vars(module), type(module)
    empty = tuple(registry for registry in _REGISTRIES if not state[registry])
    registries = [(r, _Names(state[r])) for r in _REGISTRIES if r not in empty]
    attributes = _Names(state, _BOOKKEEPING)
    return weakref.ref(module), kind, kind.forward, attributes, empty, registries


class _Names:
    """Which names a dict has, and what each holds."""

    __slots__ = ("_containers", "_count", "_objects", "_values")

    def __init__(self, names: Mapping[str, Any], ignored: frozenset[str] = frozenset()) -> None:
        self._count = len(names)
        self._values: list[tuple[str, Any]] = []
        self._objects: list[tuple[str, weakref.ref[Any]]] = []
        self._containers: list[tuple[str, Any]] = []
        for name, value in names.items():
            if name in ignored:
                continue
            if _is_container(value):
                self._containers.append((name, _freeze(value)))
                continue
            try:
                self._objects.append((name, weakref.ref(value)))
            except TypeError:  # numbers, strings, None: immutable, and they refer to nothing
                self._values.append((name, value))

    def hold(self, names: Mapping[str, Any]) -> bool:
        if len(names) != self._count:
            return False
        for name, value in self._values:
            if names.get(name, _MISSING) is not value:
                return False
        for name, reference in self._objects:
            value = names.get(name)
            if value is None or reference() is not value:
                return False
        for name, frozen in self._containers:  # noqa: SIM110 (a generator costs more than all)
            if _freeze(names.get(name)) != frozen:
                return False
        return True


def _is_container(value: object) -> bool:
    """Whether `value` can change, or refer to the model, while staying the same object."""
    if isinstance(value, tuple):
        return any(type(item) not in (bool, int, float, str, type(None)) for item in value)
    return isinstance(value, list | dict | set | SimpleNamespace | Namespace) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type | nn.Module)
    )


def _freeze(value: Any, outer: frozenset[int] = frozenset()) -> Any:
    """What a container holds, all the way down, as something to compare.

    `outer`: the containers around it, by id; one that holds itself is not entered again.
    """
    if id(value) in outer:
        return "itself"
    outer |= {id(value)}
    if isinstance(value, weakref.ref):  # those of an nn.RNN, which are equal as tensors are
        value = value()
    if not _is_container(value):
        try:
            return _Identity(value)
        except TypeError:
            return type(value), value
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        value = {name: getattr(value, name, None) for name in names}
    elif isinstance(value, SimpleNamespace | Namespace):
        value = vars(value)
    if isinstance(value, dict):
        items = value.items()
        return type(value), tuple((_freeze(k, outer), _freeze(v, outer)) for k, v in items)
    return type(value), tuple(_freeze(item, outer) for item in value)


class _Identity(weakref.ref):
    """A weak reference that equals another while both refer to the same living object."""

    __slots__ = ()
    __hash__ = weakref.ref.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self() is not None and self() is other()

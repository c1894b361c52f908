"""What was read of a model's modules, as facts to look at again.

A fact about a module is (weak reference, type, forward, facts about its dicts). One about a dict of
the module is (name of the dict in the module's state, or None for the state itself; how many names
it has; then pairs of a name and what it holds, in three kinds: immutable values; weak references to
objects; containers, frozen). Values and objects are compared by identity.

That a model has not changed is asked on every call, so where the extension is there, it looks.
"""

from __future__ import annotations

import dataclasses
import weakref
from argparse import Namespace
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import nn

from ..extension import extension

Facts = tuple[tuple[Any, ...], ...]

# What nn.Module keeps for itself and no forward reads, and where nn.RNN has its parameters again.
_BOOKKEEPING = frozenset(vars(nn.Module())) - {"training"} | {"_flat_weights", "_flat_weight_refs"}
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MISSING = object()


def of_module(module: nn.Module) -> tuple[Any, ...]:
    """What its attributes and registries hold."""
    state = vars(module)
    dicts = [_of_dict(None, state, _BOOKKEEPING), *[_of_dict(r, state[r]) for r in _REGISTRIES]]
    return weakref.ref(module), type(module), type(module).forward, tuple(dicts)


def no_hooks(module: nn.Module) -> tuple[Any, ...]:
    """That calling it runs nothing but its forward."""
    dicts = [_of_dict(name, {}) for name in _HOOKS]
    return weakref.ref(module), type(module), type(module).forward, tuple(dicts)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module would run more than its forward."""
    return any([vars(module)[name] for name in _HOOKS])


def hold(facts: Facts) -> bool:
    """Whether all are still so."""
    if extension is not None:
        return extension.facts_hold(facts, _freeze)
    return hold_in_python(facts)


def hold_in_python(facts: Facts) -> bool:
    """`hold` without the extension, which has the same loop."""
    for reference, kind, forward, dicts in facts:
        module = reference()
        if type(module) is not kind or kind.forward is not forward:
            return False
        if not all(_dict_holds(vars(module), *fact) for fact in dicts):
            return False
    return True


def _of_dict(
    registry: str | None, names: Mapping[str, Any], ignored: frozenset[str] = frozenset()
) -> tuple[Any, ...]:
    values: list[tuple[str, Any]] = []
    objects: list[tuple[str, weakref.ref[Any]]] = []
    containers: list[tuple[str, Any]] = []
    for name, value in names.items():
        if name in ignored:
            continue
        if _is_container(value):
            containers.append((name, _freeze(value)))
            continue
        try:
            objects.append((name, weakref.ref(value)))
        except TypeError:  # numbers, strings, None: immutable, and they refer to nothing
            values.append((name, value))
    return registry, len(names), tuple(values), tuple(objects), tuple(containers)


def _dict_holds(
    state: dict[str, Any],
    registry: str | None,
    count: int,
    values: tuple[tuple[str, Any], ...],
    objects: tuple[tuple[str, weakref.ref[Any]], ...],
    containers: tuple[tuple[str, Any], ...],
) -> bool:
    names = state if registry is None else state[registry]
    return (
        len(names) == count
        and all(names.get(name, _MISSING) is value for name, value in values)
        and all(
            (value := names.get(name)) is not None and reference() is value
            for name, reference in objects
        )
        and all(name in names and _freeze(names[name]) == frozen for name, frozen in containers)
    )


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

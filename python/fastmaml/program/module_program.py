"""A module that runs as it is: what is known of it without looking into its forward.

Where a model cannot be traced, or its data or loss fit no op, one pass on the samples of one task
says what else must be known: the shape of its output, and whether it draws random numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import TreeSpec, tree_flatten

from .graph import Slot
from .module_state import (
    modules_lock,
    restored_attributes,
    restored_generators,
    undisturbed_modules,
)
from .trace_guards import Guards

_PROGRAMS_PER_MODEL = 8


@dataclass(frozen=True, eq=False)
class ModuleProgram:
    """A model that is called, not read. Compares by identity, like `Program`.

    Its slots are all parameters of the model, whether forward reads them or not.
    """

    reference: weakref.ref[nn.Module]
    """Weak, since programs are kept for their models."""
    slots: tuple[Slot, ...]
    sample_shape: tuple[int, ...]
    output_shape: tuple[int, ...] | None
    """Of one sample; None where forward returns anything but one tensor [n, ...]."""
    output_tree: TreeSpec
    """What forward returns; a leaf is one tensor."""
    has_dropout: bool
    """Whether forward draws random numbers, by dropout or otherwise."""
    aliases: Mapping[str, str]
    """First names of parameters and buffers, by every name that they have."""
    written: frozenset[str]
    """The buffers that forward writes to, by first name."""
    running_buffers: tuple[str, ...]
    """The buffers of BatchNorms that hold their running statistics."""
    why: str
    """Why the model is not traced."""
    derived: dict[Any, Any] = field(default_factory=dict, repr=False)
    """As that of `Program`; nothing here may refer to the model."""

    @property
    def module(self) -> nn.Module:
        """The model.

        Raises:
            ReferenceError: it is gone.
        """
        module = self.reference()
        if module is None:
            raise ReferenceError("the model of this call is gone; keep it until backward has run")
        return module

    @property
    def returns_a_tensor(self) -> bool:
        return self.output_tree.is_leaf()


_Key = tuple[tuple[int, ...], torch.dtype, str]
_programs: weakref.WeakKeyDictionary[nn.Module, list[tuple[_Key, Guards, ModuleProgram]]] = (
    weakref.WeakKeyDictionary()
)


def module_program(
    model: nn.Module, x: Tensor, parameters: Mapping[str, Tensor], why: str
) -> ModuleProgram:
    """The program of a model that runs as it is; from memory while the model has not changed.

    Args:
        model: called as model(x).
        x: [n, *sample], the samples of one task.
        parameters: by first name, in the dtype and on the device of x.
        why: why the model is not traced.

    Raises:
        Exception: what forward raises.
        TypeError: what forward returns holds something else than tensors.
    """
    key = (tuple(x.shape[1:]), x.dtype, why)
    for known, guards, program in _programs.get(model, ()):
        if known == key and guards.hold():
            return program
    with modules_lock:
        guards = Guards(model)
        program = _look(model, x, parameters, why)
        programs = _programs.get(model, [])
        _programs[model] = [*programs[1 - _PROGRAMS_PER_MODEL :], (key, guards, program)]
    return program


def _look(model: nn.Module, x: Tensor, parameters: Mapping[str, Tensor], why: str) -> ModuleProgram:
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    versions = {name: buffer._version for name, buffer in buffers.items()}
    with (
        undisturbed_modules(model, x.device),
        torch.no_grad(),
        restored_attributes(model),
        restored_generators(x.device),
    ):
        before = _generator_states(x.device)
        output = functional_call(model, {**parameters, **buffers}, (x,))
        draws = not all(
            torch.equal(old, new)
            for old, new in zip(before, _generator_states(x.device), strict=True)
        )
    leaves, tree = tree_flatten(output)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"forward must return tensors alone, got a {type(leaf).__name__} in "
                f"a {type(output).__name__}"
            )
    is_batched = tree.is_leaf() and leaves[0].dim() > 0 and len(leaves[0]) == len(x)
    return ModuleProgram(
        reference=weakref.ref(model),
        slots=tuple(Slot(name, tuple(p.shape)) for name, p in model.named_parameters()),
        sample_shape=tuple(x.shape[1:]),
        output_shape=tuple(leaves[0].shape[1:]) if is_batched else None,
        output_tree=tree,
        has_dropout=draws,
        aliases=MappingProxyType(_aliases(model)),
        running_buffers=tuple(
            f"{path}.{name}" if path else name
            for path, module in model.named_modules()
            if isinstance(module, _BatchNorm)
            for name, buffer in module._buffers.items()
            if buffer is not None
        ),
        written=frozenset(n for n, buffer in buffers.items() if buffer._version != versions[n]),
        why=why,
    )


def _aliases(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name)
        for members in (model.named_parameters, model.named_buffers)
        for name, tensor in members(remove_duplicate=False)
    }


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states

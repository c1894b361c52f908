"""What classic autograd's graph of a pass tells about a user's code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import BackendError
from .gears import CONSTANT, Arguments, Axes, tasks_of
from .objective import Pass, Tensors


def look(run: Pass, arguments: Arguments, axes: Axes, times: int) -> int:
    """The bytes that autograd keeps of one task's pass that is differentiated `times` times.

    What would be lost without a word is an error.

    Raises:
        BackendError: forward or the loss reads a tensor that requires grad and is neither a
            parameter of the model nor an input; or a function of it is differentiable once, which
            torch.autograd.grad takes for a zero second derivative.
    """
    value, leaves = _record(run, arguments, axes)
    moving, resting, constant = leaves
    if times == 0 or not value.requires_grad:
        return _saved_bytes(leaves, value)
    own = [*moving.values(), *resting.values(), *constant.values()]
    for node in _nodes(value):
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and not any(leaf is tensor for tensor in own):
            raise BackendError(
                f"forward or the loss reads a tensor of shape {list(leaf.shape)} that requires "
                "grad and is neither a parameter of the model nor an input of the call, so its "
                "gradient would be lost; detach it, or make it a parameter of the model"
            )
    if times == 1 or not moving:
        return _saved_bytes(leaves, value)
    moved = list(moving.values())
    gradients = torch.autograd.grad(value, moved, create_graph=True, allow_unused=True)
    if any(node.name() == "torch::autograd::Error" for node in _nodes(*gradients)):
        functions = ", ".join(_python_functions(value))
        raise BackendError(
            f"PyTorch cannot differentiate {type(run.program.module).__name__} twice: one of its "
            f"autograd.Functions ({functions}) is marked once_differentiable"
        )
    return _saved_bytes(leaves, value, *gradients)


def python_functions(run: Pass, arguments: Arguments, axes: Axes) -> list[str]:
    """Names of the autograd.Functions, written in Python, in a pass."""
    try:
        value, _ = _record(run, arguments, axes)
    except Exception:
        return []
    return _python_functions(value)


@torch.enable_grad()
def _record(
    run: Pass, arguments: Arguments, axes: Axes
) -> tuple[Tensor, tuple[Tensors, Tensors, Tensors]]:
    """The value of the first task, and the leaves that it may depend on."""
    run.prepare(arguments[CONSTANT]["task"][0])

    def leaf(key: str, tensor: Tensor) -> Tensor:
        counts = tensor.is_floating_point() and not key.startswith("buffer:")
        return tensor.detach().requires_grad_(counts)

    leaves = tuple(
        {key: leaf(key, tensor) for key, tensor in part.items()}
        for part in tasks_of(arguments, axes, 0)
    )
    value, _ = run(*leaves)
    return value, leaves


def _saved_bytes(leaves: tuple[Tensors, ...], *ends: Tensor | None) -> int:
    """Of all storages that the graph of these tensors refers to, beside those of the leaves: these
    are there whatever is kept, and may be parts of larger ones."""
    there = {tensor.untyped_storage().data_ptr() for part in leaves for tensor in part.values()}
    storages = {}
    for node in _nodes(*ends):
        names = [name for name in dir(node) if name.startswith("_saved_")]
        saved = getattr(node, "saved_tensors", ())
        for tensor in tree_leaves([saved, *(getattr(node, name) for name in names)]):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for pointer, size in storages.items() if pointer not in there)


def _python_functions(value: Tensor) -> list[str]:
    names = {
        type(node).__name__.removesuffix("Backward")
        for node in _nodes(value)
        if isinstance(node, torch.autograd.function.BackwardCFunction)
    }
    return sorted(names)


def _nodes(*ends: Tensor | None) -> Iterator[Any]:
    """Every node of the graph that ends in these tensors."""
    stack, seen = [end.grad_fn for end in ends if end is not None], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)

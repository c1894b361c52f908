"""What classic autograd's graph of a pass tells about a user's code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendError
from .gears import Arguments, Axes, task_of
from .objective import Pass


def check_graph(run: Pass, arguments: Arguments, axes: Axes, *, twice: bool) -> None:
    """What would be lost without a word is an error.

    Args:
        twice: whether the pass is differentiated twice.

    Raises:
        BackendError: forward or the loss reads a tensor that requires grad and is neither a
            parameter of the model nor an input; or a function of it is differentiable once, which
            torch.autograd.grad takes for a zero second derivative.
    """
    value, own = record(run, arguments, axes)
    for node in _nodes(value):
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and not any(leaf is tensor for tensor in own):
            raise BackendError(
                f"forward or the loss reads a tensor of shape {list(leaf.shape)} that requires "
                "grad and is neither a parameter of the model nor an input of the call, so its "
                "gradient would be lost; detach it, or make it a parameter of the model"
            )
    if not twice or not value.requires_grad:
        return
    leaves = [tensor for tensor in own if tensor.requires_grad]
    gradients = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
    if any(node.name() == "torch::autograd::Error" for node in _nodes(*gradients)):
        functions = ", ".join(_python_functions(value))
        raise BackendError(
            f"PyTorch cannot differentiate {type(run.program.module).__name__} twice: one of its "
            f"autograd.Functions ({functions}) is marked once_differentiable"
        )


def python_functions(run: Pass, arguments: Arguments, axes: Axes) -> list[str]:
    """Names of the autograd.Functions, written in Python, in a pass."""
    try:
        value, _ = record(run, arguments, axes)
    except Exception:
        return []
    return _python_functions(value)


@torch.enable_grad()
def record(run: Pass, arguments: Arguments, axes: Axes) -> tuple[Tensor, list[Tensor]]:
    """The value of the first task, and the leaves that it may depend on."""
    run.prepare(int(arguments[2]["task"][0]))
    moving, resting, constant = task_of(arguments, axes, slice(0, 1), squeeze=True)
    leaves = [
        {
            key: tensor.detach().requires_grad_(
                tensor.is_floating_point() and not key.startswith("buffer:")
            )
            for key, tensor in part.items()
        }
        for part in (moving, resting, constant)
    ]
    value, _ = run(*leaves)
    return value, [tensor for part in leaves for tensor in part.values()]


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

"""The backward pass of a loss whose gradient came with its value.

Autograd would only hand that gradient over: through a Function, the engine and a node for every
parameter, which on small problems takes longer than the kernels. So where nobody can tell the
difference, no graph is made, and the gradients go to `.grad` as AccumulateGrad puts them there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..program import modules_lock
from .autograd import Run, transforms_are_active
from .calls import LossCall

_PLAIN_TYPES = (nn.Parameter, Tensor)
_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks


def run_backward(call: LossCall, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The results of a call, detached, after the backward pass of its loss.

    Raises:
        RuntimeError: grad mode is off, or nothing requires grad.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "a backward pass needs grad mode, which torch.no_grad or torch.inference_mode has "
            "turned off: leave it, or ask for the loss alone"
        )
    leaves, keys = call.prepared.requiring_grad(tensors)
    if not leaves:
        raise RuntimeError(
            "a backward pass needs a parameter, rate or sample with requires_grad=True, got none: "
            "set it, or ask for the loss alone"
        )
    if _is_watched() or not _are_plain(leaves) or not call.leaves(keys):
        loss, *others = Run.apply(call, *tensors)
        loss.backward()
        return [result.detach() for result in (loss, *others)]
    results = call.run(tensors)
    _accumulate(leaves, call.handed_over(keys))
    return results


def _is_watched() -> bool:
    """Whether somebody looks at what autograd does."""
    return (
        transforms_are_active()
        or forward_ad._current_level >= 0
        or torch.is_anomaly_enabled()
        or _saved_tensors_hooks(False) is not None
    )


def _are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether autograd would do no more than take the gradients for `.grad`, or add them to it."""
    for tensor in tensors:
        if not (
            tensor.is_leaf
            and type(tensor) in _PLAIN_TYPES
            and tensor.is_contiguous()  # as gradients are; .grad has its tensor's strides
            and not tensor._backward_hooks
            and not tensor._post_accumulate_grad_hooks
        ):
            return False
        gradient = tensor.grad
        if gradient is not None and gradient.layout is not torch.strided:
            return False
    return len({*map(id, tensors)}) == len(tensors)


def _accumulate(leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    sums, terms = [], []
    with modules_lock:  # another thread may have the same leaves
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if leaf.grad is None:
                leaf.grad = gradient
            else:
                sums.append(leaf.grad)
                terms.append(gradient)
        if sums:
            with torch.no_grad():
                torch._foreach_add_(sums, terms)

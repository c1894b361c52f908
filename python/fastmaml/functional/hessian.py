"""Hessian-vector products of the support loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .. import checks
from . import losses
from .arguments import Bound, NamePattern
from .autograd import Product, Undifferentiated, eager
from .calls import ProductCall
from .losses import LossLike
from .prepared import Prepared


@eager
def hvp(
    model: nn.Module,
    support_x: Tensor,
    support_y: Tensor,
    vector: Mapping[str, Tensor],
    *,
    parameters: Mapping[str, Tensor] | None = None,
    loss: LossLike = "cross_entropy",
    inner_parameters: NamePattern | None = None,
    weights: Tensor | None = None,
    support_size: Sequence[int] | Tensor | None = None,
    seed: int | None = None,
    backend: str = "auto",
) -> dict[str, Tensor]:
    """H u for each task, H the Hessian of the support loss by the inner parameters.

    Exact, by Pearlmutter's R operator (Pearlmutter 1994), without a graph. Differentiable in the
    vector alone, any number of times, in reverse mode; a gradient of anything else raises.

    Args:
        vector: u by name, one for each of the inner parameters: [*shape], or [T, *shape] where
            every task has its own.

    The other arguments and the errors are those of `adapt`.

    Returns:
        The products by name, [T, *shape].
    """
    of_loss = losses.resolve(loss)
    bound = Bound(model, "support_x", support_x, parameters, backend, of_loss, support_size)
    adapted = bound.adapted(inner_parameters)
    loop = bound.loop(of_loss, adapted, 0, 0.0, False)
    support = bound.samples("support", support_x, support_y, weights, support_size, loop.loss)
    inputs = bound.inputs(bound.no_rates(), support, None)
    vectors = _vectors(bound, adapted, vector)
    prepared = Prepared(loop, inputs, backend)
    call = ProductCall(prepared, prepared.seed(seed))
    tensors = [
        Undifferentiated.apply(key, tensor) if tensor.requires_grad else tensor
        for key, tensor in zip(call.keys, inputs.flat(), strict=True)
    ]
    return dict(zip(vectors, Product.apply(call, *tensors, *vectors.values()), strict=True))


def _vectors(
    bound: Bound, adapted: tuple[bool, ...], vector: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The vector of each adapted slot by name, [T, *shape]."""
    if not isinstance(vector, Mapping):
        raise TypeError(f"vector must map names to tensors, got {type(vector).__name__}")
    slots = [slot for slot, flag in zip(bound.program.slots, adapted, strict=True) if flag]
    names = {slot.name for slot in slots}
    if vector.keys() != names:
        raise ValueError(
            f"vector must name the inner parameters {sorted(names)}, got {list(vector)}"
        )
    vectors = {}
    for slot in slots:
        value = bound.cast(vector[slot.name])
        name, shape = f"vector[{slot.name!r}]", (bound.tasks, *slot.shape)
        checks.alike(name, value, bound.dtype, bound.device)
        if value.shape not in (slot.shape, shape):
            raise ValueError(
                f"{name} must be {list(slot.shape)} or {list(shape)}, "
                f"got shape {tuple(value.shape)}"
            )
        vectors[slot.name] = value.expand(shape)
    return vectors

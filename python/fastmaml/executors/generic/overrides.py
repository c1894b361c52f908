"""What some of torch's functions mean while the generic executor runs a module.

Dropout draws the mask that every executor draws, so that a pass replays; BatchNorm takes the
statistics of the batch itself. Others are written from primitives, since torch's own kernels
cannot be differentiated in every way that a gear differentiates them.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode

from ...nn import Sin
from ...program import has_hooks
from ..reference.dropout import drop_out
from ..reference.rules import Draw
from . import recurrent

_UNCONCERNED = frozenset(
    {
        nn.Sequential,
        nn.Linear,
        nn.Flatten,
        nn.Identity,
        nn.ReLU,
        nn.LeakyReLU,
        nn.ELU,
        nn.Tanh,
        nn.Sigmoid,
        nn.GELU,
        nn.SiLU,
        nn.Softplus,
        Sin,
    }
)
"""Modules whose forward calls nothing that means something else here."""

_BATCH_NORMS = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d})
"""Modules that take the statistics of the batch where they have no others."""


class Concern(NamedTuple):
    """Whether forward passes of a model may need `Overrides`, which slow them down."""

    functional: bool
    """Where torch.func differentiates them."""
    classic: bool
    """Where classic autograd does, and BatchNorms have no running statistics."""


def concern(model: nn.Module) -> Concern:
    """What is to be said of a model."""
    modules = list(model.modules())
    kinds = set(map(type, modules))
    is_changed = _has_any_global_hook() or any(
        "forward" in vars(module) or has_hooks(module) for module in modules
    )
    return Concern(
        functional=is_changed or not kinds <= _UNCONCERNED,
        classic=is_changed or not kinds <= _UNCONCERNED | _BATCH_NORMS,
    )


class Overrides(TorchFunctionMode):
    """A mode for one forward pass, or one evaluation of a loss.

    Args:
        draw: which masks dropout draws.
        running: the buffers of the model's BatchNorms, which are neither read nor written.
        is_classic: whether classic autograd differentiates, and torch.func nothing.
    """

    def __init__(
        self, draw: Draw, running: Collection[Tensor] = (), is_classic: bool = False
    ) -> None:
        super().__init__()
        self._is_classic = is_classic
        self._draw = draw
        self._running = {id(buffer) for buffer in running}
        self._streams = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        override = _OVERRIDES.get(func)
        if override is None:
            return func(*args, **(kwargs or {}))
        return override(self, *args, **(kwargs or {}))

    def dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        y = self._drop_out(input, p)
        return input.copy_(y) if inplace else y

    def dropout_of_channels(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """dropout1d and dropout2d: axes 0 and 1 are samples and channels."""
        if input.dim() < 3:  # one sample without its axis
            return F.dropout1d(input, p, training, inplace)
        if not training or p == 0:
            return input
        ones = torch.ones_like(input[(..., *[slice(1)] * (input.dim() - 2))])
        y = input * self._drop_out(ones, p)
        return input.copy_(y) if inplace else y

    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training and id(running_mean) not in self._running:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, 0.0, eps)
        if self._is_classic:  # twice differentiable there, and in fewer operations
            # a strided weight its backward pass would misread (tests/test_norm_faults.py)
            weight = None if weight is None else weight.contiguous()
            return F.batch_norm(input, None, None, weight, bias, True, 0.0, eps)
        F._verify_batch_size(input.shape)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        mean = input.mean(axes, keepdim=True)
        centred = input - mean
        variance = centred.square().mean(axes, keepdim=True)
        y = centred * torch.rsqrt(variance + eps)
        channels = [-1, *[1] * (input.dim() - 2)]
        if weight is not None:
            y = y * weight.reshape(channels)
        return y if bias is None else y + bias.reshape(channels)

    def instance_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Running statistics that are not read are not written either."""
        if use_input_stats:
            running_mean = running_var = None
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )

    def layer_norm(
        self,
        input: Tensor,
        normalized_shape: list[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """With a bias alone PyTorch's double backward fails: "Expected a proper Tensor"."""
        if weight is None and bias is not None:
            weight = torch.ones_like(bias)
        return F.layer_norm(input, normalized_shape, weight, bias, eps)

    def weight_norm(self, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
        """Salimans & Kingma 2016, equation 2. The second derivative of torch's kernel is wrong
        (tests/test_norm_faults.py)."""
        axes = [axis for axis in range(v.dim()) if dim == -1 or axis != dim % v.dim()]
        return v * (g / v.square().sum(axes, keepdim=True).sqrt())

    def normalize(
        self,
        input: Tensor,
        p: float = 2.0,
        dim: int = 1,
        eps: float = 1e-12,
        out: Tensor | None = None,
    ) -> Tensor:
        """With `out`, as spectral_norm has it, torch.func has no rule for PyTorch's own."""
        y = F.normalize(input, p, dim, eps)
        return y if out is None else out.copy_(y)

    def mse_loss(
        self,
        input: Tensor,
        target: Tensor,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> Tensor:
        """Forward over reverse differentiation of PyTorch's own: "ZeroTensors are immutable"."""
        if size_average is not None or reduce is not None or weight is not None:
            return F.mse_loss(input, target, size_average, reduce, reduction, weight)
        square = (input - target).square()
        return {"mean": torch.mean, "sum": torch.sum}.get(reduction, torch.clone)(square)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Vaswani et al. 2017, equation 1. The fused kernels have no second derivative."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = (query * scale) @ key.transpose(-2, -1)
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, -math.inf)
        if attn_mask is not None:
            if attn_mask.dtype is torch.bool:
                scores = scores.masked_fill(~attn_mask, -math.inf)
            else:
                scores = scores + attn_mask
        attention = scores.softmax(-1)
        if dropout_p > 0:
            attention = self._drop_out(attention, dropout_p)
        return attention @ value

    def multi_head_attention(self, *args: Any, **kwargs: Any) -> Any:
        """torch's own function, with this mode on for what it calls."""
        with self:
            return _MULTI_HEAD_ATTENTION(*args, **kwargs)

    def _drop_out(self, x: Tensor, p: float) -> Tensor:
        stream, self._streams = self._streams, self._streams + 1
        return drop_out(x, p, self._draw, stream)


_MULTI_HEAD_ATTENTION = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda operands: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
"""The same code without its first question, whether a mode wants to run in its place."""

_OVERRIDES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.dropout: Overrides.dropout,
    F.dropout1d: Overrides.dropout_of_channels,
    F.dropout2d: Overrides.dropout_of_channels,
    F.batch_norm: Overrides.batch_norm,
    F.instance_norm: Overrides.instance_norm,
    F.layer_norm: Overrides.layer_norm,
    F.normalize: Overrides.normalize,
    F.mse_loss: Overrides.mse_loss,
    torch._weight_norm: Overrides.weight_norm,
    F.scaled_dot_product_attention: Overrides.attention,
    F.multi_head_attention_forward: Overrides.multi_head_attention,
    **{own: recurrent.override(own) for own in recurrent.COMPOSED},
}

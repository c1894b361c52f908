"""Autograd Functions around the calls: what may be differentiated, and how often.

An executor computes values and gradients, so a result may be differentiated once. A gradient may
not be differentiated again, and that must not be left to chance: where autograd takes a gradient
for a constant, a penalty on it vanishes without a word. So gradients come from a Function too,
`Gradient`, which takes every tensor that they depend on, and whose own backward and jvp raise.
All Functions have the form that torch.func knows, with `setup_context`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from .calls import ProductCall, RunCall

transforms_are_active = torch._C._are_functorch_transforms_active
unwrap_if_dead = torch._C._functorch.unwrap_if_dead

P = ParamSpec("P")
R = TypeVar("R")


class DerivativeOrderError(RuntimeError):
    """A derivative was asked for that is not promised, and that no rule here would get right."""


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Break the graph of torch.compile around `function`.

    As a decorator, torch.compiler.disable would import the compiler for everybody.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper


def _signed(forward: Callable[P, R]) -> Callable[P, R]:
    """Function.apply asks for the signature of `forward` on every call: keep it."""
    forward.__signature__ = inspect.signature(forward)
    return forward


def _may_be_differentiated() -> bool:
    """Whether a derivative of what is computed now may follow."""
    return torch.is_grad_enabled() or transforms_are_active() or forward_ad._current_level >= 0


def alive(args: Sequence[Any]) -> list[Any]:
    """Arguments, with tensors out of the wrappers that an ended torch.func transform has left."""
    return [unwrap_if_dead(arg) if isinstance(arg, Tensor) else arg for arg in args]


def _refuse(what: str) -> NoReturn:
    raise DerivativeOrderError(
        f"fastmaml does not compute {what}: the results of adapt, meta_loss, sgd_step and predict "
        "can be differentiated once, in reverse mode; those of hvp any number of times, in "
        "reverse mode, by the vector alone"
    )


class _Function(Function):
    """What all Functions here say to vmap and to forward mode."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Function.apply, which binds the arguments to the signature of `forward`: that takes
        longer than all the rest, and only torch.func needs it."""
        if transforms_are_active():
            return super().apply(*args)
        return super(Function, cls).apply(*alive(args))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _refuse("forward-mode derivatives (jvp, jacfwd, dual tensors)")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> NoReturn:
        raise RuntimeError(
            "fastmaml does not run under vmap (nor jacrev): its functions are batched over tasks "
            "already; put what varies on the task axis T of the data and of the parameters"
        )


class Run(_Function):
    """The results of a call. `Run.apply(call, *tensors)`"""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """As of the others, but that the tensors are alive (`Bound.prepared`)."""
        if transforms_are_active():
            return super().apply(*args)
        return super(Function, cls).apply(*args)

    @staticmethod
    @_signed
    def forward(call: RunCall, *tensors: Tensor) -> tuple[Tensor, ...]:
        return call.run(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    @eager
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # raises where one was overwritten, whether it is read or not
        needed = ctx.needs_input_grad
        if all(cotangent is None for cotangent in cotangents):
            return (None,) * len(needed)
        keys = ctx.call.prepared.keys_where(needed[1:])
        known = None if _may_be_differentiated() else ctx.call.known_gradients(keys, cotangents)
        if known is None:
            known = Gradient.apply(ctx.call, keys, len(cotangents), *cotangents, *tensors)
        gradients = iter(known)
        return tuple([next(gradients) if need else None for need in needed])


class Gradient(_Function):
    """The gradients of a call's inputs.

    `Gradient.apply(call, keys, results, *cotangents, *tensors)`, a cotangent for each of the
    `results`, some None.
    """

    @staticmethod
    @_signed
    def forward(
        call: RunCall, keys: tuple[str, ...], results: int, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        return tuple(call.gradients(keys, tensors[:results], tensors[results:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept: no derivative follows."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> NoReturn:
        _refuse(
            "the derivative of a gradient of its results, which is a third derivative of the "
            "inner loss (a penalty on a meta-gradient asks for it)"
        )


class Product(_Function):
    """Hessian-vector products. `Product.apply(call, *tensors, *vectors)`

    The Hessian is symmetric, so the derivative by the vectors is one more product.
    """

    @staticmethod
    @_signed
    def forward(call: ProductCall, *tensors: Tensor) -> tuple[Tensor, ...]:
        return call.run(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors[: len(ctx.call.keys)])

    @staticmethod
    @eager
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        products = Product.apply(ctx.call, *ctx.saved_tensors, *cotangents)
        return (None, *[None] * len(ctx.call.keys), *products)


class Undifferentiated(_Function):
    """A tensor as it is, whose derivative raises.

    An input of `Product` that requires grad passes through here: autograd comes by if and only
    if a gradient of that input is asked for.
    """

    @staticmethod
    @_signed
    def forward(key: str, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.key, _ = inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> NoReturn:
        _refuse(
            f"the derivative of hvp by {ctx.key!r}, which requires grad (detach it, or ask "
            "torch.autograd.grad for the vector's gradient alone)"
        )

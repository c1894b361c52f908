"""Orders of derivative: what is promised works, and everything else raises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fastmaml import DerivativeOrderError
from fastmaml import functional as fm
from plain_loop import plain_loop
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

Parameters = dict[str, Tensor]
Scalar = Callable[[Parameters], Tensor]

REFUSED = pytest.raises(DerivativeOrderError, match="can be differentiated once")


@pytest.fixture
def parameters(model: nn.Module) -> Parameters:
    return {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}


@pytest.fixture(params=["loss", "task_loss", "prediction", "adapt", "predict", "sgd_step"])
def scalar(request, model, episode, backend) -> Scalar:
    """Every result, as a scalar function of the initial parameters."""
    sx, sy, qx, qy = episode
    lr = {"lr": 0.3, "backend": backend}

    def of(parameters: Parameters) -> Tensor:
        given = {"parameters": parameters, **lr}
        if request.param == "adapt":
            return sum(t.square().sum() for t in fm.adapt(model, sx, sy, steps=2, **given).values())
        if request.param == "sgd_step":
            return sum(t.square().sum() for t in fm.sgd_step(model, sx, sy, **given).values())
        if request.param == "predict":
            given = {"parameters": parameters, "backend": backend}
            return fm.predict(model, qx, **given).square().sum()
        out = fm.meta_loss(model, sx, sy, qx, qy, steps=2, **given)
        return getattr(out, request.param).square().sum()

    return of


def sum_of_squares(tensors: Parameters | tuple[Tensor, ...]) -> Tensor:
    values = tensors.values() if isinstance(tensors, dict) else tensors
    return sum(tensor.square().sum() for tensor in values)


# --- one derivative, in every way to ask for it ---------------------------------------------------


def test_first_derivatives_agree(scalar, parameters):
    names, leaves = list(parameters), list(parameters.values())
    expected = dict(zip(names, torch.autograd.grad(scalar(parameters), leaves), strict=True))
    with_graph = torch.autograd.grad(scalar(parameters), leaves, create_graph=True)
    assert_close(dict(zip(names, with_graph, strict=True)), expected)
    assert_close(grad(scalar)(parameters), expected)
    value, pullback = vjp(scalar, parameters)
    assert_close(pullback(torch.ones_like(value))[0], expected)


def test_torch_func_grad_of_meta_loss_is_that_of_the_plain_loop(
    model, episode, parameters, backend
):
    sx, sy, qx, qy = episode

    def loss(parameters: Parameters, lr: Tensor, qx: Tensor) -> Tensor:
        options = {"parameters": parameters, "lr": lr, "steps": 2, "backend": backend}
        return fm.meta_loss(model, sx, sy, qx, qy, **options).loss

    lr = torch.tensor(0.3, dtype=torch.float64)
    actual = grad(loss, argnums=(0, 1, 2))(parameters, lr, qx)
    lr, qx = lr.requires_grad_(), qx.requires_grad_()
    task_loss, _, _ = plain_loop(model, (sx, sy), (qx, qy), parameters=parameters, lr=lr, steps=2)
    found = torch.autograd.grad(task_loss.mean(), [*parameters.values(), lr, qx])
    assert_close([*actual[0].values(), *actual[1:]], list(found), rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_a_graph_over_the_gradient_may_be_made_as_long_as_nobody_uses_it(scalar, parameters):
    scalar(parameters).backward(create_graph=True)
    assert all(parameter.grad is not None for parameter in parameters.values())


# --- a second one raises --------------------------------------------------------------------------


def test_gradient_penalty_raises(scalar, parameters):
    leaves = list(parameters.values())
    gradients = torch.autograd.grad(scalar(parameters), leaves, create_graph=True)
    with REFUSED:
        sum_of_squares(gradients).backward()


def test_gradient_penalty_on_the_whole_training_loss_raises(model, episode, backend):
    leaves = list(model.parameters())
    loss = fm.meta_loss(model, *episode, lr=0.3, steps=2, backend=backend).loss
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    with REFUSED:
        (loss + 0.1 * sum_of_squares(gradients)).backward()


@pytest.mark.parametrize(
    "source", ["weight", "rate", "support_x", "query_x", "weights", "query_weights"]
)
def test_gradient_penalty_raises_by_every_input(model, episode, backend, source):
    sx, sy, qx, qy = episode
    inputs = {
        "weight": model[0].weight.detach().clone(),
        "rate": torch.tensor(0.3, dtype=torch.float64),
        "support_x": sx,
        "query_x": qx,
        "weights": torch.full((3, 5), 0.2, dtype=torch.float64),
        "query_weights": torch.full((3, 6), 0.2, dtype=torch.float64),
    }
    start = {name: parameter.detach() for name, parameter in model.named_parameters()}
    leaf = inputs[source].requires_grad_()
    loss = fm.meta_loss(
        model, inputs["support_x"], sy, inputs["query_x"], qy,
        parameters={**start, "0.weight": inputs["weight"]}, lr=inputs["rate"],
        weights=inputs["weights"], query_weights=inputs["query_weights"], backend=backend,
    ).loss  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    assert bool(gradient.any())
    with REFUSED:
        gradient.square().sum().backward()


def test_the_cotangent_has_no_second_derivative(scalar, parameters):
    value = scalar(parameters)
    cotangent = torch.ones_like(value, requires_grad=True)
    gradients = torch.autograd.grad(value, list(parameters.values()), cotangent, create_graph=True)
    with REFUSED:
        sum_of_squares(gradients).backward()


def test_grad_of_grad_of_grad_raises(scalar, parameters):
    def penalty(parameters: Parameters) -> Tensor:
        return sum_of_squares(grad(scalar)(parameters))

    def penalty_of_penalty(parameters: Parameters) -> Tensor:
        return sum_of_squares(grad(penalty)(parameters))

    with REFUSED:
        grad(penalty)(parameters)
    with REFUSED:
        grad(penalty_of_penalty)(parameters)


def test_a_penalty_mixed_from_torch_func_and_autograd_raises(scalar, parameters):
    with REFUSED:
        sum_of_squares(grad(scalar)(parameters)).backward()


def test_forward_mode_raises(scalar, parameters):
    tangents = {name: torch.ones_like(parameter) for name, parameter in parameters.items()}
    with REFUSED:
        jvp(scalar, (parameters,), (tangents,))
    with REFUSED:
        jvp(grad(scalar), (parameters,), (tangents,))

    def directional(parameters: Parameters) -> Parameters:
        return jvp(grad(scalar), (parameters,), (tangents,))[1]

    with REFUSED:
        jvp(directional, (parameters,), (tangents,))
    with REFUSED:
        grad(lambda p: jvp(scalar, (p,), (tangents,))[1])(parameters)
    with forward_ad.dual_level():
        duals = {n: forward_ad.make_dual(p.detach(), tangents[n]) for n, p in parameters.items()}
        with REFUSED:
            scalar(duals)


def test_forward_mode_over_a_cotangent_raises(scalar, parameters):
    value = scalar(parameters)
    with forward_ad.dual_level():
        cotangent = forward_ad.make_dual(torch.ones_like(value), torch.ones_like(value))
        with REFUSED:
            torch.autograd.grad(value, list(parameters.values()), cotangent)


# --- vmap -----------------------------------------------------------------------------------------


def test_vmap_raises_with_advice(model, episode, backend):
    refused = pytest.raises(RuntimeError, match="batched over tasks already")
    stacked = [torch.stack([tensor, tensor]) for tensor in episode]

    def loss(*episode: Tensor) -> Tensor:
        return fm.meta_loss(model, *episode, lr=0.3, backend=backend).loss

    with refused:
        vmap(loss)(*stacked)
    with refused:
        vmap(grad(loss, argnums=0))(*stacked)
    with refused:
        vmap(lambda sx, sy: fm.adapt(model, sx, sy, lr=0.3, backend=backend))(*stacked[:2])
    with refused:
        vmap(lambda qx: fm.predict(model, qx, backend=backend))(stacked[2])
    with refused:
        vmap(lambda lr: fm.meta_loss(model, *episode, lr=lr, backend=backend).loss)(
            torch.ones(2, dtype=torch.float64)
        )


def test_jacobians_raise(model, episode, backend):
    def task_loss(qx: Tensor) -> Tensor:
        sx, sy, _, qy = episode
        return fm.meta_loss(model, sx, sy, qx, qy, lr=0.3, backend=backend).task_loss

    query_x = episode[2]
    for jacobian in (jacrev, jacfwd, hessian):
        with pytest.raises(RuntimeError, match="fastmaml does not"):
            jacobian(task_loss)(query_x)
    # comes past torch.func, so that no rule of ours sees it
    with pytest.raises(RuntimeError, match=r"vmap|Cannot access data pointer|Batching rule"):
        torch.autograd.functional.jacobian(task_loss, query_x, vectorize=True)
    looped = torch.autograd.functional.jacobian(task_loss, query_x)
    assert looped.shape == (3, 3, 6, 4)


# --- hvp: any number of derivatives by its vector, none by anything else --------------------------


@pytest.fixture
def product(model, episode, backend) -> Callable[..., Tensor]:
    """H u as a function of u, and of what u is multiplied with."""

    def of(vector: Parameters, parameters: Parameters, sx: Tensor = episode[0]) -> Tensor:
        sy = episode[1]
        products = fm.hvp(model, sx, sy, vector, parameters=parameters, backend=backend)
        return sum(((index + 1) * t).sum() for index, t in enumerate(products.values()))

    return of


def test_hvp_is_linear_in_its_vector(product, parameters):
    vector = {name: torch.randn_like(p).requires_grad_() for name, p in parameters.items()}
    detached = {name: p.detach() for name, p in parameters.items()}
    leaves = list(vector.values())
    first = torch.autograd.grad(product(vector, detached), leaves, create_graph=True)
    assert_close(grad(product)(vector, detached), dict(zip(vector, first, strict=True)))
    inner = sum((a * b.detach()).sum() for a, b in zip(first, leaves, strict=True))
    assert_close(inner, product(vector, detached))
    weights = [torch.ones_like(g, requires_grad=True) for g in first]
    twice = sum((g * w).sum() for g, w in zip(first, weights, strict=True))
    assert_close(torch.autograd.grad(twice, weights), first)


@pytest.mark.parametrize("by", ["parameters", "support_x"])
def test_hvp_has_no_other_derivative(product, parameters, episode, by):
    vector = {name: torch.randn_like(p).requires_grad_() for name, p in parameters.items()}
    sx = episode[0].requires_grad_(by == "support_x")
    start = {n: p.requires_grad_(by == "parameters") for n, p in parameters.items()}
    refused = pytest.raises(DerivativeOrderError, match=r"derivative of hvp by '(param|support_x)")
    with refused:
        product(vector, start, sx).backward()
    with refused:
        grad(lambda p, x: product(vector, p, x), argnums=0 if by == "parameters" else 1)(start, sx)
    with refused:  # a gradient by the vector, then one by what the Hessian is made of
        first = torch.autograd.grad(
            product(vector, start, sx), list(vector.values()), create_graph=True
        )
        sum_of_squares(first).backward()
    first = torch.autograd.grad(product(vector, start, sx), list(vector.values()))
    assert all(bool(gradient.any()) for gradient in first)


def test_hvp_of_a_vector_that_depends_on_the_parameters(product, parameters):
    """The gradient by the vector flows on; that by the Hessian must not be lost in silence."""

    def curvature(parameters: Parameters) -> Tensor:
        return product({n: 2 * p for n, p in parameters.items()}, parameters)

    with pytest.raises(DerivativeOrderError, match="derivative of hvp by"):
        grad(curvature)(parameters)
    with pytest.raises(DerivativeOrderError, match="derivative of hvp by"):
        curvature(parameters).backward()


def test_hvp_refuses_forward_mode_and_vmap(product, parameters):
    vector = {name: torch.randn_like(p) for name, p in parameters.items()}
    detached = {name: p.detach() for name, p in parameters.items()}
    with REFUSED:
        jvp(lambda v: product(v, detached), (vector,), (vector,))
    stacked = {name: torch.stack([v, v]) for name, v in vector.items()}
    with pytest.raises(RuntimeError, match="batched over tasks already"):
        vmap(lambda v: product(v, detached))(stacked)

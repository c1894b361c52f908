"""The functional API under gradcheck, by every input that can be differentiated, and hvp."""

from __future__ import annotations

import pytest
import torch
from fastmaml import functional as fm
from small_problems import EXACT, double
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.testing import assert_close


@pytest.mark.parametrize("options", [{"steps": 2}, {"steps": 2, "momentum": 0.7}], ids=str)
@pytest.mark.parametrize("per_task", [False, True])
def test_gradcheck_of_meta_loss(backend, options, per_task):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.LayerNorm(2), nn.Linear(2, 2)).double()
    names = [name for name, _ in model.named_parameters()]
    shapes = [((2,) if per_task else ()) + p.shape for p in model.parameters()]
    tensors = [
        double(2, 3, 3),
        double(2, 3, 2, seed=3),
        double(2, 2, 3, seed=4),
        double(2, 2, 2, seed=5),
        double(2, 3, seed=6).abs(),
        double(2, 2, seed=7).abs(),
        torch.tensor(0.2, dtype=torch.float64),
        *(0.5 * double(*shape, seed=8 + index) for index, shape in enumerate(shapes)),
    ]

    def outputs(sx, sy, qx, qy, weights, query_weights, lr, *parameters):
        return fm.meta_loss(
            model, sx, sy, qx, qy, parameters=dict(zip(names, parameters, strict=True)), lr=lr,
            loss="mse", weights=weights, query_weights=query_weights,
            inner_parameters=["0.*", "3.weight"], backend=backend, **options,
        )  # fmt: skip

    fast_mode = backend == "reference"
    assert gradcheck(outputs, [t.requires_grad_() for t in tensors], fast_mode=fast_mode)


@pytest.mark.parametrize(
    "shapes",
    [
        {"0.weight": (), "0.bias": ()},
        {"0.weight": (2, 1, 1), "0.bias": (2, 1)},
        {"0.weight": (2, 3), "0.bias": (2,)},
        {"0.weight": (3, 2, 3), "0.bias": (1, 2)},
    ],
    ids=["tensor", "step", "element", "element and step"],
)
def test_gradcheck_by_rates(backend, shapes):
    model = nn.Sequential(nn.Linear(3, 2)).double()
    sx, sy, qx, qy = double(2, 4, 3), double(2, 4, 2), double(2, 3, 3), double(2, 3, 2)
    rates = [double(*shape, seed=9).requires_grad_() for shape in shapes.values()]

    def task_loss(*rates):
        lr = dict(zip(shapes, rates, strict=True))
        return fm.meta_loss(
            model, sx, sy, qx, qy, lr=lr, steps=3, loss="mse", backend=backend
        ).task_loss

    assert gradcheck(task_loss, rates, fast_mode=True)


def test_gradcheck_of_adapt_predict_and_sgd_step(backend):
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    names = [name for name, _ in model.named_parameters()]
    parameters = [double(*p.shape).requires_grad_() for p in model.parameters()]
    x, y, more_x = (double(2, 3, size, seed=size).requires_grad_() for size in (3, 2, 3))

    def results(x, y, more_x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        common = {"lr": 0.2, "loss": "mse", "backend": backend}
        adapted = fm.adapt(model, x, y, parameters=given, steps=2, **common)
        stepped = fm.sgd_step(model, x, y, parameters=adapted, **common)
        prediction = fm.predict(model, more_x, parameters=stepped, backend=backend)
        return prediction, *adapted.values()

    assert gradcheck(results, [x, y, more_x, *parameters], fast_mode=True)


def test_hvp(model, episode, backend):
    sx, sy, _, _ = episode
    inner = ["0.weight", "3.weight", "5.bias"]
    vectors = {name: double(*model.get_parameter(name).shape) for name in inner}
    products = fm.hvp(model, sx, sy, vectors, inner_parameters=inner, backend=backend)
    for task in range(3):
        loss = F.cross_entropy(model(sx[task]), sy[task])
        leaves = [model.get_parameter(name) for name in inner]
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        scalar = sum((g * vectors[name]).sum() for g, name in zip(first, inner, strict=True))
        expected = torch.autograd.grad(scalar, leaves)
        actual = [products[name][task] for name in inner]
        assert_close(actual, list(expected), **EXACT)
    assert list(products) == inner


def test_gradcheck_of_hvp_by_its_vector(backend):
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    detached = {name: parameter.detach() for name, parameter in model.named_parameters()}
    x, y = double(2, 3, 3), torch.tensor([[0, 1, 1], [1, 0, 0]])

    def products(*vectors):
        vector = dict(zip(detached, vectors, strict=True))
        return tuple(fm.hvp(model, x, y, vector, parameters=detached, backend=backend).values())

    vectors = [
        double(2, *parameter.shape, seed=3).requires_grad_() for parameter in detached.values()
    ]
    assert gradcheck(products, vectors, fast_mode=True)
    assert gradgradcheck(products, vectors, fast_mode=True)

"""The generic executor on tensors of any layout in memory."""

from __future__ import annotations

import pytest
import torch
from fastmaml import functional
from small_problems import EXACT, double
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore::fastmaml.GenericNote")


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 4)).double()


def test_strided_cotangents(net: nn.Module):
    def gradients(backend: str) -> tuple[Tensor, ...]:
        adapted = functional.adapt(
            net, double(3, 5, 3), double(3, 5, 4, seed=3), lr=0.1, loss="mse", backend=backend
        )
        scalar = (adapted["0.weight"].mT * double(3, 3, 2, seed=4)).sum()
        return torch.autograd.grad(scalar, list(net.parameters()), materialize_grads=True)

    torch.testing.assert_close(gradients("generic"), gradients("reference"), **EXACT)


@pytest.mark.parametrize("per_task", [False, True])
def test_strided_vectors_of_tasks_in_several_chunks(net: nn.Module, per_task: bool):
    """Tasks with other numbers of samples are in a chunk of their own."""
    shape = (4,) if per_task else ()
    vectors = {
        name: double(*shape, *reversed(parameter.shape)).mT
        if parameter.dim() == 2
        else double(*shape, *parameter.shape)
        for name, parameter in net.named_parameters()
    }
    samples = double(4, 5, 3), double(4, 5, 4, seed=3)

    def products(backend: str) -> dict[str, Tensor]:
        return functional.hvp(
            net, *samples, vectors, loss="mse", support_size=[5, 5, 4, 4], backend=backend
        )

    torch.testing.assert_close(products("generic"), products("reference"), **EXACT)


def test_strided_parameters_run_in_the_first_gear(net: nn.Module):
    """Views of one flat tensor, and transposed ones."""
    flat = double(100)
    given = {
        "0.weight": flat[7:13].view(3, 2).T, "0.bias": flat[1:3], "2.weight": flat[20:28].view(4, 2)
    }  # fmt: skip
    x, y = double(3, 5, 3), double(3, 5, 4, seed=3)
    options = {"lr": 0.1, "steps": 2, "loss": "mse", "parameters": given}
    losses = {
        backend: functional.meta_loss(net, x, y, x, y, backend=backend, **options).task_loss
        for backend in ("generic", "reference")
    }
    torch.testing.assert_close(losses["generic"], losses["reference"], **EXACT)
    found = torch.autograd.grad(losses["generic"].sum(), net[2].bias)
    exact = torch.autograd.grad(losses["reference"].sum(), net[2].bias)
    torch.testing.assert_close(found, exact, **EXACT)
    plan = functional.plan(net, x, x, backend="generic", **options)
    assert "in vmap(jvp(grad))" in str(plan)

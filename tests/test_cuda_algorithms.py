"""The public interface on a CUDA device: ops and losses, algorithms, dropout, gradcheck, hvp."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import fastmaml as fm
import pytest
import torch
from device import DEVICE, back, needs_device, there
from fastmaml import functional
from fastmaml.program import (
    LOSS_KINDS,
    OP_KINDS,
    Cotangents,
    InnerLoop,
    Inputs,
    Loss,
    Samples,
    traced,
)
from oracle import largest, oracle
from plain_loop import plain_loop
from small_problems import EXACT, Net, double
from torch import Tensor, nn
from torch.autograd import gradcheck

pytestmark = [
    needs_device,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
]

T, N, M, CLASSES = 3, 4, 5, 3


class Residual(nn.Module):
    """add and scale."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * torch.tanh(x)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 4, bias=False),
    "batch_norm": lambda: nn.BatchNorm1d(4),
    "layer_norm": lambda: nn.LayerNorm(4),
    "rms_norm": lambda: nn.RMSNorm(4),
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": lambda: nn.ELU(0.7),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "softplus": lambda: nn.Softplus(2.0, 1.0),
    "sin": lambda: fm.nn.Sin(3.0),
    "dropout": lambda: nn.Dropout(0.4),
    "reshape": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 2), nn.Flatten()),
    "add and scale": Residual,
}


def small_model(layer: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), LAYERS[layer](), nn.Linear(4, CLASSES)).double()


def test_every_op_has_a_layer():
    programs = [traced(small_model(layer), (4,)) for layer in LAYERS]
    assert {op.kind for program in programs for op in program.ops} == OP_KINDS.keys()


def targets(loss: Loss, count: int, probabilities: bool = False) -> Tensor:
    y = double(T, count, CLASSES, seed=count)
    if loss.kind == "cross_entropy":
        return y.softmax(-1) if probabilities else y.argmax(-1)
    return y.sigmoid()


def assert_meta_gradients_are_exact(
    model: nn.Module, loss: Loss, data: list[Tensor], backend: str
) -> None:
    """Of two steps with momentum, by all parameters and data, with a loss after every step."""
    program = traced(model, (4,))
    parameters = dict(model.named_parameters())
    slots = [parameters[slot.name].detach() for slot in program.slots]
    weights = (0.5, 0.0, 1.0)
    loop = InnerLoop(program, loss, (True,) * len(slots), 2, 0.5, weights)
    rates = (torch.full((1,), 0.1, dtype=torch.float64),) * len(slots)
    inputs = Inputs(tuple(slots), rates, Samples(*data[:2]), Samples(*data[2:]), 5)
    wanted = {key for key, t in inputs.tensors(program) if t.is_floating_point()}
    wanted = {key for key in wanted if not key.startswith("rate:")}
    share = torch.full((T,), 1 / T, dtype=torch.float64)
    exact = oracle(loop, inputs, Cotangents(share), wanted, adapted=False)

    model, data = deepcopy(model).to(DEVICE), list(there(tuple(data)))
    leaves = {f"parameter:{name}": p for name, p in model.named_parameters()}
    for key, tensor in zip(("support_x", "support_y", "query_x", "query_y"), data, strict=True):
        if tensor.is_floating_point():
            leaves[key] = tensor.requires_grad_()
    out = functional.meta_loss(
        model, *data, lr=0.1, steps=2, loss=loss, momentum=0.5, step_weights=weights, seed=5,
        backend=backend,
    )  # fmt: skip
    found = dict(zip(leaves, torch.autograd.grad(out.loss, list(leaves.values())), strict=True))
    torch.testing.assert_close(back(out.task_loss.detach()), exact.task_loss, **EXACT)
    torch.testing.assert_close(back(out.prediction.detach()), exact.prediction, **EXACT)
    scale = max(map(largest, exact.gradients.values()))
    assert found.keys() == exact.gradients.keys()
    for key, gradient in exact.gradients.items():
        assert largest(back(found[key]) - gradient) <= 1e-9 * scale, key


@pytest.mark.parametrize("layer", LAYERS)
def test_ops(device_backend: str, layer: str):
    loss = Loss("mse")
    data = [double(T, N, 4), targets(loss, N), double(T, M, 4, seed=3), targets(loss, M)]
    assert_meta_gradients_are_exact(small_model(layer), loss, data, device_backend)


@pytest.mark.parametrize("loss", [*map(Loss, LOSS_KINDS), Loss("cross_entropy", 0.2)], ids=str)
@pytest.mark.parametrize("probabilities", [False, True])
def test_losses(device_backend: str, loss: Loss, probabilities: bool):
    if probabilities and loss.kind != "cross_entropy":
        pytest.skip("it has one kind of targets")
    y, more_y = (targets(loss, count, probabilities) for count in (N, M))
    data = [double(T, N, 4), y, double(T, M, 4, seed=3), more_y]
    assert_meta_gradients_are_exact(small_model("tanh"), loss, data, device_backend)


# --- algorithms -----------------------------------------------------------------------------------

ALGORITHMS: dict[str, Callable[..., nn.Module]] = {
    "MAML": lambda net, **options: fm.MAML(net, 0.1, 2, **options),
    "FOMAML": lambda net, **options: fm.MAML(net, 0.1, 2, first_order=True, **options),
    "ANIL": lambda net, **options: fm.ANIL(net, lr=0.1, steps=2, **options),
    "MetaSGD": lambda net, **options: fm.MetaSGD(net, 0.1, 2, **options),
    "MetaSGD by step": lambda net, **options: fm.MetaSGD(net, 0.1, 2, "tensor_step", **options),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(device_backend: str, net: Net, episode: tuple[Tensor, ...], name: str):
    on_host = ALGORITHMS[name](deepcopy(net), backend="reference")
    learner = ALGORITHMS[name](deepcopy(net), backend=device_backend).to(DEVICE)
    exact, out = on_host(*episode), learner(*there(episode))
    torch.testing.assert_close(back(out.task_loss), exact.task_loss, **EXACT)
    exact.loss.backward()
    out.loss.backward()
    for mine, theirs in zip(learner.parameters(), on_host.parameters(), strict=True):
        torch.testing.assert_close(back(mine.grad), theirs.grad, **EXACT)
    adapted = learner.adapt(*there(episode[:2]), steps=3)
    expected = on_host.adapt(*episode[:2], steps=3)
    prediction = adapted(there(episode[2]))
    torch.testing.assert_close(back(prediction), expected(episode[2]), **EXACT)
    prediction.square().mean().backward()


def test_maml_is_the_plain_loop(device_backend: str, net: Net, episode: tuple[Tensor, ...]):
    task_loss, prediction, _ = plain_loop(net, episode[:2], episode[2:], lr=0.1, steps=3)
    expected = torch.autograd.grad(task_loss.mean(), list(net.parameters()))
    there_net = deepcopy(net).to(DEVICE)
    out = fm.MAML(there_net, 0.1, 3, backend=device_backend)(*there(episode))
    found = torch.autograd.grad(out.loss, list(there_net.parameters()))
    torch.testing.assert_close(back(out.prediction), prediction, **EXACT)
    torch.testing.assert_close(back(found), expected, **EXACT)


def test_dropout_draws_the_masks_of_the_host(device_backend: str, episode: tuple[Tensor, ...]):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 16), nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3)
    ).double()
    there_net = deepcopy(net).to(DEVICE)
    for seed in (0, 2**32 - 1):
        options = {"lr": 0.1, "steps": 2, "seed": seed}
        exact = functional.meta_loss(net, *episode, backend="reference", **options)
        out = functional.meta_loss(there_net, *there(episode), backend=device_backend, **options)
        torch.testing.assert_close(back(out.prediction), exact.prediction, **EXACT)
    # without a seed it comes from the host's generator, on any device
    predictions = []
    for model, data, backend in (
        (net, episode, "reference"),
        (there_net, there(episode), device_backend),
    ):
        torch.manual_seed(3)
        maml = fm.MAML(model, 0.1, 2, backend=backend)
        predictions.append(back(maml(*data).prediction.detach()))
    torch.testing.assert_close(*predictions, **EXACT)


def test_gradcheck(device_backend: str):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double().to(DEVICE)
    names = [name for name, _ in model.named_parameters()]
    sx, sy, qx, qy = double(2, 3, 3), double(2, 3, 2), double(2, 2, 3), double(2, 2, 2)
    weights, lr = double(2, 3, seed=6).abs(), torch.tensor(0.2, dtype=torch.float64)
    data = there((sx, sy, qx, qy, weights, lr))
    parameters = there(tuple(double(*p.shape, seed=i) for i, p in enumerate(model.parameters())))

    def outputs(sx, sy, qx, qy, weights, lr, *parameters):
        given = {"parameters": dict(zip(names, parameters, strict=True)), "loss": "mse"}
        options = given | {"lr": lr, "steps": 2, "weights": weights, "backend": device_backend}
        out = functional.meta_loss(model, sx, sy, qx, qy, momentum=0.7, **options)
        return *out, *functional.adapt(model, sx, sy, **options).values()

    leaves = [tensor.clone().requires_grad_() for tensor in (*data, *parameters)]
    assert gradcheck(outputs, leaves, fast_mode=True, nondet_tol=1e-12)


def test_hvp(device_backend: str, model: nn.Module, episode: tuple[Tensor, ...]):
    sx, sy, *_ = episode
    vectors = {name: double(*p.shape, seed=9) for name, p in model.named_parameters()}
    exact = functional.hvp(model, sx, sy, vectors, backend="reference")
    there_model = deepcopy(model).to(DEVICE)
    products = functional.hvp(there_model, *there((sx, sy)), there(vectors), backend=device_backend)
    torch.testing.assert_close(back(products), exact, **EXACT)

"""The generic executor on a CUDA device: modules of many kinds, gears, random draws, what is left
alone."""

from __future__ import annotations

from copy import deepcopy

import fastmaml as fm
import pytest
import torch
from device import DEVICE, back, needs_cuda, needs_device, there
from fastmaml import functional
from fastmaml.executors import generic
from fastmaml.executors.generic import trial
from small_problems import EXACT, double
from test_generic import CASES, TIMED, plain_gradients
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

pytestmark = [
    needs_device,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
    pytest.mark.filterwarnings("error::fastmaml.DerivativeWarning"),
]

NAMES = (
    "GRU", "LSTM", "attention", "attention in evaluation", "transformer", "weight_norm",
    "BatchNorm1d", "BatchNorm2d", "InstanceNorm", "soft decision tree", "an old Function",
    "a new Function without jvp", "tied weights", "control flow", "a dict", "convolutions",
    "embedding",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_meta_gradients_are_those_of_a_recorded_loop(name: str):
    case = CASES[name]
    model, data = case.make()
    leaves = list(model.parameters())
    options = {"lr": 0.1, "steps": 2, "loss": case.loss}
    task_loss, _, exact = plain_gradients(model, data, leaves, None, **options)
    there_model, there_data = deepcopy(model).to(DEVICE), there(tuple(data))
    buffers = {name: buffer.clone() for name, buffer in there_model.named_buffers()}
    out = functional.meta_loss(there_model, *there_data, backend="generic", **options)
    there_leaves = list(there_model.parameters())
    found = torch.autograd.grad(out.loss, there_leaves, materialize_grads=True, allow_unused=True)
    torch.testing.assert_close(back(out.task_loss), task_loss, rtol=1e-9, atol=1e-12)
    scale = max(float(gradient.abs().max()) for gradient in exact)
    torch.testing.assert_close(back(found), exact, rtol=1e-9, atol=1e-10 * scale)
    for name, buffer in there_model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


@pytest.mark.parametrize("name", ["GRU", "attention", "BatchNorm1d"])
def test_tasks_run_side_by_side(name: str):
    case = CASES[name]
    model, data = case.make()
    maml = fm.MAML(model.to(DEVICE), 0.1, 2, loss=case.loss, backend="generic")
    data = there(tuple(data))
    maml(*data).loss.backward()
    assert f"in {generic.GEARS[0].name}" in str(maml.plan(data[0], data[2])).split("\n")[0]


@pytest.mark.parametrize("gear", generic.GEARS, ids=lambda gear: gear.name)
def test_every_gear_is_right(monkeypatch, gear: generic.gears.Gear):
    monkeypatch.setattr(
        trial, "seconds_a_task", lambda gears, *_: {g: float(g is not gear) for g in gears}
    )
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Softmax(-1), nn.Dropout(0.3), nn.BatchNorm1d(4), nn.Linear(4, 2)
    ).double()
    data = double(3, 4, 3), double(3, 4, 2, seed=3), double(3, 5, 3, seed=4), double(3, 5, 2)
    gradients = []
    for where in (torch.device("cpu"), DEVICE):
        copy = deepcopy(model).to(where)
        maml = fm.MAML(copy, 0.1, 2, F.mse_loss, momentum=0.5, backend="generic")
        samples = [tensor.to(where) for tensor in data]
        maml(*samples, seed=3).loss.backward()
        assert f"in {gear.name}" in str(maml.plan(samples[0], samples[2])).split("\n")[0]
        gradients.append(back(tuple(parameter.grad for parameter in copy.parameters())))
    torch.testing.assert_close(*gradients, **EXACT)


def test_the_trial_by_the_clock(monkeypatch):
    monkeypatch.setattr(trial, "seconds_a_task", TIMED)
    model, data = CASES["tied weights"].make()
    options = {"lr": 0.1, "steps": 1, "loss": F.mse_loss}
    exact = plain_gradients(model, data, list(model.parameters()), None, **options)[2]
    maml = fm.MAML(model.to(DEVICE), **options, backend="generic")
    found = torch.autograd.grad(maml(*there(tuple(data))).loss, list(model.parameters()))
    torch.testing.assert_close(back(found), exact, **EXACT)


# --- random draws ---------------------------------------------------------------------------------


class Noisy(nn.Module):
    """It draws from the generator of its device, and of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + 0.1 * torch.randn_like(h)
        return self.second(torch.tanh(h) * (1 + 0.1 * torch.randn(4, dtype=h.dtype).to(h)))


def generator_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states + torch.cuda.get_rng_state_all() if torch.cuda.is_available() else states


def test_random_draws_replay_and_leave_the_generators_alone():
    torch.manual_seed(0)
    model = Noisy().double().to(DEVICE)
    x, y = there((double(2, 4, 3), double(2, 4, 2, seed=3)))
    before = generator_states()

    def loss(seed: int, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        given = dict(zip(names, parameters, strict=True))
        options = {"lr": 0.1, "steps": 2, "loss": "mse", "backend": "generic"}
        return functional.meta_loss(model, x, y, x, y, parameters=given, seed=seed, **options).loss

    parameters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert loss(1, *parameters) == loss(1, *parameters)
    assert loss(1, *parameters) != loss(2, *parameters)
    assert gradcheck(
        lambda *parameters: loss(1, *parameters), parameters, fast_mode=True, nondet_tol=1e-12
    )
    assert all(map(torch.equal, generator_states(), before))


@needs_cuda
def test_calls_on_the_host_leave_the_device_alone():
    model, (x, y) = Noisy().double(), (double(2, 4, 3), double(2, 4, 2, seed=3))
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    fm.MAML(model, 0.1, 1, "mse", backend="generic")(x, y, x, y, seed=1).loss.backward()
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_cudnn_is_left_as_it_was():
    """Recurrent layers run without it: it has no second derivative."""
    assert torch.backends.cudnn.enabled
    model, data = CASES["GRU"].make()
    model = model.to(DEVICE)
    weights = [(weight, weight.data_ptr()) for weight in model.layer._flat_weights]
    fm.MAML(model, 0.1, 1, F.mse_loss, backend="generic")(*there(tuple(data))).loss.backward()
    assert torch.backends.cudnn.enabled
    for weight, (own, pointer) in zip(model.layer._flat_weights, weights, strict=True):
        assert weight is own
        assert weight.data_ptr() == pointer

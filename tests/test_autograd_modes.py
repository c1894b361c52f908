"""How often an executor runs, and the modes of torch around a call."""

from __future__ import annotations

import warnings

import pytest
import torch
from fastmaml import functional as fm
from fastmaml.functional.arguments import warn_of_autocast
from fastmaml.functional.calls import LossCall
from fastmaml.functional.prepared import Prepared
from torch import Tensor, nn
from torch.testing import assert_close


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every run of an executor, whether it computed gradients."""
    seen: list[bool] = []
    run = Prepared.run

    def seen_run(self, tensors, seed, **options):
        seen.append(options.get("cotangents") is not None)
        return run(self, tensors, seed, **options)

    monkeypatch.setattr(Prepared, "run", seen_run)
    return seen


def parameters_of(model: nn.Module) -> list[Tensor]:
    return list(model.parameters())


# --- how often an executor runs -------------------------------------------------------------------


def test_value_and_gradient_of_the_loss_are_one_run(model, episode, backend, runs):
    (3 * fm.meta_loss(model, *episode, lr=0.1, backend=backend).loss).backward()
    assert runs == [True]


@pytest.mark.parametrize("part", ["task_loss", "prediction"])
def test_other_cotangents_are_one_more_run(model, episode, backend, runs, part):
    out = fm.meta_loss(model, *episode, lr=0.1, backend=backend)
    getattr(out, part).sum().backward()
    assert runs == [True, True]


def test_no_gradient_is_computed_that_nobody_can_ask_for(model, episode, backend, runs):
    with torch.no_grad():
        fm.meta_loss(model, *episode, lr=0.1, backend=backend)
    frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}
    fm.meta_loss(model, *episode, parameters=frozen, lr=0.1, backend=backend)
    assert runs == [False, False]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cotangents_add_up(model, episode, backend, reduction):
    def out():
        return fm.meta_loss(model, *episode, lr=0.3, steps=2, reduction=reduction, backend=backend)

    share = 1 / 3 if reduction == "mean" else 1.0
    one, other, third = out(), out(), out()
    leaves = parameters_of(model)
    by_loss = torch.autograd.grad(3 * one.loss, leaves)
    by_task_loss = torch.autograd.grad((3 * share * other.task_loss).sum(), leaves)
    by_both = torch.autograd.grad(third.loss + (2 * share * third.task_loss).sum(), leaves)
    assert_close(by_loss, by_task_loss)
    assert_close(by_loss, by_both)


# --- the graph ------------------------------------------------------------------------------------


def test_a_graph_serves_once_unless_it_is_retained(model, episode, backend):
    leaves = parameters_of(model)
    loss = fm.meta_loss(model, *episode, lr=0.3, backend=backend).loss
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for gradient in first:
        gradient.mul_(0.0)  # belongs to the caller
    second = torch.autograd.grad(loss, leaves)
    assert all(bool(gradient.any()) for gradient in second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


def test_every_gradient_becomes_grad_without_a_copy(backend, monkeypatch):
    made: list[int] = []
    known_gradients = LossCall.known_gradients

    def seen(self, *args):
        known = known_gradients(self, *args)
        made.extend(gradient.data_ptr() for gradient in known)
        return known

    monkeypatch.setattr(LossCall, "known_gradients", seen)
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))  # a bias is one number
    x = torch.randn(3, 5, 1)
    fm.meta_loss(net, x, x, x, x, lr=0.1, loss="mse", backend=backend).loss.backward()
    assert [parameter.grad.data_ptr() for parameter in net.parameters()] == made


def test_parameters_overwritten_before_backward_raise(model, episode, backend):
    loss = fm.meta_loss(model, *episode, lr=0.3, backend=backend).loss
    with torch.no_grad():
        model[0].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(model, episode, backend, mode):
    expected = fm.meta_loss(model, *episode, lr=0.37, steps=2, backend=backend)
    with mode():
        out = fm.meta_loss(model, *episode, lr=0.37, steps=2, backend=backend)
        adapted = fm.adapt(model, *episode[:2], lr=0.37, steps=2, backend=backend)
        prediction = fm.predict(model, episode[2], parameters=adapted, backend=backend)
    assert not any(tensor.requires_grad for tensor in (*out, prediction, *adapted.values()))
    assert torch.equal(out.task_loss, expected.task_loss)
    assert torch.equal(prediction, expected.prediction)
    fm.meta_loss(model, *episode, lr=0.37, steps=2, backend=backend).loss.backward()


@pytest.mark.parametrize("rate", [0.23, 0.29], ids=str)
def test_a_rate_first_seen_in_inference_mode_serves_later(model, episode, backend, rate):
    with torch.inference_mode():
        fm.meta_loss(model, *episode, lr=rate, backend=backend)
    fm.meta_loss(model, *episode, lr=rate, backend=backend).loss.backward()
    assert model[0].weight.grad is not None


def test_autocast_runs_in_float32(model, episode, backend):
    model = model.float()
    sx, sy, qx, qy = (t.float() if t.is_floating_point() else t for t in episode)
    half = sx.bfloat16().requires_grad_()
    expected = fm.meta_loss(model, half.float(), sy, qx, qy, lr=0.3, backend=backend)
    expected.task_loss.sum().backward()
    reference_grad, half.grad = half.grad, None
    weight_grad, model[0].weight.grad = model[0].weight.grad, None
    warn_of_autocast.cache_clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.warns(UserWarning, match="float32 under autocast"):
            out = fm.meta_loss(model, half, sy, qx, qy, lr=0.3, backend=backend)
        out.task_loss.sum().backward()  # reruns the executor, under autocast
    assert out.prediction.dtype is torch.float32
    assert torch.equal(out.task_loss, expected.task_loss)
    assert torch.equal(half.grad, reference_grad)
    assert torch.equal(model[0].weight.grad, weight_grad)


@pytest.mark.filterwarnings("ignore:fastmaml runs its inner loop in float32")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_half_precision_everywhere(model, episode, backend, dtype):
    model = model.float()
    sx, _, qx, _ = (t.to(dtype) for t in episode)
    sy, qy = torch.rand(3, 5, 3).to(dtype), torch.rand(3, 6, 3).to(dtype)
    own = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    rate, weights = torch.tensor(0.3, dtype=dtype), torch.rand(3, 5).to(dtype)

    def results(sx, sy, qx, qy, own, rate, weights):
        loop = {"loss": "mse", "weights": weights, "parameters": own, "backend": backend}
        adapted = fm.adapt(model, sx, sy, lr=rate, steps=2, **loop)
        return [
            *fm.meta_loss(model, sx, sy, qx, qy, lr=rate, steps=2, **loop),
            *adapted.values(),
            fm.predict(model, qx, parameters=own, backend=backend),
            *fm.hvp(model, sx, sy, own, **loop).values(),
        ]

    single = {name: p.float() for name, p in own.items()}
    tensors = (sx, sy, qx, qy)
    expected = results(*(t.float() for t in tensors), single, rate.float(), weights.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = results(*tensors, own, rate, weights)
    assert all(result.dtype is torch.float32 for result in actual)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_autocast_says_so_once(model, episode):
    warn_of_autocast.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for _ in range(3):
                fm.meta_loss(model, *episode, lr=0.3)
    assert len([w for w in caught if "autocast" in str(w.message)]) == 1


def test_a_training_step_inside_torch_compile(model, episode, backend):
    def train(compiled: bool) -> list[float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def step(sx, sy, qx, qy):
            optimizer.zero_grad()
            out = fm.meta_loss(net, 2 * sx, sy, 2 * qx, qy, lr=0.3, steps=2, backend=backend)
            loss = out.loss + 1e-3 * out.prediction.square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        if compiled:
            step = torch.compile(step, backend="eager")
        return [step(*episode).item() for _ in range(3)]

    torch._dynamo.reset()
    plain, compiled = train(False), train(True)
    assert compiled == pytest.approx(plain, rel=1e-12)
    assert plain[-1] < plain[0]


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_follows_torch_manual_seed_and_the_training_flag(episode, backend):
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).double()

    def task_loss(seed: int | None = None) -> Tensor:
        return fm.meta_loss(model, *episode, lr=0.1, seed=seed, backend=backend).task_loss

    torch.manual_seed(3)
    first, second = task_loss(), task_loss()
    torch.manual_seed(3)
    assert torch.equal(first, task_loss())
    assert not torch.equal(first, second)
    assert torch.equal(task_loss(5), task_loss(5))
    assert not torch.equal(task_loss(5), task_loss(6))
    model.eval()
    state = torch.get_rng_state()
    assert torch.equal(task_loss(5), task_loss())
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_replays_its_masks_for_a_second_run(episode, backend):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).double()
    loss = fm.meta_loss(model, *episode, lr=0.3, steps=2, backend=backend, seed=1)
    leaves = parameters_of(model)
    by_loss = torch.autograd.grad(loss.loss, leaves, retain_graph=True)
    assert_close(by_loss, torch.autograd.grad(loss.task_loss.mean(), leaves))

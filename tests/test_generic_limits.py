"""What the generic executor leaves alone, and what it refuses."""

from __future__ import annotations

import gc
import random
import weakref

import fastmaml as fm
import pytest
import torch
from fastmaml import functional
from generic_models import Attention, ControlFlow
from small_problems import EXACT, double, gradients
from torch import Tensor, nn
from torch.nn import functional as F

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
]

# --- what it leaves alone -------------------------------------------------------------------------


def test_what_forward_writes_is_undone():
    torch.manual_seed(0)
    model = ControlFlow().double()
    x, y = double(2, 5, 3, 3), double(2, 5, 2)
    fm.MAML(model, 0.1, 2, loss="mse")(x, y, x, y).loss.backward()
    assert model.calls == 0


def test_the_model_is_not_kept_alive(episode):
    model = nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 3)).double()
    loss = nn.CrossEntropyLoss(reduction="sum")
    loss.model = model  # a loss that refers to the model
    fm.MAML(model, 0.1, 1, loss=loss)(*episode).loss.backward()
    alive = weakref.ref(model)
    del model, loss
    gc.collect()
    assert alive() is None


class Noisy(nn.Module):
    """Its forward draws from torch's default generator, which no op has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.second(h * (1 + 0.5 * torch.randn_like(h)))


def test_noise_replays_and_leaves_the_generator_alone(episode):
    torch.manual_seed(0)
    model = Noisy().double()
    maml = fm.MAML(model, 0.3, 2)
    torch.manual_seed(1)
    first = maml(*episode)
    first.loss.backward()
    after = torch.get_rng_state()
    torch.manual_seed(1)
    torch.randint(2**32, (), dtype=torch.int64)
    assert torch.equal(torch.get_rng_state(), after)  # one draw, of the seed
    assert not torch.equal(maml(*episode).task_loss, first.task_loss)
    # the gradient is that of the function with the same draws
    direction = {name: double(*p.shape) for name, p in model.named_parameters()}

    def loss(step: float) -> Tensor:
        moved = {name: p + step * direction[name] for name, p in model.named_parameters()}
        return functional.meta_loss(model, *episode, parameters=moved, lr=0.3, steps=2, seed=7).loss

    found = gradients(loss(0.0), model)
    slope = sum((g * u).sum() for g, u in zip(found, direction.values(), strict=True))
    with torch.no_grad():
        assert float((loss(1e-5) - loss(-1e-5)) / 2e-5) == pytest.approx(float(slope), rel=1e-6)


# --- what it refuses ------------------------------------------------------------------------------


def test_no_second_derivative_is_an_error_that_names_the_operation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randint(9, (2, 5, 3)), torch.randint(2, (2, 5))
    with pytest.raises(fm.BackendError, match=r"cannot differentiate Sequential.*_embedding_bag"):
        fm.MAML(model, 0.1, 2)(x, y, x, y)
    fm.MAML(model, 0.1, 2, first_order=True)(x, y, x, y).loss.backward()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, y_bar):
        (x,) = ctx.saved_tensors
        return x.exp() * y_bar


def wrapped(forward) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    model.forward = lambda x: forward(F.linear(x, model.weight, model.bias))
    return model


def test_functions_that_are_differentiable_once_are_named(episode):
    with pytest.raises(fm.BackendError, match=r"twice.*Once.*once_differentiable"):
        fm.MAML(wrapped(Once.apply), 0.1, 1)(*episode).loss.backward()


class Detached(Once):
    """Through numpy, say: autograd takes what backward returns for a constant."""

    @staticmethod
    def backward(ctx, y_bar):
        (x,) = ctx.saved_tensors
        return x.detach().exp() * y_bar


def test_a_backward_that_is_no_function_of_its_input_is_warned_of(episode):
    with pytest.warns(fm.DerivativeWarning, match="second derivatives of Linear"):
        fm.MAML(wrapped(Detached.apply), 0.1, 1)(*episode).loss.backward()


def test_forward_that_changes_its_mind(episode):
    with pytest.raises(fm.BackendError, match="other numbers in a second pass"):
        fm.MAML(wrapped(lambda y: y * random.random()), 0.1, 1)(*episode).loss.backward()


def test_tensors_from_elsewhere_that_require_grad(model, episode):
    sigma = torch.ones(3, dtype=torch.float64, requires_grad=True)
    sx, _, qx, _ = episode
    maml = fm.MAML(model, 0.1, 1, loss=lambda p, t: (sigma * (p - t) ** 2).mean())
    data = sx, double(3, 5, 3), qx, double(3, 6, 3)
    with pytest.raises(fm.BackendError, match=r"shape \[3\] that requires grad"):
        maml(*data).loss.backward()
    sigma.requires_grad_(False)
    maml(*data).loss.backward()


def test_losses_that_are_no_number(model, episode):
    with pytest.raises(ValueError, match=r"loss must return one number.*\(5,\)"):
        fm.MAML(model, 0.1, 1, loss=lambda p, t: F.cross_entropy(p, t, reduction="none"))(*episode)


def test_attention_in_evaluation_without_gradients():
    """The fast path of nn.MultiheadAttention knows nothing of the parameters that are given."""
    torch.manual_seed(0)
    model = Attention().double().eval()
    x = double(2, 5, 3, 4)
    own = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in model.named_parameters()}
    with torch.no_grad():
        prediction = functional.predict(model, x, parameters=own)
        expected = torch.func.functional_call(model, {n: p[1] for n, p in own.items()}, (x[1],))
    torch.testing.assert_close(prediction[1], expected, **EXACT)

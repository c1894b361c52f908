"""Calls that the generic executor runs: what they accept, what they say, what they leave alone."""

from __future__ import annotations

import warnings

import fastmaml as fm
import pytest
import torch
from fastmaml import functional
from fastmaml.executors.generic import chunk, trial
from fastmaml.program import StatelessModule
from generic_models import Named, gaussian
from plain_loop import plain_loop
from small_problems import EXACT, double, gradients
from torch import Tensor, nn
from torch.nn import functional as F

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fastmaml.GenericNote"),
    pytest.mark.filterwarnings("error::fastmaml.DerivativeWarning"),
]


@pytest.fixture
def softmax_net() -> nn.Module:
    """What no program has an op for: 4 features, 3 classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 3)).double()


def assert_same(found: list[Tensor], exact: list[Tensor]) -> None:
    for actual, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(actual, expected, **EXACT)


# --- when it runs, and what it says ---------------------------------------------------------------


def test_it_is_where_auto_ends_and_says_so_once(softmax_net, episode):
    maml = fm.MAML(softmax_net, 0.3, 2)
    with pytest.warns(fm.GenericNote, match=r"vmap\(jvp\(grad\)\): cannot trace.*Softmax"):
        maml(*episode).loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error", fm.GenericNote)
        maml(*episode).loss.backward()
        maml.adapt(*episode[:2])(episode[2])
    text = str(maml.plan(episode[0], episode[2]))
    assert "generic: the fastest that runs this call, in vmap(jvp(grad))" in text
    assert "native: it runs traced models: cannot trace Sequential: '1' (Softmax)" in text


@pytest.mark.parametrize("loss", [F.l1_loss, nn.HuberLoss(), nn.MSELoss(reduction="sum")], ids=str)
def test_auto_runs_any_callable_loss(model, episode, loss):
    sx, _, qx, _ = episode
    data = sx, double(3, 5, 3), qx, double(3, 6, 3)
    out = functional.meta_loss(model, *data, lr=0.1, steps=2, loss=loss)
    task_loss, _, _ = plain_loop(
        model, data[:2], data[2:], lr=0.1, steps=2,
        loss=lambda p, t: (p - t).square().sum() if isinstance(loss, nn.MSELoss) else loss(p, t),
    )  # fmt: skip
    torch.testing.assert_close(out.task_loss, task_loss, **EXACT)
    assert_same(gradients(out.loss, model), gradients(task_loss.mean(), model))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_it_agrees_with_the_reference(episode, batch_norm):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
    model = nn.Sequential(nn.Linear(4, 5), norm, nn.Dropout(0.5), nn.Linear(5, 3)).double()
    for training in (True, False):
        model.train(training)
        results = []
        for backend in ("reference", "generic"):
            out = functional.meta_loss(model, *episode, lr=0.1, steps=3, seed=5, backend=backend)
            results.append([out.task_loss, out.prediction, *gradients(out.loss, model)])
        assert_same(*results)
    assert not batch_norm or int(norm.num_batches_tracked) == 0


# --- what else it takes ---------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [(3, 5), (3, 5, 2)], ids=str)
def test_tokens(tokens):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(tokens[1:], dtype=torch.int64))
    x, y = torch.randint(9, tokens), torch.randint(4, tokens[:2])
    out = fm.MAML(model.double(), 0.5, 2)(x, y, x, y)
    task_loss, _, _ = plain_loop(model, (x, y), (x, y), lr=0.5, steps=2)
    assert_same(gradients(out.loss, model), gradients(task_loss.mean(), model))
    with pytest.raises(ValueError, match=r"support_y must hold class indices 0\.\.3"):
        fm.MAML(model, 0.5, 1)(x, y + 9, x, y)


def test_a_dict_of_predictions_is_differentiable(episode):
    torch.manual_seed(0)
    model = Named().double()
    data = double(3, 4, 3), double(3, 4, 2), double(3, 5, 3), double(3, 5, 2)
    options = {"lr": 0.1, "steps": 2, "loss": gaussian}
    out = functional.meta_loss(model, *data, **options)
    _, expected, _ = plain_loop(model, data[:2], data[2:], **options)
    assert list(out.prediction) == ["mean", "log_variance"]
    bar = double(3, 5, 2, seed=9)
    assert_same(
        gradients((bar * out.prediction["mean"]).sum(), model),
        gradients((bar * expected["mean"]).sum(), model),
    )
    adapted = fm.MAML(model, 0.1, 2, loss=gaussian).adapt(*data[:2])
    torch.testing.assert_close(adapted(data[2])["mean"], expected["mean"], **EXACT)


def test_padding_is_never_read(softmax_net, episode):
    sizes = {"support_size": [5, 2, 2], "query_size": [6, 3, 4]}
    sx, sy, qx, qy = (t.clone() for t in episode)
    whole = functional.meta_loss(softmax_net, sx, sy, qx, qy, lr=0.3, steps=2, **sizes)
    exact = gradients(whole.loss, softmax_net)
    for x, y, size in ((sx, sy, sizes["support_size"]), (qx, qy, sizes["query_size"])):
        for task, real in enumerate(size):
            x[task, real:], y[task, real:] = torch.nan, -1
    padded = functional.meta_loss(softmax_net, sx, sy, qx, qy, lr=0.3, steps=2, **sizes)
    assert torch.equal(padded.task_loss, whole.task_loss)
    assert all(map(torch.equal, gradients(padded.loss, softmax_net), exact))
    assert padded.prediction[1, :3].all()
    assert not padded.prediction[1, 3:].any()
    one = functional.meta_loss(
        softmax_net, sx[1:2, :2], sy[1:2, :2], qx[1:2, :3], qy[1:2, :3], lr=0.3, steps=2
    )
    torch.testing.assert_close(one.task_loss, padded.task_loss[1:2], **EXACT)


def test_samples_weights_momentum_and_steps(softmax_net, episode):
    options = {"lr": 0.2, "steps": 3, "momentum": 0.9, "step_weights": (0.5, 0.0, 1.0, 2.0)}
    sx, sy, qx, qy = episode
    weights = torch.full((3, 5), 0.2, dtype=torch.float64)
    out = functional.meta_loss(softmax_net, *episode, weights=weights, **options)
    task_loss, _, _ = plain_loop(softmax_net, (sx, sy), (qx, qy), **options)
    assert_same(gradients(out.loss, softmax_net), gradients(task_loss.mean(), softmax_net))


def test_few_tasks_at_a_time_lead_to_the_same(softmax_net, episode, monkeypatch):
    sx = episode[0].requires_grad_()
    found = []
    for size in (chunk.CHUNK_BYTES, 1):
        monkeypatch.setattr(chunk, "CHUNK_BYTES", size)
        out = functional.meta_loss(softmax_net, *episode, lr=0.3, steps=2)
        leaves = [*softmax_net.parameters(), sx]
        found.append([out.prediction, *torch.autograd.grad(out.loss, leaves)])
    assert_same(*found)


def test_the_trial_counts_the_tasks_that_a_chunk_holds(softmax_net, episode, monkeypatch):
    counted = []

    def seconds(gears, run, order, few, axes, tasks):
        counted.append(tasks)
        return {gear: float(not gear.is_batched) for gear in gears}

    monkeypatch.setattr(trial, "seconds_a_task", seconds)
    for size, held in ((chunk.CHUNK_BYTES, 3), (1, 1)):
        monkeypatch.setattr(chunk, "CHUNK_BYTES", size)
        functional.meta_loss(softmax_net, *episode, lr=0.3, steps=2).loss.backward()
        assert set(counted) == {held}
        counted.clear()


def test_a_stateless_module_is_left_as_it_was():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
            self.other.weight = self.one.weight
            self.register_buffer("count", torch.zeros(()))
            self.last = None

        def forward(self, x: Tensor) -> Tensor:
            self.last, self.count = x, self.count + 1
            y = self.other(self.one(x))
            if not x.any():
                raise ValueError("no data")
            return y * self.count

    model = Tied().double()
    own = dict(model.state_dict(keep_vars=True))
    aliases = {name: name for name in own} | {"other.weight": "one.weight"}
    stateless = StatelessModule(model, aliases)
    state = {name: torch.randn_like(own[name]) for name in set(aliases.values())}
    x = torch.randn(2, 3, dtype=torch.float64)
    expected = torch.func.functional_call(model, dict(state), (x,))
    for _ in range(2):
        torch.testing.assert_close(stateless(state, x), expected)
        with pytest.raises(ValueError, match="no data"):
            stateless(state, torch.zeros_like(x))
        assert all(tensor is own[n] for n, tensor in model.state_dict(keep_vars=True).items())
    assert model.last is x  # functional_call's


@pytest.mark.parametrize("algorithm", [fm.ANIL, fm.MetaSGD])
def test_algorithms(episode, algorithm):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x).softmax(-1))

    model, names = Net().double(), None
    if algorithm is fm.ANIL:
        learner, names = fm.ANIL(model, "head", lr=0.3, steps=2), ["head.weight", "head.bias"]
    else:
        learner = fm.MetaSGD(model, 0.3, 2)
    out = learner(*episode)
    task_loss, _, _ = plain_loop(
        model, episode[:2], episode[2:], lr=0.3, steps=2, inner_parameters=names
    )
    out.loss.backward()
    assert_same([p.grad for p in model.parameters()], gradients(task_loss.mean(), model))
    assert all(p.grad is not None and p.grad.any() for p in learner.parameters())


def test_hvp(softmax_net, episode):
    sx, sy, _, _ = episode
    vector = {name: double(*p.shape) for name, p in softmax_net.named_parameters()}
    products = functional.hvp(softmax_net, sx, sy, vector)
    for task in range(3):
        loss = F.cross_entropy(softmax_net(sx[task]), sy[task])
        parameters = list(softmax_net.parameters())
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        slope = sum((g * u).sum() for g, u in zip(gradient, vector.values(), strict=True))
        assert_same(
            [product[task] for product in products.values()],
            list(torch.autograd.grad(slope, parameters)),
        )


def test_orders_of_derivative(softmax_net, episode):
    out = fm.MAML(softmax_net, 0.3, 1)(*episode)
    parameters = list(softmax_net.parameters())
    found = torch.autograd.grad(out.loss, parameters, create_graph=True)
    with pytest.raises(fm.DerivativeOrderError):
        found[0].sum().backward()
    own = {name: p.detach() for name, p in softmax_net.named_parameters()}
    by_func = torch.func.grad(
        lambda own: functional.meta_loss(softmax_net, *episode, parameters=own, lr=0.3).loss
    )(own)
    assert_same(list(by_func.values()), [g.detach() for g in found])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(softmax_net, episode, dtype):
    sx, sy, qx, qy = episode
    exact = functional.meta_loss(softmax_net, *episode, lr=0.3, steps=2)
    exact_gradients = gradients(exact.loss, softmax_net)
    net = softmax_net.to(dtype)
    out = functional.meta_loss(net, sx.to(dtype), sy, qx.to(dtype), qy, lr=0.3, steps=2)
    assert out.task_loss.dtype == dtype
    for actual, expected in zip(gradients(out.loss, net), exact_gradients, strict=True):
        allowed = 20 * torch.finfo(dtype).eps * float(expected.abs().max())
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=allowed)


def test_a_module_that_runs_in_one_dtype_alone(episode):
    """It is checked in that dtype, in place of float64."""
    torch.manual_seed(0)
    table = torch.randn(4, 4)  # of no dtype but its own

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x @ table).softmax(-1))

    model = Net()
    sx, sy, qx, qy = (t.float() if t.is_floating_point() else t for t in episode)
    maml = fm.MAML(model, 0.3, 2)
    out = maml(sx, sy, qx, qy)
    task_loss, _, _ = plain_loop(model, (sx, sy), (qx, qy), lr=0.3, steps=2)
    for actual, expected in zip(
        gradients(out.loss, model), gradients(task_loss.mean(), model), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert "vmap(jvp(grad))" in str(maml.plan(sx, qx))

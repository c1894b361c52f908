"""MAML, ANIL and MetaSGD compute what their papers say."""

from __future__ import annotations

import fastmaml as fm
import pytest
import torch
from plain_loop import plain_loop
from small_problems import EXACT, Net, gradients
from torch import Tensor, nn
from torch.testing import assert_close

HEAD = ["classifier.weight", "classifier.bias"]


# --- what each algorithm computes -----------------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_parameters", [None, "*.weight", lambda name: "bias" in name])
def test_maml(net, episode, backend, first_order, inner_parameters):
    sx, sy, qx, qy = episode
    maml = fm.MAML(
        net, 0.3, 3, first_order=first_order, inner_parameters=inner_parameters, backend=backend
    )
    out = maml(sx, sy, qx, qy)
    names = [name for name, _ in net.named_parameters()]
    if inner_parameters == "*.weight":
        names = [name for name in names if name.endswith("weight")]
    elif inner_parameters is not None:
        names = [name for name in names if "bias" in name]
    task_loss, prediction, _ = plain_loop(
        net, (sx, sy), (qx, qy), lr=0.3, steps=3, first_order=first_order, inner_parameters=names
    )
    assert_close(out.task_loss, task_loss, **EXACT)
    assert_close(out.prediction, prediction, **EXACT)
    assert_close(gradients(out.loss, maml), gradients(task_loss.mean(), net), **EXACT)


def test_all_options_reach_the_inner_loop(net, episode, backend):
    sx, sy, qx, qy = episode
    sy, qy = torch.randn(3, 5, 3).double(), torch.randn(3, 6, 3).double()
    options = {"momentum": 0.8, "step_weights": (0.1, 0.2, 0.7)}
    maml = fm.MAML(net, 0.3, 2, loss=nn.MSELoss(), backend=backend, **options)
    task_loss, _, _ = plain_loop(
        net, (sx, sy), (qx, qy), lr=0.3, steps=2, loss=nn.functional.mse_loss, **options
    )
    out = maml(sx, sy, qx, qy, reduction="sum")
    assert_close(out.loss, task_loss.sum(), **EXACT)
    sizes = {"support_size": [5, 2, 3], "query_size": [1, 6, 2]}
    weights = {"weights": torch.rand(3, 5).double(), "query_weights": torch.rand(3, 6).double()}
    expected = fm.functional.meta_loss(
        net, sx, sy, qx, qy, lr=0.3, steps=2, loss="mse", backend=backend,
        **options, **sizes, **weights,
    )  # fmt: skip
    assert_close(maml(sx, sy, qx, qy, **sizes, **weights).loss, expected.loss, **EXACT)


@pytest.mark.parametrize(
    "head", ["classifier", lambda net: net.classifier, lambda net: [net.classifier]], ids=repr
)
def test_anil_adapts_the_head_while_the_backbone_trains(net, episode, backend, head):
    sx, sy, qx, qy = episode
    anil = fm.ANIL(net, head(net) if callable(head) else head, lr=0.3, steps=3, backend=backend)
    out = anil(sx, sy, qx, qy)
    task_loss, _, _ = plain_loop(net, (sx, sy), (qx, qy), lr=0.3, steps=3, inner_parameters=HEAD)
    expected = gradients(task_loss.mean(), net)
    assert all(bool(gradient.any()) for gradient in expected)
    assert_close(gradients(out.loss, anil), expected, **EXACT)
    adapted = dict(anil.adapt(sx, sy).named_parameters())
    moved = {name for name, p in net.named_parameters() if bool((adapted[name] != p).any())}
    assert moved == set(HEAD)


def test_anil_with_several_heads_and_a_tied_one(episode, backend):
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(5, 5)
            self.backbone[0] = nn.Linear(4, 5)
            self.again = nn.Linear(5, 5, bias=False)
            self.again.weight = self.classifier.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.again(torch.tanh(self.classifier(self.backbone(x))))

    torch.manual_seed(0)
    net = Tied().double()
    sx, sy, qx, qy = episode
    for head, names in [
        ("again", ["classifier.weight"]),
        (["again", "backbone.0"], ["classifier.weight", "backbone.0.weight", "backbone.0.bias"]),
    ]:
        anil = fm.ANIL(net, head, lr=0.3, steps=2, backend=backend)
        task_loss, _, _ = plain_loop(
            net, (sx, sy), (qx, qy), lr=0.3, steps=2, inner_parameters=names
        )
        assert_close(anil(sx, sy, qx, qy).task_loss, task_loss, **EXACT)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        ("clasifier", ValueError, r"head must name a submodule .*'classifier'.*'clasifier'"),
        ("", ValueError, "head must name a submodule"),
        (["classifier", "nobody"], ValueError, "got 'nobody'"),
        (nn.Linear(2, 2), ValueError, "head must be a submodule of the model, got a Linear"),
        (3, TypeError, "head must be a name"),
        ("backbone.2", ValueError, "head must have parameters"),
        ([], ValueError, "head must have parameters"),
    ],
)
def test_heads_that_do_not_exist(net, head, error, message):
    with pytest.raises(error, match=message):
        fm.ANIL(net, head, lr=0.1, steps=1)


@pytest.mark.parametrize("granularity", ["element", "tensor", "tensor_step"])
def test_meta_sgd(net, episode, backend, granularity):
    sx, sy, qx, qy = episode
    meta_sgd = fm.MetaSGD(net, 0.3, 2, granularity, backend=backend)
    torch.manual_seed(1)
    with torch.no_grad():
        for rate in meta_sgd.learned_rates.values():
            rate.add_(0.3 * torch.randn_like(rate))
        next(iter(meta_sgd.learned_rates.values())).neg_()  # learned: may be negative
    rates = meta_sgd.rates()

    def plain_rate(name: str, step: int) -> Tensor:
        return rates[name][min(step, 1)] if granularity == "tensor_step" else rates[name]

    for steps in (2, 4):  # the last row repeats
        out = meta_sgd(sx, sy, qx, qy, steps=steps)
        task_loss, _, _ = plain_loop(net, (sx, sy), (qx, qy), lr=plain_rate, steps=steps)
        assert_close(out.task_loss, task_loss, **EXACT)
        leaves = list(meta_sgd.parameters())
        expected = torch.autograd.grad(task_loss.mean(), leaves)
        assert_close(torch.autograd.grad(out.loss, leaves), expected, **EXACT)


def test_meta_sgd_has_a_rate_for_what_it_adapts(net):
    sizes = {"element": 15, "tensor": 1, "tensor_step": 5}
    for granularity, size in sizes.items():
        meta_sgd = fm.MetaSGD(net, 0.1, 5, granularity, inner_parameters="classifier.*")
        assert list(meta_sgd.rates()) == sorted(HEAD)
        assert meta_sgd.rates()["classifier.weight"].numel() == size
        assert all(bool((rate == 0.1).all()) for rate in meta_sgd.rates().values())
    with pytest.raises(ValueError, match="granularity must be one of 'element'"):
        fm.MetaSGD(net, 0.1, 5, "layer")
    with pytest.raises(ValueError, match="nothing is left to adapt"):
        fm.MetaSGD(net.requires_grad_(False), 0.1, 5)


# --- adapting for evaluation ----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, 0, 7])
def test_adapt(net, episode, backend, steps):
    sx, sy, qx, qy = episode
    maml = fm.MAML(net, 0.3, 2, backend=backend)
    adapted = maml.adapt(sx, sy, steps=steps)
    task_loss, prediction, parameters = plain_loop(
        net, (sx, sy), (qx, qy), lr=0.3, steps=2 if steps is None else steps
    )
    assert_close(adapted(qx), prediction, **EXACT)
    assert_close(maml(sx, sy, qx, qy, steps=steps).task_loss, task_loss, **EXACT)
    for name, parameter in adapted.named_parameters():
        assert_close(parameter, torch.stack([own[name] for own in parameters]), **EXACT)
    scalars = [adapted(qx).square().sum(), prediction.square().sum()]
    assert_close(*(gradients(scalar, net) for scalar in scalars), **EXACT)
    assert adapted(qx[:, :2], query_size=[1, 2, 2]).shape == (3, 2, 3)
    with pytest.raises(ValueError, match="query_x must be of the 3 tasks"):
        adapted(qx[:2])


def test_step_weights_fit_one_number_of_steps(net, episode):
    maml = fm.MAML(net, 0.1, 2, step_weights=(0.2, 0.3, 0.5))
    with pytest.raises(ValueError, match="step_weights must hold one weight for each"):
        maml(*episode, steps=3)
    maml.adapt(*episode[:2], steps=3)(episode[2])
    with pytest.raises(ValueError, match="step_weights must hold one weight for each"):
        fm.MAML(net, 0.1, 3, step_weights=(0.2, 0.3, 0.5))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -0.1}, ValueError, "lr must be finite and at least 0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite and at least 0"),
        ({"lr": torch.tensor(0.1)}, TypeError, "lr must be a number"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"steps": 1.0}, TypeError, "steps must be an integer"),
        ({"loss": "hinge"}, ValueError, "loss must be one of 'mse'"),
        ({"backend": "fast"}, ValueError, "backend must be one of 'auto'"),
        ({"first_order": "no"}, TypeError, "first_order must be True or False"),
        ({"momentum": -1}, ValueError, "momentum must be finite and at least 0"),
        ({"model": "net"}, TypeError, r"model must be an nn\.Module, got str"),
    ],
    ids=str,
)
def test_a_bad_option_raises_at_construction(net, options, error, message):
    with pytest.raises(error, match=message):
        fm.MAML(**{"model": net, "lr": 0.1, "steps": 1, **options})

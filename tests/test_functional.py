"""The functional API: values and gradients against the plain loop."""

from __future__ import annotations

import pytest
import torch
from fastmaml import functional as fm
from plain_loop import plain_loop
from small_problems import EXACT, double, gradients
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

# --- against the plain loop -----------------------------------------------------------------------

OPTIONS = [
    {"steps": 0},
    {"steps": 1},
    {"steps": 4},
    {"steps": 3, "first_order": True},
    {"steps": 3, "momentum": 0.9},
    {"steps": 3, "step_weights": (0.0, 0.2, 0.3, 0.5)},
    {"steps": 3, "inner_parameters": ("5.weight", "5.bias")},
    {"steps": 2, "inner_parameters": ("0.bias", "3.weight"), "momentum": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_meta_loss_is_that_of_the_plain_loop(model, episode, backend, options):
    sx, sy, qx, qy = episode
    out = fm.meta_loss(model, sx, sy, qx, qy, lr=0.3, backend=backend, **options)
    task_loss, prediction, _ = plain_loop(model, (sx, sy), (qx, qy), lr=0.3, **options)
    assert_close(out.task_loss, task_loss, **EXACT)
    assert_close(out.loss, task_loss.mean(), **EXACT)
    assert_close(out.prediction, prediction, **EXACT)
    assert_close(gradients(out.loss, model), gradients(task_loss.mean(), model), **EXACT)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_adapt_is_that_of_the_plain_loop(model, episode, backend, options):
    options = {key: value for key, value in options.items() if key != "step_weights"}
    sx, sy, qx, qy = episode
    adapted = fm.adapt(model, sx, sy, lr=0.3, backend=backend, **options)
    _, _, plain = plain_loop(model, (sx, sy), (qx, qy), lr=0.3, **options)
    expected = {name: torch.stack([phi[name] for phi in plain]) for name in plain[0]}
    assert_close(adapted, expected, **EXACT)
    cotangents = {name: double(*value.shape) for name, value in expected.items()}
    scalars = [sum((cotangents[n] * t[n]).sum() for n in t) for t in (adapted, expected)]
    assert_close(*(gradients(scalar, model) for scalar in scalars), **EXACT)


def cross_entropy_of_smoothed(prediction: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(prediction, target, label_smoothing=0.2)


@pytest.mark.parametrize(
    ("loss", "plain", "kind"),
    [
        ("cross_entropy", F.cross_entropy, "labels"),
        (F.cross_entropy, F.cross_entropy, "probabilities"),
        (nn.CrossEntropyLoss(label_smoothing=0.2), cross_entropy_of_smoothed, "labels"),
        ("mse", F.mse_loss, "numbers"),
        (nn.MSELoss(), F.mse_loss, "numbers"),
        ("bce_with_logits", F.binary_cross_entropy_with_logits, "probabilities"),
        (nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits, "probabilities"),
    ],
)
def test_losses(model, episode, backend, loss, plain, kind):
    sx, sy, qx, qy = episode
    if kind != "labels":
        sy, qy = double(3, 5, 3), double(3, 6, 3)
    if kind == "probabilities":
        sy, qy = sy.softmax(-1), qy.softmax(-1)
    out = fm.meta_loss(model, sx, sy, qx, qy, lr=0.3, steps=2, loss=loss, backend=backend)
    task_loss, _, _ = plain_loop(model, (sx, sy), (qx, qy), lr=0.3, steps=2, loss=plain)
    assert_close(out.task_loss, task_loss, **EXACT)
    assert_close(gradients(out.loss, model), gradients(task_loss.mean(), model), **EXACT)


def test_batch_statistics_in_training_and_in_evaluation(episode, backend):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double()
    sx, sy, qx, qy = episode
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    outs = [
        fm.meta_loss(model.train(mode), sx, sy, qx, qy, lr=0.3, steps=2, backend=backend)
        for mode in (True, False)
    ]
    for name, buffer in model.named_buffers():
        assert_close(buffer, before[name])
    task_loss, _, _ = plain_loop(model.train(), (sx, sy), (qx, qy), lr=0.3, steps=2)
    for out in outs:
        assert_close(out.task_loss, task_loss, **EXACT)


# --- samples that are not there -------------------------------------------------------------------


def test_sizes_are_as_separate_calls(model, episode, backend):
    sx, sy, qx, qy = (tensor.clone() for tensor in episode)
    support_size, query_size = [2, 5, 3], torch.tensor([6, 1, 4])
    sy[0, 2:], qy[1, 1:] = -7, 99  # never read
    sx[0, 2:], qx[1, 1:] = torch.nan, torch.nan
    common = {"lr": 0.3, "steps": 2, "backend": backend}
    out = fm.meta_loss(
        model, sx, sy, qx, qy, support_size=support_size, query_size=query_size, **common
    )
    alone = []
    for task in range(3):
        n, m = support_size[task], int(query_size[task])
        one = slice(task, task + 1)
        alone.append(fm.meta_loss(model, sx[one, :n], sy[one, :n], qx[one, :m], qy[one, :m],
                                  **common))  # fmt: skip
        assert_close(out.prediction[one, :m], alone[-1].prediction, **EXACT)
        assert bool((out.prediction[task, m:] == 0).all())
    assert_close(out.task_loss, torch.cat([one.task_loss for one in alone]), **EXACT)
    expected = gradients(sum(one.loss for one in alone) / 3, model)
    assert_close(gradients(out.loss, model), expected, **EXACT)


def test_weights_of_one_over_n_are_none(model, episode, backend):
    sx, sy, qx, qy = episode
    options = {"lr": 0.3, "steps": 2, "backend": backend}
    weights, query_weights = (torch.full_like(t[..., 0], 1 / t.shape[1]) for t in (sx, qx))
    weighted = fm.meta_loss(
        model, sx, sy, qx, qy, weights=weights, query_weights=query_weights, **options
    )
    assert_close(weighted.task_loss, fm.meta_loss(model, *episode, **options).task_loss, **EXACT)


# --- rates ----------------------------------------------------------------------------------------


def test_all_forms_of_one_rate_agree(model, episode, backend):
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    rate = torch.tensor(0.3, dtype=torch.float64)
    forms = [
        rate,
        rate.expand(3),
        dict.fromkeys(shapes, 0.3),
        dict.fromkeys(shapes, rate),
        {name: rate.expand(shape) for name, shape in shapes.items()},
        {name: rate.expand(2, *[1] * len(shape)) for name, shape in shapes.items()},
        {name: rate.expand(1, *shape) for name, shape in shapes.items()},
    ]
    expected = fm.meta_loss(model, *episode, lr=0.3, steps=3, backend=backend)
    for form in forms:
        out = fm.meta_loss(model, *episode, lr=form, steps=3, backend=backend)
        assert_close(out.task_loss, expected.task_loss, **EXACT)


def test_the_rank_of_a_rate_tells_elements_from_steps(episode, backend):
    sx, sy, qx, qy = episode
    model = nn.Sequential(nn.Linear(4, 3)).double()
    rate = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    for bias_rate, rule in [
        (rate, lambda step: rate),
        (rate[:, None], lambda step: rate[min(step, 2)]),
    ]:
        lr = {"0.weight": 0.3, "0.bias": bias_rate}

        def plain_rate(name: str, step: int, rule=rule):
            return 0.3 if name == "0.weight" else rule(step)

        out = fm.meta_loss(model, *episode, lr=lr, steps=4, backend=backend)
        task_loss, _, _ = plain_loop(model, (sx, sy), (qx, qy), lr=plain_rate, steps=4)
        assert_close(out.task_loss, task_loss, **EXACT)


# --- parameters -----------------------------------------------------------------------------------


class Spare(nn.Module):
    """A tied pair, a frozen layer and one that forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.tanh(self.frozen(self.first(x)))))


def test_tied_frozen_and_unused_parameters(episode, backend):
    torch.manual_seed(0)
    model = Spare().double()
    sx, sy, qx, qy = episode
    adapted = fm.adapt(model, sx, sy, lr=0.3, steps=2, backend=backend)
    assert adapted.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert adapted[name].shape == (3, *parameter.shape)
        kept = bool((adapted[name] == parameter).all())
        assert kept == name.startswith(("frozen", "unused"))
    unexpanded = fm.adapt(model, sx, sy, lr=0.3, backend=backend, expand=False)
    assert unexpanded["frozen.weight"].shape == (4, 4)
    assert unexpanded["head.weight"].shape == (3, 3, 4)

    out = fm.meta_loss(model, *episode, lr=0.3, steps=2, backend=backend)
    moving = ["first.weight", "head.weight", "head.bias"]
    task_loss, _, _ = plain_loop(
        model, (sx, sy), (qx, qy), lr=0.3, steps=2, inner_parameters=moving
    )
    assert_close(out.task_loss, task_loss, **EXACT)
    out.loss.backward()
    unused = model.unused.weight.grad  # a model that is not read uses all that it has
    assert not unused.any() if backend == "generic" else unused is None
    assert model.frozen.weight.grad is None
    expected = torch.autograd.grad(task_loss.mean(), model.first.weight)[0]
    assert_close(model.first.weight.grad, expected, **EXACT)

    by_alias = fm.adapt(model, sx, sy, lr=0.3, inner_parameters="second.*", backend=backend)
    assert not torch.equal(by_alias["first.weight"], model.first.weight.expand(3, 4, 4))
    assert torch.equal(by_alias["head.weight"], model.head.weight.expand(3, 3, 4))


def test_parameters_of_each_task(model, episode, backend):
    sx, sy, qx, qy = episode
    own = {name: double(3, *p.shape).requires_grad_() for name, p in model.named_parameters()}
    out = fm.meta_loss(model, *episode, parameters=own, lr=0.3, steps=2, backend=backend)
    losses = []
    for task in range(3):
        one = slice(task, task + 1)
        mine = {name: value[task] for name, value in own.items()}
        loss, _, _ = plain_loop(
            model, (sx[one], sy[one]), (qx[one], qy[one]), parameters=mine, lr=0.3, steps=2
        )
        losses.append(loss)
    leaves = list(own.values())
    expected = torch.autograd.grad(torch.cat(losses).mean(), leaves)
    assert_close(torch.autograd.grad(out.loss, leaves), expected, **EXACT)


def test_adapt_then_predict_is_meta_loss(model, episode, backend):
    sx, sy, qx, qy = episode
    out = fm.meta_loss(model, sx, sy, qx, qy, lr=0.3, steps=3, backend=backend)
    adapted = fm.adapt(model, sx, sy, lr=0.3, steps=3, backend=backend)
    prediction = fm.predict(model, qx, parameters=adapted, backend=backend)
    assert_close(prediction, out.prediction, **EXACT)
    loss = F.cross_entropy(prediction.flatten(0, 1), qy.flatten())
    assert_close(gradients(loss, model), gradients(out.loss, model), **EXACT)


# --- any strides, and one bad task ----------------------------------------------------------------


def test_strides_and_expanded_tensors(model, episode, backend):
    sx, sy, qx, qy = episode
    expected = fm.meta_loss(model, sx[:1].repeat(3, 1, 1), sy, qx, qy, lr=0.3, backend=backend)

    def strided(tensor: Tensor) -> Tensor:
        order = list(range(tensor.dim()))[::-1]
        return tensor.permute(order).contiguous().permute(order)

    inputs = [sx[:1].expand(3, 5, 4), strided(sy), strided(qx), strided(qy)]
    assert not any(tensor.is_contiguous() for tensor in inputs)
    parameters = {name: strided(p) for name, p in model.named_parameters()}
    out = fm.meta_loss(model, *inputs, parameters=parameters, lr=0.3, backend=backend)
    assert_close(out, expected, **EXACT)
    assert_close(gradients(out.loss, model), gradients(expected.loss, model), **EXACT)
    out = fm.meta_loss(model, *inputs, lr=0.3, backend=backend)
    (out.prediction.sum() + out.task_loss.mean()).backward()  # expanded cotangents


def test_nan_stays_in_its_task(model, episode, backend):
    sx, sy, qx, qy = episode
    clean = fm.meta_loss(model, sx, sy, qx, qy, lr=0.3, steps=2, backend=backend)
    bad = sx.clone()
    bad[1, 0, 0] = torch.nan
    out = fm.meta_loss(model, bad, sy, qx, qy, lr=0.3, steps=2, backend=backend)
    assert out.task_loss.isnan().tolist() == [False, True, False]
    for actual, expected in zip(out[1:], clean[1:], strict=True):
        assert torch.equal(actual[[0, 2]], expected[[0, 2]])
    assert all(bool(g.isnan().all()) for g in gradients(out.loss, model)[-2:])
    adapted, expected = (
        fm.adapt(model, x, sy, lr=0.3, steps=2, backend=backend) for x in (bad, sx)
    )
    assert all(torch.equal(adapted[n][[0, 2]], expected[n][[0, 2]]) for n in adapted)


def test_losses_of_weight_zero_do_not_count_where_the_loop_diverges(model, episode, backend):
    out = fm.meta_loss(
        model, *episode, lr=1e200, steps=3, step_weights=(1.0, 0.0, 0.0, 0.0), backend=backend
    )
    assert not out.prediction.isfinite().all()
    initial = fm.meta_loss(model, *episode, lr=0.1, steps=0, backend=backend)
    assert_close(out.task_loss, initial.task_loss, **EXACT)


# --- gradients that leave something out -----------------------------------------------------------


def test_gradients_of_query_targets_alone_count_every_step(model, episode, backend):
    sx, _, qx, _ = episode
    sy, qy = double(3, 5, 3), double(3, 6, 3).requires_grad_()
    frozen = {name: p.detach() for name, p in model.named_parameters()}
    options = {"lr": 0.3, "steps": 2, "step_weights": (0.5, 0.3, 0.2)}
    out = fm.meta_loss(
        model, sx, sy, qx, qy, parameters=frozen, loss="mse", backend=backend, **options
    )
    task_loss, _, _ = plain_loop(model, (sx, sy), (qx, qy), loss=F.mse_loss, **options)
    (actual,) = torch.autograd.grad(out.loss, [qy])
    (expected,) = torch.autograd.grad(task_loss.mean(), [qy])
    assert_close(actual, expected, **EXACT)


def test_gradients_of_predict_through_dropout(episode, backend):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 300), nn.Dropout(0.5), nn.Linear(300, 3)).double()
    x = episode[2].clone().requires_grad_()
    out = fm.predict(model, x, seed=1, backend=backend)
    # one sample at a time by another way: what predict says is linear in x
    jacobian = torch.autograd.functional.jacobian(
        lambda x: fm.predict(model, x, seed=1, backend="reference").sum((0, 1)), x
    )
    weights = double(3)
    (actual,) = torch.autograd.grad((weights * out).sum(), [x])
    assert_close(actual, torch.einsum("c,ctnf->tnf", weights, jacobian), **EXACT)

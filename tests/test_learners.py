"""MAML, ANIL and MetaSGD are ordinary modules: copies, moves, optimizers, shared models."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import fastmaml as fm
import pytest
import torch
from small_problems import EXACT, gradients
from torch import nn
from torch.testing import assert_close

LEARNERS = {
    "MAML": lambda net: fm.MAML(net, 0.3, 2),
    "ANIL": lambda net: fm.ANIL(net, lr=0.3, steps=2),
    "MetaSGD": lambda net: fm.MetaSGD(net, 0.3, 2),
    "MetaSGD steps": lambda net: fm.MetaSGD(net, 0.3, 2, "tensor_step"),
}


@pytest.fixture(params=LEARNERS.values(), ids=LEARNERS.keys())
def learner(request, net) -> fm.MetaLearner:
    return request.param(net)


def copy_by_state_dict(learner: fm.MetaLearner) -> fm.MetaLearner:
    other = copy.deepcopy(learner)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    assert other.load_state_dict(learner.state_dict()).missing_keys == []
    return other


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), copy_by_state_dict],
    ids=["deepcopy", "pickle", "state_dict"],
)
def test_copies_are_equal_and_apart(learner, episode, duplicate: Callable):
    learner(*episode)  # what is kept between calls must not stand in the way
    other = duplicate(learner)
    expected, actual = learner(*episode), other(*episode)
    assert_close(actual, expected, rtol=0, atol=0)
    assert_close(gradients(actual.loss, other), gradients(expected.loss, learner), rtol=0, atol=0)
    with torch.no_grad():
        next(other.module.parameters()).mul_(2.0)
    assert_close(learner(*episode), expected, rtol=0, atol=0)
    assert not torch.equal(other(*episode).task_loss, expected.task_loss)


def test_dtype_moves(learner, episode):
    expected = learner(*episode)
    learner.float()
    single = [t.float() if t.is_floating_point() else t for t in episode]
    out = learner(*single)
    assert out.loss.dtype is torch.float32
    assert_close(out.loss.double(), expected.loss, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match=r"support_x must be torch\.float32"):
        learner(*episode)
    assert_close(learner.double()(*episode).loss, expected.loss, rtol=1e-4, atol=1e-5)


def test_an_optimizer_trains_all_parameters(learner, episode):
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in learner.named_parameters()}
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = learner(*episode).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in learner.named_parameters():
        assert bool((parameter != before[name]).any()), name


def test_one_model_in_several_learners(net, episode):
    maml, anil = fm.MAML(net, 0.3, 2), fm.ANIL(net, lr=0.3, steps=2)
    loss = maml(*episode).loss + anil(*episode).loss
    loss.backward()
    apart = [gradients(learner(*episode).loss, net) for learner in (maml, anil)]
    for parameter, one, other in zip(net.parameters(), *apart, strict=True):
        assert_close(parameter.grad, one + other, **EXACT)
    net.backbone.requires_grad_(False)  # seen by both
    assert maml(*episode).loss.item() == anil(*episode).loss.item()


def test_dropout_follows_train_and_eval(episode):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3)).double()
    maml = fm.MAML(net, 0.1, 2)
    torch.manual_seed(4)
    first, second = maml(*episode).loss, maml(*episode).loss
    torch.manual_seed(4)
    assert torch.equal(maml(*episode).loss, first)
    assert not torch.equal(first, second)
    assert torch.equal(maml(*episode, seed=9).loss, maml(*episode, seed=9).loss)
    maml.eval()
    assert torch.equal(maml(*episode).loss, maml(*episode).loss)


def test_frozen_and_unused_parameters(net, episode):
    net.unused = nn.Linear(2, 2).double()
    net.backbone[0].requires_grad_(False)
    for learner in (fm.MAML(net, 0.3, 2), fm.MetaSGD(net, 0.3, 2)):
        net.zero_grad()
        learner(*episode).loss.backward()
        idle = {name for name, p in net.named_parameters() if p.grad is None}
        assert idle == {"unused.weight", "unused.bias", "backbone.0.weight", "backbone.0.bias"}
        adapted = dict(learner.adapt(*episode[:2]).named_parameters())
        assert adapted["unused.weight"].shape == (3, 2, 2)
        assert torch.equal(adapted["backbone.0.bias"][1], net.backbone[0].bias)


def test_the_model_itself_stays(net, episode):
    before = copy.deepcopy(net.state_dict())
    maml = fm.MAML(net, 0.3, 2)
    maml(*episode).loss.backward()
    maml.adapt(*episode[:2])(episode[2])
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert maml.module is net
    assert dict(maml.named_parameters()).keys() == {f"module.{name}" for name in before}

"""`backward` of the algorithms is `self(...).loss.backward()`, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import fastmaml as fm
import pytest
import torch
from fastmaml import functional
from fastmaml.functional import backward
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

LEARNERS: dict[str, Callable[..., fm.MetaLearner]] = {
    "MAML": lambda net, **options: fm.MAML(net, 0.3, 2, **options),
    "ANIL": lambda net, **options: fm.ANIL(net, lr=0.3, steps=2, **options),
    "MetaSGD": lambda net, **options: fm.MetaSGD(net, 0.3, 2, **options),
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As many items as graphs were made."""
    seen: list[int] = []
    apply = backward.Run.apply
    monkeypatch.setattr(backward.Run, "apply", lambda *args: seen.append(1) or apply(*args))
    return seen


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b is None or torch.equal(a, b)


def assert_alike(learner: fm.MetaLearner, other: fm.MetaLearner) -> None:
    pairs = list(zip(learner.parameters(), other.parameters(), strict=True))
    assert any(p.grad is not None for p, _ in pairs)
    for p, q in pairs:
        assert equal(p.grad, q.grad)
        assert p.grad is None or p.grad.stride() == q.grad.stride()


def step(learner: fm.MetaLearner, *episode: Tensor, **options) -> fm.MetaLoss:
    """What `backward` stands for."""
    out = learner(*episode, **options)
    out.loss.backward()
    return out


# --- the same -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_and_gradients_over_two_calls(net, episode, backend, name, reduction, graphs):
    net.unused = nn.Linear(2, 2).double()
    net.backbone[0].bias.requires_grad_(False)
    learner = LEARNERS[name](net, backend=backend)
    other = copy.deepcopy(learner)
    for _ in range(2):
        graphs.clear()
        out = learner.backward(*episode, reduction=reduction)
        assert len(graphs) == (name == "MetaSGD")  # whose rates are views of its parameters
        expected = step(other, *episode, reduction=reduction)
        assert_alike(learner, other)
        assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))
        assert not any(part.requires_grad for part in out)


def test_gradients_are_added_in_place_and_shared_with_nothing(net, episode, backend):
    maml = fm.MAML(net, 0.3, 2, backend=backend)
    out = maml.backward(*episode)
    held = [p.grad for p in net.parameters()]
    pointers = [t.untyped_storage().data_ptr() for t in (*held, *out)]
    assert len({*pointers[: len(held)]}) == len(held)
    assert not {*pointers[: len(held)]} & {*pointers[len(held) :]}
    maml.backward(*episode)
    assert all(p.grad is grad for p, grad in zip(net.parameters(), held, strict=True))


def test_every_option_reaches_the_call(net, episode):
    sx, sy, qx, qy = episode
    maml = fm.MAML(net, 0.3, 2, step_weights=(0.2, 0.3, 0.5), momentum=0.5)
    other = copy.deepcopy(maml)
    options = {"weights": torch.rand(3, 5).double(), "query_weights": torch.rand(3, 6).double()}
    options |= {"support_size": [5, 2, 3], "query_size": [1, 6, 2], "seed": 3}
    maml.backward(sx, sy, qx, qy, **options)
    step(other, sx, sy, qx, qy, **options)
    assert_alike(maml, other)
    found = fm.MAML(net, 0.3, 2).backward(*episode, steps=3)
    assert torch.equal(found.loss, fm.MAML(net, 0.3, 3)(*episode).loss)
    with pytest.raises(TypeError, match="parameters"):
        maml.backward(*episode, parameters={})


# --- where autograd does it -----------------------------------------------------------------------


def test_inputs_that_are_no_leaves(episode, backend):
    def run(do: Callable) -> list[Tensor]:
        torch.manual_seed(0)
        backbone, head = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
        sx, sy, qx, qy = episode
        for _ in range(2):
            do(fm.MAML(head, 0.3, 2, backend=backend), backbone(sx), sy, backbone(qx), qy)
        return [p.grad for p in (*backbone.parameters(), *head.parameters())]

    assert all(map(torch.equal, run(fm.MAML.backward), run(step)))


def test_a_leaf_given_twice(net, episode, backend):
    def run(**options) -> list[Tensor]:
        x = episode[0].clone().requires_grad_()
        net.zero_grad()
        out = functional.meta_loss(net, x, episode[1], x, episode[1], lr=0.3, **options)
        if not options:
            out.loss.backward()
        return [x.grad, *[p.grad.clone() for p in net.parameters()]]

    assert all(map(torch.equal, run(backward=True), run()))


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_tensors_fire_as_ever(net, episode, kind):
    def run(do: Callable) -> list[Tensor]:
        net.zero_grad()
        seen = []
        weight = net.classifier.weight
        handle = getattr(weight, kind)(
            lambda got: seen.append((weight.grad if got is weight else got).clone())
        )
        do(fm.MAML(net, 0.3, 2), *episode)
        handle.remove()
        return seen

    found, expected = run(fm.MAML.backward), run(step)
    assert len(found) == len(expected) == 1
    assert torch.equal(found[0], expected[0])


def test_hooks_of_modules_and_forwards_of_subclasses_count(net, episode):
    class Doubled(fm.MAML):
        def forward(self, *args, **options) -> fm.MetaLoss:
            out = super().forward(*args, **options)
            return out._replace(loss=2 * out.loss)

    maml, doubled, hooked = fm.MAML(net, 0.3, 2), Doubled(net, 0.3, 2), fm.MAML(net, 0.3, 2)
    hooked.register_forward_hook(lambda module, args, out: out._replace(loss=2 * out.loss))
    found = []
    for learner in (maml, doubled, hooked):
        net.zero_grad()
        loss = learner.backward(*episode).loss
        assert not loss.requires_grad
        found.append([loss, *[p.grad for p in net.parameters()]])
    assert all(torch.equal(2 * a, b) for a, b in zip(found[0], found[1], strict=True))
    assert all(map(torch.equal, found[1], found[2]))


def test_who_watches_autograd_sees_it(net, episode, graphs):
    maml, packed = fm.MAML(net, 0.3, 2), []
    with saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        maml.backward(*episode)
    assert packed
    with torch.autograd.detect_anomaly(check_nan=True):
        maml.backward(*episode)
    assert len(graphs) == 2


def test_a_transposed_parameter_has_its_own_strides(episode):
    net = nn.Linear(4, 3).double()
    net.weight = nn.Parameter(net.weight.detach().t().contiguous().t())
    maml = fm.MAML(net, 0.3, 2)
    other = copy.deepcopy(maml)
    maml.backward(*episode)
    step(other, *episode)
    assert_alike(maml, other)


def test_inside_torch_compile(net, episode):
    maml = fm.MAML(net, 0.3, 2)
    other = copy.deepcopy(maml)
    torch._dynamo.reset()
    torch.compile(lambda *data: maml.backward(*data).loss, backend="eager")(*episode)
    step(other, *episode)
    assert_alike(maml, other)


# --- errors, threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_mode(net, episode, mode):
    with mode(), pytest.raises(RuntimeError, match="needs grad mode"):
        fm.MAML(net, 0.3, 2).backward(*episode)


def test_nothing_requires_grad(net, episode):
    own = {name: p.detach() for name, p in net.named_parameters()}
    with pytest.raises(RuntimeError, match="with requires_grad=True, got none"):
        functional.meta_loss(net, *episode, parameters=own, lr=0.1, backward=True)


def test_a_sample_that_an_ended_transform_left_wrapped(net, episode):
    left = []
    x, *rest = episode
    torch.func.grad(lambda inner: left.append(inner) or inner.sum())(x)
    learner, other = (LEARNERS["MAML"](copy.deepcopy(net)) for _ in range(2))
    for _ in range(2):
        learner.backward(left[0], *rest)
        step(other, x, *rest)
        assert_alike(learner, other)
    assert x.grad is None  # the wrapper requires grad, and the sample does not


def test_a_call_first_seen_without_grad_mode(net, episode):
    learner = fm.MetaSGD(net, 0.3, 2)
    other = copy.deepcopy(learner)
    with torch.no_grad():
        learner(*episode)
    learner.backward(*episode)
    step(other, *episode)
    assert_alike(learner, other)


def test_threads_add_to_the_same_parameters(net, episode):
    maml = fm.MAML(net, 0.3, 2)
    maml.backward(*episode)
    once = [p.grad.clone() for p in net.parameters()]
    maml.zero_grad()
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: maml.backward(*episode), range(64)))
    for parameter, gradient in zip(net.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 64 * gradient)

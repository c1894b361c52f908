"""Tracing refuses, by name, what a program would get wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fastmaml.program import TraceError, trace, traced
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from traced_models import function


def test_a_batch_norm_with_another_forward_is_not_taken_for_one() -> None:
    class Negated(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    with pytest.raises(TraceError, match=r"'0' \(Negated\)"):
        trace(nn.Sequential(Negated(5)), (5,))


def _hook(*args: object) -> None:
    return None


HOOKS = ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("path", ["", "0"])
def test_hooks_are_refused(kind: str, path: str) -> None:
    model = nn.Sequential(nn.Linear(5, 4))
    program = traced(model, (5,))
    handle = getattr(model.get_submodule(path), f"register_{kind}")(_hook)
    with pytest.raises(TraceError, match="hooks"):
        traced(model, (5,))
    handle.remove()
    assert traced(model, (5,)) is program


@pytest.mark.parametrize("kind", HOOKS)
def test_global_hooks_are_refused(kind: str) -> None:
    model = nn.Linear(5, 4)
    program = traced(model, (5,))
    handle = getattr(torch.nn.modules.module, f"register_module_{kind}")(_hook)
    try:
        with pytest.raises(TraceError, match="hooks"):
            traced(model, (5,))
    finally:
        handle.remove()
    assert traced(model, (5,)) is program


@pytest.mark.parametrize(
    "wrap",
    [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
    ids=["hook weight_norm", "hook spectral_norm", "weight_norm", "spectral_norm"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parametrizations_are_refused(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(5, 5))
    traced(model, (5,))
    wrap(model[0])
    with pytest.raises(TraceError, match=r"'0' \(.*Linear\): has (hooks|parametrizations)"):
        traced(model, (5,))


@pytest.mark.parametrize("path", ["", "0"])
def test_forward_on_the_instance_is_refused(path: str) -> None:
    model = nn.Sequential(nn.Linear(5, 5))
    traced(model, (5,))
    model.get_submodule(path).forward = lambda x: x
    with pytest.raises(TraceError, match="forward replaced on the instance"):
        traced(model, (5,))


def _no_grad(self, x):
    with torch.no_grad():
        x = self.fc(x)
    return x


def _autocast(self, x):
    with torch.autocast("cpu"):
        return self.fc(x)


def _remembers(self, x):
    self.features = self.fc(x)
    return self.features


def _counts(self, x):
    self.calls += 1
    return self.fc(x)


def _skips_at_random(self, x):
    return self.fc(x) if torch.rand(()) < 2 else x


def _skips_at_python_random(self, x):
    return self.fc(x) if random.random() < 2 else x


def _asks_for_a_tensor(self, x):
    return self.fc(x) if isinstance(x, torch.Tensor) else x


def _catches(self, x):
    try:
        return torch.cumsum(x, 1)
    except ValueError:
        return self.fc(x)


def _branches(self, x):
    if x:
        return self.fc(x)
    return x


def _two_inputs(self, x, y):
    return self.fc(x) + y


UNTRACEABLE = {
    "unknown function": (lambda self, x: torch.cumsum(x, 1), r"Net: cumsum has no op .*\[n, 5\]"),
    "unknown method": (lambda self, x: x.softmax(-1), r"Tensor\.softmax has no op"),
    "attribute": (lambda self, x: x.T.relu(), r"tensor attribute \.T has no op"),
    "cast": (lambda self, x: x.float(), r"Tensor\.float has no op"),
    "matmul": (lambda self, x: x @ self.fc.weight, r"matmul has no op.*parameter 'fc.weight'"),
    "product": (lambda self, x: x * x.sigmoid(), r"mul: wants a number"),
    "learned scale": (lambda self, x: x * self.fc.bias, r"mul: wants a number.*'fc.bias'"),
    "constant": (lambda self, x: x + 1, r"add: wants two values.* and 1"),
    "division by zero": (lambda self, x: x / 0, r"truediv: wants a number other than 0"),
    "reciprocal": (lambda self, x: 1 / x, r"truediv: wants a number"),
    "buffer": (lambda self, x: x + self.table, r"add: .*tensor 'table'"),
    "buffer as weight": (lambda self, x: F.linear(x, self.table), r"parameter .* tensor 'table'"),
    "new tensor": (lambda self, x: x * torch.ones(5), r"tensor of shape \[5\].*made in forward"),
    "new scalar": (lambda self, x: x * torch.tensor(2.0), r"tensor of shape \[\].*made in forward"),
    "index": (lambda self, x: x[:, 0], r"getitem has no op"),
    "out": (lambda self, x: torch.sin(x, out=x), r"form of sin is not supported.*out"),
    "running statistics": (
        lambda self, x: F.batch_norm(x, torch.zeros(5), torch.ones(5)),
        r"made in forward",
    ),
    "no training": (lambda self, x: F.batch_norm(x, None, None), r"running statistics have no op"),
    "gelu": (lambda self, x: F.gelu(x, approximate="fast"), r"gelu: wants approximate"),
    "dropout": (lambda self, x: F.dropout(x, x.size(0)), r"Python number as p"),
    "flatten samples": (lambda self, x: x.flatten(), r"flatten: would merge the sample axis"),
    "view samples": (lambda self, x: x.view(-1), r"view: cannot arrange the 5 numbers"),
    "view others": (lambda self, x: x.view(-1, 10), r"view: cannot arrange the 5 numbers"),
    "view constant": (
        lambda self, x: x.view(3, -1),
        r"view: wants x.shape\[0\] or -1 first.*got 3",
    ),
    "view dtype": (lambda self, x: x.view(torch.int64), r"view: wants x.shape\[0\]"),
    "squeeze": (lambda self, x: x.squeeze(), r"squeeze is not supported"),
    "unsqueeze": (lambda self, x: x.unsqueeze(0), r"before the sample axis"),
    "size arithmetic": (lambda self, x: x / x.shape[0], r"truediv: .*the number of samples"),
    "size comparison": (lambda self, x: x if x.shape[0] > 1 else -x, r"gt has no op .*number of s"),
    "len": (lambda self, x: x.reshape(len(x), -1), r"len\(\) has no op"),
    "broadcast": (lambda self, x: x.unsqueeze(1) + x, r"add: wants two values of one shape"),
    "float()": (lambda self, x: x * float(x), r"forward raised TypeError"),
    "branch": (_branches, r"control flow depends on a value of shape \[n, 5\]"),
    "loop": (lambda self, x: sum(row for row in x), r"iterating over a value"),
    "no_grad": (_no_grad, r"'fc' \(Linear\): changes the gradient mode"),
    "autocast": (_autocast, r"'fc' \(Linear\): changes .* autocast"),
    "detach": (lambda self, x: self.fc(x).detach(), r"Tensor\.detach has no op"),
    "remembers": (_remembers, r"changes attributes of the model"),
    "counts": (_counts, r"changes attributes of the model"),
    "random skip": (_skips_at_random, r"draws random numbers"),
    "python's random": (_skips_at_python_random, r"draws random numbers"),
    "isinstance": (_asks_for_a_tensor, r"asks whether something is a Tensor"),
    "caught error": (_catches, r"cumsum has no op"),
    "two inputs": (_two_inputs, r"forward must take one tensor.*'y'"),
    "no input": (lambda self: self.fc.weight, r"forward must take one tensor"),
    "tuple": (lambda self, x: (self.fc(x), x), r"returns a tuple of 2"),
    "dict": (lambda self, x: {"y": self.fc(x)}, r"returns a dict of 1"),
    "parameter": (lambda self, x: self.fc.weight, r"does not depend on .*parameter 'fc.weight'"),
    "nothing": (lambda self, x: None, r"does not depend on its input: None"),
    "unregistered": (lambda self, x: self.hidden[0](x), r"calls a Linear that is no submodule"),
}


@pytest.mark.parametrize(("forward", "message"), UNTRACEABLE.values(), ids=UNTRACEABLE.keys())
def test_untraceable(forward: Callable[..., object], message: str) -> None:
    model = function(forward, fc=nn.Linear(5, 5), hidden=[nn.Linear(5, 5)], calls=0)
    model.register_buffer("table", torch.ones(5, 5))
    before = dict(vars(model))
    with pytest.raises(TraceError, match=message):
        trace(model, (5,))
    assert vars(model) == before


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (nn.Linear(784, 5), (700,), r"linear: wants 784 features .* 'net.1.weight'.*\[n, 700\]"),
        (nn.Linear(5, 5), (), r"linear: wants 5 features .* got a value of shape \[n\]"),
        (nn.LayerNorm((3, 5)), (5, 3), r"layer_norm: wants .*\(3, 5\), got .*\[n, 5, 3\]"),
        (nn.LayerNorm(5), (), r"layer_norm: wants .* got a value of shape \[n\]"),
        (nn.RMSNorm(5), (4,), r"rms_norm: wants .* got a value of shape \[n, 4\]"),
        (nn.BatchNorm1d(5), (4,), r"batch_norm: wants 4 channels .*running_mean"),
        (nn.BatchNorm1d(5, track_running_stats=False), (4,), r"weight of shape \[4\].*\[5\]"),
        (nn.BatchNorm1d(5), (5, 4, 4), r"expected 2D or 3D input"),
        (nn.BatchNorm2d(5), (5, 4, 4), r"has no op; nn.BatchNorm1d has"),
        (nn.Conv2d(3, 4, 3), (3, 8, 8), r"conv2d has no op"),
        (nn.LSTM(5, 4), (5,), r"raised|has no op"),
        (nn.Unflatten(1, (2, 3)), (5,), r"unflatten: cannot arrange the 5 numbers"),
        (nn.Dropout1d(), (5,), r"dropout1d has no op|raised"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_errors_name_the_module(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    model = nn.Sequential()
    model.net = nn.Sequential(nn.Identity(), module)
    with pytest.raises(TraceError, match=rf"cannot trace Sequential: 'net.1' \(\w+\): .*{message}"):
        trace(model, shape)


@pytest.mark.parametrize("model", [lambda x: x, "model", None])
def test_not_a_module(model: object) -> None:
    with pytest.raises(TypeError, match=rf"must be an nn.Module, got {type(model).__name__}"):
        trace(model, (5,))


@pytest.mark.parametrize("shape", [(5, 0), (-1,), (2.0,)])
def test_not_a_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sample_shape must hold positive integers"):
        trace(nn.ReLU(), shape)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_that_are_not_plain() -> None:
    with pytest.raises(TraceError, match=r"'0' \(LazyLinear\) has parameters without a shape"):
        trace(nn.Sequential(nn.LazyLinear(5)), (5,))
    with pytest.raises(TraceError, match=r"'0' \(\w+\) is a ScriptModule"):
        trace(nn.Sequential(torch.jit.script(nn.Linear(5, 5))), (5,))


def test_a_call_of_its_own_is_refused() -> None:
    class Shouting(nn.ReLU):
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * super().__call__(x)

    with pytest.raises(TraceError, match=r"has a __call__ of its own"):
        trace(Shouting(), (5,))

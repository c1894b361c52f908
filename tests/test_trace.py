"""Tracing: a program computes what its model does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fastmaml.nn import Sin
from fastmaml.program import OP_KINDS, Op, Program, TraceError, trace
from oracle import TORCH_FUNCTIONS
from torch import Tensor, nn
from traced_models import Doubled, function, kinds, names

N = 6


def run(program: Program, model: nn.Module, x: Tensor) -> Tensor:
    parameters = dict(model.named_parameters())
    slots = [parameters[slot.name] for slot in program.slots]
    assert [tuple(p.shape) for p in slots] == [slot.shape for slot in program.slots]
    values = {0: x}
    for op in program.ops:
        operands = [values[i] for i in op.inputs]
        operands += [None if i is None else slots[i] for i in op.parameters]
        if op.kind == "reshape":
            y = operands[0].reshape(len(x), *program.values[op.output])
        else:
            y = TORCH_FUNCTIONS[op.kind](*operands, **op.attributes)
        assert y.shape == (len(x), *program.values[op.output]), op
        values[op.output] = y
    return values[program.output]


def check(model: nn.Module, *shape: int) -> Program:
    """Trace, compare with the model itself, and check that nothing is dead."""
    model = model.double()
    for parameter in model.parameters():  # no zero biases, no unit scales
        nn.init.normal_(parameter, std=0.5)
    program = trace(model, shape)
    x = torch.randn(N, *shape, dtype=torch.float64)
    torch.testing.assert_close(run(program, model, x), model(x.clone()), rtol=1e-12, atol=1e-12)
    assert_lean(program)
    return program


def assert_lean(program: Program) -> None:
    read = {i for op in program.ops for i in op.inputs} | {program.output}
    written = [op.output for op in program.ops]
    assert written == sorted(written) == list(range(1, len(program.values)))
    assert {0, *written} == read | {0}
    assert {i for op in program.ops for i in op.parameters} - {None} == set(
        range(len(program.slots))
    )


# --- modules --------------------------------------------------------------------------------------

MODULES = [
    (nn.Linear(5, 3), (5,), ["linear"]),
    (nn.Linear(5, 3, bias=False), (4, 5), ["linear"]),
    (nn.BatchNorm1d(5, eps=1e-3), (5,), ["batch_norm"]),
    (nn.BatchNorm1d(5), (5, 4), ["batch_norm"]),
    (nn.BatchNorm1d(5, affine=False), (5,), ["batch_norm"]),
    (nn.BatchNorm1d(5, track_running_stats=False), (5,), ["batch_norm"]),
    (nn.LayerNorm(5), (5,), ["layer_norm"]),
    (nn.LayerNorm(5), (3, 5), ["layer_norm"]),
    (nn.LayerNorm((3, 5), eps=1e-2), (2, 3, 5), ["layer_norm"]),
    (nn.LayerNorm((3, 5), elementwise_affine=False), (3, 5), ["layer_norm"]),
    (nn.LayerNorm(5, bias=False), (5,), ["layer_norm"]),
    (nn.RMSNorm(5), (5,), ["rms_norm"]),
    (nn.RMSNorm((3, 5), eps=0.1), (3, 5), ["rms_norm"]),
    (nn.RMSNorm(5, elementwise_affine=False), (5,), ["rms_norm"]),
    (nn.ReLU(), (5,), ["relu"]),
    (nn.ReLU(inplace=True), (5,), ["relu"]),
    (nn.LeakyReLU(0.3), (5,), ["leaky_relu"]),
    (nn.ELU(0.7), (5,), ["elu"]),
    (nn.Tanh(), (5,), ["tanh"]),
    (nn.Sigmoid(), (5,), ["sigmoid"]),
    (nn.GELU(), (5,), ["gelu"]),
    (nn.GELU(approximate="tanh"), (5,), ["gelu_tanh"]),
    (nn.SiLU(), (5,), ["silu"]),
    (nn.Softplus(2.0, 1.5), (5,), ["softplus"]),
    (Sin(), (5,), ["sin"]),
    (Sin(7.0), (5,), ["sin"]),
    (nn.Flatten(), (2, 3, 4), ["reshape"]),
    (nn.Flatten(2), (2, 3, 4), ["reshape"]),
    (nn.Flatten(), (5,), []),
    (nn.Unflatten(1, (2, -1)), (6,), ["reshape"]),
    (nn.Identity(), (5,), []),
    (nn.Dropout().eval(), (5,), []),
    (nn.Dropout(0.0), (5,), []),
    (nn.Sequential(nn.Sequential(nn.Linear(5, 4), nn.Identity()), nn.Tanh()), (5,), None),
    (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3), nn.Linear(4, 2)), (3, 5), None),
]


@pytest.mark.parametrize(
    ("module", "shape", "expected"), MODULES, ids=[str(m).split("\n")[0] for m, _, _ in MODULES]
)
def test_module(module: nn.Module, shape: tuple[int, ...], expected: list[str] | None) -> None:
    program = check(module, *shape)
    assert expected is None or kinds(program) == expected


def test_every_op_is_reached() -> None:
    models = [(module, shape) for module, shape, _ in MODULES]
    models += [(nn.Dropout(), (5,)), (function(lambda self, x: 2 * x + x), (5,))]
    reached = {kind for model, shape in models for kind in kinds(trace(model, shape))}
    assert reached == set(OP_KINDS)


def test_dropout_has_a_stream_for_every_call() -> None:
    drop = nn.Dropout(0.25)
    program = trace(nn.Sequential(drop, nn.ReLU(), drop, nn.Dropout(1.0)), (5,))
    first, _, second, third = program.ops
    assert first == Op("dropout", (0,), 1, (), {"p": 0.25, "stream": 0})
    assert second.attributes == {"p": 0.25, "stream": 1}
    assert third.attributes == {"p": 1.0, "stream": 2}


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_leaves_its_buffers_alone(training: bool) -> None:
    norm = nn.BatchNorm1d(5, momentum=None).train(training)
    before = copy.deepcopy(norm.state_dict())
    assert kinds(trace(norm, (5,))) == ["batch_norm"]
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


# --- functions, methods, operators ----------------------------------------------------------------


def _own_shape(self, x):
    n, *rest = x.shape
    assert rest == [3, 4]
    assert x.dim() == x.ndim == 3
    assert x.size(-1) == x.size(dim=2) == x.shape[2] == 4
    return x.view(n, rest[0] * rest[1])


FUNCTIONS = {
    "relu": lambda self, x: F.relu(torch.relu(x.relu())),
    "leaky_relu, default": lambda self, x: F.leaky_relu(x),
    "leaky_relu, by position": lambda self, x: F.leaky_relu(x, 0.2),
    "leaky_relu, by keyword": lambda self, x: F.leaky_relu(input=x, negative_slope=0.2),
    "elu": lambda self, x: F.elu(x, alpha=0.3),
    "tanh": lambda self, x: F.tanh(torch.tanh(x.tanh())),
    "sigmoid": lambda self, x: F.sigmoid(torch.sigmoid(x.sigmoid())),
    "gelu": lambda self, x: F.gelu(x),
    "gelu, tanh": lambda self, x: F.gelu(x, approximate="tanh"),
    "silu": lambda self, x: F.silu(x),
    "softplus": lambda self, x: F.softplus(x, 3, threshold=0.5),
    "sin": lambda self, x: torch.sin(x.sin()),
    "sin of a multiple": lambda self, x: torch.sin(3 * x) + torch.sin(x / 2) + (-x).sin(),
    "layer_norm": lambda self, x: F.layer_norm(x, x.shape[-1:], eps=0.1),
    "rms_norm": lambda self, x: F.rms_norm(x, [x.size(-1)]),
    "batch_norm": lambda self, x: F.batch_norm(x, None, None, training=True, eps=0.2),
    "dropout, evaluation": lambda self, x: F.dropout(x, 0.5, False),
    "flatten": lambda self, x: x.flatten(1),
    "flatten, by keyword": lambda self, x: torch.flatten(x, start_dim=1),
    "flatten, the last two": lambda self, x: torch.flatten(x, -2, -1),
    "view": lambda self, x: x.view(x.size(0), -1),
    "view, by shape": lambda self, x: x.view(x.shape[0], 2, -1),
    "view, a tuple": lambda self, x: x.view((x.shape[0], 6, 2)),
    "view, samples first": lambda self, x: x.view(-1, 12),
    "view, back": lambda self, x: x.flatten(1).view(x.shape),
    "view, splits an axis": lambda self, x: x.view(*x.shape[:-1], 2, 2),
    "view, in words": _own_shape,
    "reshape": lambda self, x: x.reshape(-1, 4, 3),
    "torch.reshape": lambda self, x: torch.reshape(x, (x.shape[0], 12)),
    "unflatten": lambda self, x: x.unflatten(2, (2, 2)),
    "squeeze and unsqueeze": lambda self, x: x.unsqueeze(-1).squeeze(-1).unsqueeze(1).squeeze(2),
    "contiguous, clone": lambda self, x: x.contiguous().clone().tanh(),
    "scaling": lambda self, x: (2 * x * 0.5 / 3).mul(-1.5).div(2),
    "negation": lambda self, x: -x + torch.neg(x) + x.neg(),
    "addition": lambda self, x: x + torch.add(x, x.tanh(), alpha=0.3) + x.add(x),
    "subtraction": lambda self, x: x.tanh() - x - torch.sub(x, x.sin(), alpha=2),
    "sum of a list": lambda self, x: sum([x, x.tanh(), 0 - x.sin()]),
    "by shape": lambda self, x: x.flatten(1).tanh() if x.dim() > 2 else x,
}


@pytest.mark.parametrize("forward", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_function(forward: Callable[..., Tensor]) -> None:
    check(function(forward), 3, 4)


def test_parameters_in_functions() -> None:
    def forward(self, x):
        x = F.linear(x, self.weight, bias=self.bias)
        x = F.layer_norm(x, (4,), weight=self.bias)
        x = F.layer_norm(x, (4,), None, self.bias)
        x = F.batch_norm(x, None, None, self.gains[0], training=True)
        return F.linear(F.rms_norm(x, (4,), self.gains[1]), self.fc.weight)

    model = function(
        forward,
        weight=nn.Parameter(torch.empty(4, 5)),
        bias=nn.Parameter(torch.empty(4)),
        gains=nn.ParameterList([torch.empty(4), torch.empty(4), torch.empty(4)]),
        fc=nn.Linear(4, 2),
    )
    # gains.2 and fc.bias are unused.
    assert names(check(model, 5)) == ["weight", "bias", "gains.0", "gains.1", "fc.weight"]


def test_siren_multiplies_inside_of_sin() -> None:
    program = check(function(lambda self, x: torch.sin(30 * self.fc(x)), fc=nn.Linear(2, 5)), 2)
    assert kinds(program) == ["linear", "sin"]
    assert program.ops[1].attributes == {"frequency": 30.0}


# --- whole models ---------------------------------------------------------------------------------


class Initialised(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)


class BatchNormOfMine(nn.BatchNorm1d):
    pass


def test_subclasses_are_what_their_forward_says() -> None:
    program = check(nn.Sequential(Doubled(5, 4), Initialised(4, 4), BatchNormOfMine(4)), 5)
    assert kinds(program) == ["linear", "scale", "linear", "batch_norm"]


class Residual(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.scale = 0.5
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 7), nn.GELU(), nn.Linear(7, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 3)
        self.unused = nn.Linear(width, 11)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        for block in self.blocks:
            x = x + self.scale * block(x)
        self.unused(x)
        return x if return_features else self.head(x)


def test_residual_net() -> None:
    model = Residual(5, 2)
    program = check(model, 5)
    used = [name for name, _ in model.named_parameters() if not name.startswith("unused")]
    assert names(program) == used
    assert kinds(program).count("add") == 2


def test_slots_follow_named_parameters() -> None:
    model = function(
        lambda self, x: self.a(self.b(x)),
        a=nn.Linear(4, 4).requires_grad_(False),
        b=nn.Linear(4, 4),
    )
    program = check(model, 4)
    assert names(program) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert program.ops[0].parameters == (2, 3)


def test_tied_parameters_share_a_slot() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    model[2].weight = model[0].weight
    program = check(model, 5)
    assert names(program) == ["0.weight", "0.bias", "2.bias"]
    assert program.ops[0].parameters == (0, 1)
    assert program.ops[2].parameters == (0, 2)


def test_a_module_called_twice() -> None:
    layer = nn.Linear(5, 5)
    assert names(check(nn.Sequential(layer, nn.Tanh(), layer), 5)) == ["0.weight", "0.bias"]


def test_graph_module() -> None:
    check(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(5, 4), nn.ReLU())), 5)


def test_scalar_tensors_scale() -> None:
    model = function(lambda self, x: x * self.a / self.b, b=torch.tensor(4.0))
    model.register_buffer("a", torch.tensor(3.0))
    program = trace(model, (5,))
    assert [op.attributes["factor"] for op in program.ops] == [3.0, 0.25]


def test_traces_the_same_without_grad() -> None:
    with torch.no_grad():
        assert kinds(trace(nn.Sequential(nn.Linear(5, 4), nn.ReLU()), (5,))) == ["linear", "relu"]


# --- in-place operations --------------------------------------------------------------------------


def _overwrites_alias(self, x):
    y = x.tanh()
    z = y
    y += x
    z.mul_(2)
    return y + z


def _overwrites_copy(self, x):
    y = x.tanh()
    residual = y.clone()
    F.relu(y, inplace=True)
    F.leaky_relu_(residual, 0.3)
    return y - residual


IN_PLACE = {
    "methods": lambda self, x: x.tanh().relu_().sin_().add_(x, alpha=2).neg_().div_(3),
    "functions": lambda self, x: torch.relu_(F.elu(F.silu(x * 2, inplace=True), 0.5, True)),
    "through an alias": _overwrites_alias,
    "beside a copy": _overwrites_copy,
    "a module": lambda self, x: self.relu(x * 2),
}


@pytest.mark.parametrize("forward", IN_PLACE.values(), ids=IN_PLACE.keys())
def test_in_place(forward: Callable[..., Tensor]) -> None:
    check(function(forward, relu=nn.ReLU(inplace=True)), 5)


def test_a_residual_that_was_overwritten_in_place() -> None:
    # relu writes into the input of the block, so the residual is its result.
    block = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 5))
    program = check(function(lambda self, x: x + self.block(x), block=block), 5)
    assert program.ops[2].inputs == (1, 2)


def test_reading_a_stale_view_is_refused() -> None:
    def forward(self, x):
        flat = x.flatten(1)
        x.relu_()
        return flat

    with pytest.raises(TraceError, match="in-place operation overwrote"):
        trace(function(forward), (2, 3))


def test_in_place_results_must_fit() -> None:
    with pytest.raises(TraceError, match=r"add_: wants two values of one shape, got \[n, 2, 3\]"):
        trace(function(lambda self, x: x.add_(x.flatten(1))), (2, 3))

"""Modules for the generic executor, and the programs of `programs` as modules."""

from __future__ import annotations

from dataclasses import replace

import torch
from fastmaml.program import InnerLoop, Inputs, ModuleProgram, Program, module_program
from oracle import TORCH_FUNCTIONS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ProgramModule(nn.Module):
    """A program as a module, from torch's functions."""

    def __init__(self, program: Program, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.program = program
        for slot in program.slots:
            setattr(self, slot.name, nn.Parameter(torch.zeros(slot.shape, dtype=dtype)))

    def forward(self, x: Tensor) -> Tensor:
        program, values = self.program, {0: x}
        parameters = [getattr(self, slot.name) for slot in program.slots]
        for op in program.ops:
            operands = [values[v] for v in op.inputs]
            operands += [None if slot is None else parameters[slot] for slot in op.parameters]
            if op.kind == "reshape":
                y = operands[0].reshape(len(x), *program.values[op.output])
            elif op.kind == "dropout":
                p = op.attributes["p"]
                y = F.dropout(operands[0], p) if p else operands[0]
            else:
                y = TORCH_FUNCTIONS[op.kind](*operands, **op.attributes)
            values[op.output] = y
        return values[program.output]


def as_module(loop: InnerLoop, inputs: Inputs) -> tuple[InnerLoop, nn.Module]:
    """A call's loop with its program as a module; the module, which must be kept."""
    x = inputs.samples.x
    module = ProgramModule(loop.program, x.dtype).to(x.device)
    return replace(loop, program=opaque(module, x[0])), module


def opaque(module: nn.Module, x: Tensor) -> ModuleProgram:
    """A module as it is, for samples x [n, ...] of one task."""
    return module_program(module, x, dict(module.named_parameters()), "a test asks for it")


class Recurrent(nn.Module):
    """The last output of a recurrent layer, through a head: [n, L, 3] to [n, 2]."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = layer(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Attention(nn.Module):
    """Self-attention, averaged: [n, L, 4] to [n, 2]."""

    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=self.need_weights)
        return self.head(y.mean(1))


class SoftDecisionTree(nn.Module):
    """Two levels of sigmoid gates over four leaves (Frosst & Hinton 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(3, 3)
        self.leaves = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        p = self.gates(x).sigmoid()
        left, right = p[:, :1], 1 - p[:, :1]
        paths = torch.cat(
            [left * p[:, 1:2], left * (1 - p[:, 1:2]), right * p[:, 2:], right * (1 - p[:, 2:])], 1
        )
        return paths @ self.leaves


class OldSquare(torch.autograd.Function):
    """x^2 without `setup_context`: torch.func refuses it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, y_bar):
        (x,) = ctx.saved_tensors
        return 2 * x * y_bar


class NewSquare(torch.autograd.Function):
    """x^2 with all that torch.func asks for, forward mode included."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        (x,) = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx, y_bar):
        (x,) = ctx.saved_tensors
        return 2 * x * y_bar

    @staticmethod
    def jvp(ctx, x_dot):
        (x,) = ctx.saved_tensors
        return 2 * x * x_dot


class NoForwardMode(torch.autograd.Function):
    """x^2 for reverse mode alone."""

    generate_vmap_rule = True
    forward, setup_context = NewSquare.forward, NewSquare.setup_context
    backward = NewSquare.backward


class Squared(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function.apply(self.first(x)))


class Tied(nn.Module):
    """One weight, forwards and transposed, and under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.decoder(self.encoder(x).softmax(-1))
        return (y @ self.encoder.weight.T)[:, :2]


class ControlFlow(nn.Module):
    """A loop as long as the sequence, and a branch on the number of samples; it counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(5, 2), nn.Linear(2, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        state = x.new_zeros(len(x), 2)
        for position in range(x.shape[1]):
            state = torch.tanh(self.cell(torch.cat([x[:, position], state], 1)))
        return self.head(state) if len(x) > 4 else self.head(2 * state)


class Named(nn.Module):
    """A dict: the mean and the logarithm of the variance of a normal distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 4)
        self.mean, self.log_variance = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.trunk(x))
        return {"mean": self.mean(h), "log_variance": self.log_variance(h)}


def gaussian(prediction: dict[str, Tensor], target: Tensor) -> Tensor:
    """The negative log-likelihood, up to a constant."""
    log_variance = prediction["log_variance"]
    error = (target - prediction["mean"]).square()
    return 0.5 * (error * torch.exp(-log_variance) + log_variance).mean()


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


class WeightNorm(TorchFunctionMode):
    """torch._weight_norm from primitives (Salimans & Kingma 2016, equation 2), with the norms over
    all axes but the first."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._weight_norm:
            v, g, dim = args
            assert dim == 0
            return g * v / v.square().sum(list(range(1, v.dim())), keepdim=True).sqrt()
        return func(*args, **(kwargs or {}))

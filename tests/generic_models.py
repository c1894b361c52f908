"""Modules for the generic executor, and the programs of `programs` as modules."""

from __future__ import annotations

from dataclasses import replace

import torch
from fastmaml.program import InnerLoop, Inputs, ModuleProgram, Program, module_program
from oracle import TORCH_FUNCTIONS
from torch import Tensor, nn
from torch.nn import functional as F


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
                y = F.dropout(operands[0], op.attributes["p"]) if op.attributes["p"] else operands[0]
            else:
                y = TORCH_FUNCTIONS[op.kind](*operands, **op.attributes)
            values[op.output] = y
        return values[program.output]


def as_module(loop: InnerLoop, inputs: Inputs) -> tuple[InnerLoop, nn.Module]:
    """A call's loop with its program as a module; the module, which must be kept."""
    x = inputs.samples.x
    module = ProgramModule(loop.program, x.dtype)
    return replace(loop, program=opaque(module, x[0])), module


def opaque(module: nn.Module, x: Tensor) -> ModuleProgram:
    """A module as it is, for samples x [n, ...] of one task."""
    return module_program(module, x, dict(module.named_parameters()), "a test asks for it")

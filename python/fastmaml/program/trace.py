"""From an nn.Module to a program: torch.fx runs its forward once, on stand-ins for tensors.

Every module is traced through by its own forward, torch.nn's modules too, down to the functions,
methods and operators of `trace_rules`. So a subclass of nn.Linear with another forward is what
its forward says, and tracing knows nothing of modules but for one: BatchNorm1d, which stands for
the statistics of the batch itself, in training and in evaluation, and whose running buffers are
neither read nor updated (what implementations of MAML do: Antoniou et al. 2019, section 3).

What a trace would lose in silence is refused: hooks, parametrizations, a forward replaced on the
instance, no_grad and autocast inside of forward, attributes that forward writes, numbers that it
draws at random, and the question whether something is a Tensor, which stand-ins are not.
"""

from __future__ import annotations

import weakref

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from .graph import Program
from .module_state import modules_lock, restored_attributes
from .trace_builder import TraceError
from .trace_guards import Guards
from .tracer import Tracer

_PROGRAMS_PER_MODEL = 8

_programs: weakref.WeakKeyDictionary[nn.Module, list[tuple[tuple[int, ...], Guards, Program]]] = (
    weakref.WeakKeyDictionary()
)
_refused: weakref.WeakKeyDictionary[nn.Module, list[tuple[tuple[int, ...], Guards, str]]] = (
    weakref.WeakKeyDictionary()
)


def trace(model: nn.Module, sample_shape: tuple[int, ...]) -> Program:
    """The program of a model's forward pass.

    Args:
        model: called as model(x) on x of shape [n, *sample_shape], for any n; it returns one
            tensor, whose axis 0 is that of the samples.
        sample_shape: the shape of one sample.

    Returns:
        A program without dead ops. Its slots are the parameters that it reads, under their names
        and in the order of `model.named_parameters()`, whether they require grad or not.

    Raises:
        TraceError: the model cannot be written as a program; names the module and the operation.
    """
    with modules_lock:
        return _trace(model, _checked(model, sample_shape))[1]


def traced(model: nn.Module, sample_shape: tuple[int, ...]) -> Program:
    """`trace`, from memory while nothing that the trace read of the model has changed.

    What counts as a change is said in `Guards`. A model's programs live as long as the model,
    and only the last few of them. A refusal is remembered in the same way.
    """
    programs = _programs.get(model)
    if programs is not None:
        for shape, guards, program in programs:
            if shape == sample_shape and guards.hold():
                return program
    for shape, guards, message in _refused.get(model, ()):
        if shape == sample_shape and guards.hold():
            raise TraceError(message)
    with modules_lock:
        shape = _checked(model, sample_shape)
        # Hooks may be why, and they come and go: guards that watch for them hold where there
        # are none.
        guards = Guards(model)
        guards.add_called(model.modules())
        try:
            guards, program = _trace(model, shape)
        except TraceError as error:
            refused = _refused.get(model, [])
            _refused[model] = [*refused[1 - _PROGRAMS_PER_MODEL :], (shape, guards, str(error))]
            raise
        programs = _programs.get(model, [])
        _programs[model] = [*programs[1 - _PROGRAMS_PER_MODEL :], (shape, guards, program)]
    return program


def guards_of(model: nn.Module, program: Program) -> Guards:
    """Those of a program that `traced` returned a moment ago."""
    return next(guards for _, guards, known in _programs[model] if known is program)


def _checked(model: nn.Module, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        where = f"cannot trace {type(model).__name__}: '{path}' ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(f"{where} is a ScriptModule; use the module that it was made from")
        if any(isinstance(p, UninitializedParameter) for p in module.parameters(recurse=False)):
            raise TraceError(f"{where} has parameters without a shape; call the model once first")
    shape = tuple(sample_shape)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"sample_shape must hold positive integers, got {sample_shape!r}")
    return shape


def _trace(model: nn.Module, sample_shape: tuple[int, ...]) -> tuple[Guards, Program]:
    guards = Guards(model)
    # Whoever traces under no_grad still wants to know of a no_grad inside of forward.
    with restored_attributes(model), torch.enable_grad():
        tracer = Tracer(model, sample_shape)
        tracer.trace(model)
        guards.add_called(tracer.called)
        guards.add_scalars(tracer.builder.scalars)
        if not guards.hold():
            raise tracer.error(
                "forward changes attributes of the model, which a program does not; compute "
                "without writing to self"
            )
    return guards, tracer.builder.build(tracer.output)

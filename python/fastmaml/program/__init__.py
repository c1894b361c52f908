"""Programs: what is computed, as plain data. Nothing here knows how it is computed."""

from .facts import has_hooks
from .graph import INPUT, OP_KINDS, Op, OpKind, Program, Slot
from .inner_loop import Cotangents, InnerLoop, Inputs, Outputs, Samples
from .loss import LOSS_KINDS, Loss
from .module_program import ModuleProgram, module_program
from .module_state import (
    StatelessModule,
    modules_lock,
    restored_generators,
    seed_generators,
    undisturbed_modules,
)
from .trace import guards_of, trace, traced
from .trace_builder import TraceError
from .trace_guards import Guards

__all__ = [
    "INPUT",
    "LOSS_KINDS",
    "OP_KINDS",
    "Cotangents",
    "Guards",
    "InnerLoop",
    "Inputs",
    "Loss",
    "ModuleProgram",
    "Op",
    "OpKind",
    "Outputs",
    "Program",
    "Samples",
    "Slot",
    "StatelessModule",
    "TraceError",
    "guards_of",
    "has_hooks",
    "module_program",
    "modules_lock",
    "restored_generators",
    "seed_generators",
    "trace",
    "traced",
    "undisturbed_modules",
]

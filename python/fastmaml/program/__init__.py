"""Programs: what is computed, as plain data. Nothing here knows how it is computed."""

from .graph import INPUT, OP_KINDS, Op, OpKind, Program, Slot
from .inner_loop import Cotangents, InnerLoop, Inputs, Outputs, Samples
from .loss import LOSS_KINDS, Loss
from .trace import trace, traced
from .trace_builder import TraceError

__all__ = [
    "INPUT",
    "LOSS_KINDS",
    "OP_KINDS",
    "Cotangents",
    "InnerLoop",
    "Inputs",
    "Loss",
    "Op",
    "OpKind",
    "Outputs",
    "Program",
    "Samples",
    "Slot",
    "TraceError",
    "trace",
    "traced",
]

"""Lowering: a `Program` as the extension takes it."""

from __future__ import annotations

import math

import torch

from ...extension import extension
from ...program import INPUT, OP_KINDS, Loss, Op, Program
from .forms import Layer

# Ops with a kernel, and the one that lowering itself removes.
SUPPORTED_OPS = frozenset({"reshape", *(extension.op_kinds() if extension else ())})


def lowered(
    program: Program,
    adapted: tuple[bool, ...],
    loss: Loss | None,
    dtype: torch.dtype,
    input_active: bool = False,
    dual: tuple[Layer, ...] = (),
) -> object:
    """The extension's program for a float type.

    Args:
        input_active: gives the input a tangent too.
        dual: the layers in the dual form, folded or not. Their weights are not adapted; for each of
            them the program has one more slot, of the coefficients.
    """
    forms = tuple((layer.op, layer.form, layer.coefficients) for layer in dual)
    key = ("lowered", adapted, loss, dtype, input_active, forms)
    if key not in program.derived:
        program.derived[key] = _lower(program, adapted, loss, dtype, input_active, dual)
    return program.derived[key]


def _lower(
    program: Program,
    adapted: tuple[bool, ...],
    loss: Loss | None,
    dtype: torch.dtype,
    input_active: bool,
    dual: tuple[Layer, ...],
) -> object:
    # A reshaped value is the same numbers: it takes the place of the value it came from.
    place = list(range(len(program.values)))
    values = [program.features(value) for value in place]
    slots = [(slot.size, adapts) for slot, adapts in zip(program.slots, adapted, strict=True)]
    layers = {layer.op: layer for layer in dual}
    ops = []
    for index, op in enumerate(program.ops):
        inputs = [place[value] for value in op.inputs]
        if op.kind == "reshape":
            place[op.output] = inputs[0]
            continue
        if index in layers:
            ops += _dual_ops(program, op, layers[index], values, slots)
            continue
        attributes = [
            # torch's default for rms_norm
            torch.finfo(dtype).eps if op.attributes[name] is None else op.attributes[name]
            for name in OP_KINDS[op.kind].attributes
            if name != "axes"
        ]
        ops.append(
            extension.Op(
                op.kind,
                _pair(inputs, -1),
                op.output,
                _pair([-1 if slot is None else slot for slot in op.parameters], -1),
                _row_shape(program, op),
                _pair(attributes, 0.0),
            )
        )
    return extension.Program(
        ops,
        values,
        slots,
        place[program.output],
        "none" if loss is None else loss.kind,
        0.0 if loss is None else loss.label_smoothing,
        input_active,
    )


def _dual_ops(
    program: Program,
    op: Op,
    layer: Layer,
    values: list[int],
    slots: list[tuple[int, bool]],
) -> list[object]:
    """A linear op on the samples in the dual form; see dual.h and fold.h in csrc/program. Adds to
    the sizes of the values and to the slots."""
    weight, bias = op.parameters
    rows, width, out = _row_shape(program, op)
    support, _ = layer.coefficients
    z, k, coefficients = len(values), len(values) + 1, len(slots)
    values += [rows * out, rows * support]
    slots[weight] = (slots[weight][0], False)
    slots.append((support * out, True))
    bias = -1 if bias is None else bias
    nothing, shape = (0.0, 0.0), (rows, width, out)
    is_folded = layer.form == "folded"
    side = extension.Side.support if is_folded else extension.Side.both
    ops = [
        extension.Op("linear", (INPUT, -1), z, (weight, -1), shape, nothing, side),
        extension.Op("gram", (INPUT, -1), k, (-1, -1), (rows, width, support), nothing, side),
        extension.Op(
            "dual", (z, k), op.output, (coefficients, bias), (rows, support, out), nothing, side
        ),
    ]
    if is_folded:
        folded, query = len(values), extension.Side.query
        values.append(0)  # numbers a sample: it is a task's
        ops += [
            extension.Op("fold", (-1, -1), folded, (weight, coefficients), shape, nothing, query),
            extension.Op("folded", (INPUT, folded), op.output, (-1, bias), shape, nothing, query),
        ]
    return ops


def _pair(items: list, filler: float) -> tuple:
    return (*items, filler, filler)[:2]


def _row_shape(program: Program, op: Op) -> tuple[int, int, int]:
    """How an op sees a sample: rows, and numbers in a row of its input and of its output."""
    features = program.features(op.inputs[0])
    width = features
    if op.kind == "linear":
        out, width = program.slots[op.parameters[0]].shape
        return features // width, width, out
    if op.kind == "batch_norm":
        width = program.values[op.inputs[0]][0]  # channels; the rows are positions
    elif op.kind in ("layer_norm", "rms_norm"):
        width = math.prod(program.values[op.inputs[0]][-int(op.attributes["axes"]) :])
    return features // width, width, width

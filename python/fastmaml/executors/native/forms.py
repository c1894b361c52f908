"""The form of each linear layer: dense, with a weight of its own for every task, dual or folded.

SGD moves a weight by sums of outer products with the support samples. A layer that reads the
samples themselves can keep, in the place of each task's weight, one row of coefficients a support
row (csrc/program/dual.h). The products with the shared weight and among the samples are then made
once a task, not at every step, and nothing of the size of tasks times weights exists.

A folded layer is dual for the support; for the query, the coefficients are folded into a weight
(csrc/program/fold.h). That is less work where the query is long and the layer narrow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from ...extension import extension
from ...program import INPUT, InnerLoop, Inputs, Op

Form = Literal["dense", "dual", "folded"]

FORCED: Form | None = None
"""The form of every layer that can have it, whatever it costs. For tests."""


class Machine(NamedTuple):
    """What runs one task: a core, by its instruction set, or a part of a GPU."""

    flops: float
    """Floating-point operations a second in products of the sizes of inner loops."""
    vector: int
    """Bytes of a register, whose lanes are idle past the end of a row."""
    flop_a_byte: float = 1 / 3
    flop_a_product: float = 4000
    """What moving a byte of weights, and beginning a product, takes: in such operations."""
    halves_gram: bool = True
    """Whether one half of a symmetric product is copied to the other."""


CORES = {
    "avx512": Machine(105e9, 64),
    "avx2": Machine(64e9, 32),
    "neon": Machine(26e9, 16),
    "portable": Machine(26e9, 16),
}
"""Fitted to `python -m bench.forms` on a Xeon with AVX-512; NEON, of which nothing was measured, is
taken for portable."""
GPU = Machine(40e9, 1, flop_a_byte=10 / 3, flop_a_product=0, halves_gram=False)
"""Fitted to nothing; it chooses the forms in which the workloads were measured on an H200."""


@dataclass(frozen=True)
class Cost:
    """Of one layer and one task, in a call with its gradient."""

    flop: float
    """Floating-point operations of its matrix products, 2mnk each."""
    moved: float
    """Bytes of weights, or of what takes their place, read and written."""
    seconds: float
    """By the constants above."""


@dataclass(frozen=True)
class Layer:
    """A linear layer on the samples themselves, and what each form of it costs."""

    op: int
    """Its index in the program's ops."""
    slot: int
    """Of its weight."""
    coefficients: tuple[int, int]
    """Of the dual form: support rows, and numbers that come out of a row."""
    refusal: str | None
    """Why it has to be dense; None if it need not."""
    costs: Mapping[Form, Cost]

    @property
    def form(self) -> Form:
        """The form that it runs in."""
        if self.refusal is not None:
            return "dense"
        return FORCED or min(self.costs, key=lambda form: self.costs[form].seconds)

    @property
    def cost(self) -> Cost:
        """Of that form."""
        return self.costs[self.form]

    @property
    def is_dual(self) -> bool:
        """Whether it has coefficients in the place of a weight, folded or not."""
        return self.form != "dense"


def layers(
    loop: InnerLoop, inputs: Inputs, wanted: Collection[str], hands_out_weights: bool
) -> tuple[Layer, ...]:
    """The adapted layers that read the samples themselves.

    Args:
        wanted: keys of the inputs whose gradients are wanted.
        hands_out_weights: whether adapted parameters, or cotangents of them, are tensors of the
            call.
    """
    program, found = loop.program, []
    if inputs.support is None or loop.steps == 0:
        return ()
    read = {INPUT}
    for index, op in enumerate(program.ops):
        if op.kind == "reshape" and op.inputs[0] in read:
            read.add(op.output)
        elif op.kind == "linear" and op.inputs[0] in read and loop.adapted[op.parameters[0]]:
            refusal = _refusal(loop, inputs, op, wanted, hands_out_weights)
            found.append(_layer(loop, inputs, index, refusal))
    return tuple(found)


def _refusal(
    loop: InnerLoop, inputs: Inputs, op: Op, wanted: Collection[str], hands_out_weights: bool
) -> str | None:
    """Why a layer has to be dense, or None."""
    program, slot = loop.program, op.parameters[0]
    rate = inputs.rates[slot]
    if hands_out_weights:
        return "the call takes or returns adapted weights"
    if sum(other.parameters.count(slot) for other in program.ops) > 1:
        return "its weight is tied to another layer's"
    if inputs.per_task(program, slot):
        return "every task starts from a weight of its own"
    if rate.numel() != rate.shape[0]:
        return "each element of its weight has a rate of its own"
    if not {"support_x", "query_x"}.isdisjoint(wanted):
        return "gradients of the samples are wanted"
    return None


def _layer(loop: InnerLoop, inputs: Inputs, index: int, refusal: str | None) -> Layer:
    """Costs are those of a call with its gradient, so that one without finds the same bits."""
    program, op = loop.program, loop.program.ops[index]
    slot = op.parameters[0]
    out, width = program.slots[slot].shape
    rows = program.features(op.inputs[0]) // width
    support, query = (
        0 if samples is None else rows * samples.x.shape[1]
        for samples in (inputs.support, inputs.query)
    )
    steps, losses = loop.steps, sum(map(bool, map(loop.step_weight, range(loop.steps + 1))))
    passes = 1 if loop.first_order else 2
    moves = 2 + 5 * steps * passes + 3 * losses
    weight, coefficients, number = out * width, out * support, inputs.dtype.itemsize
    machine = CORES[extension.isa()] if inputs.device.type == "cpu" else GPU
    lanes = max(machine.vector // number, 1)

    def cost(once: float, again: float, moved: float, products: float, idle: float = 1) -> Cost:
        """Of work that is done once and in every pass, there with so many lanes for one in use."""
        work = once + idle * again
        work += machine.flop_a_byte * moved + machine.flop_a_product * products
        return Cost(once + again, moved, work / machine.flops)

    # y and the weight's gradient at each step, and the tangents of both; at each query loss alike
    in_steps, in_losses = 2 * support * steps * passes, 2 * query * losses
    by_pass = 2 * (steps * passes + losses)
    # In the dual form: y by the shared weight and that one's gradient, and rows among samples.
    # Those among the support's own are half, where no factor is turned around (csrc/team/gemm.h).
    shared = 4 * weight
    is_half = machine.halves_gram and support > 1 and width > max(64, 5 * support)
    of_support = support * (shared + (1 if is_half else 2) * support * width)
    of_query = query * (shared + 2 * support * width)
    # At each step y alone: the coefficients' gradient is y's. Its columns are the layer's outputs.
    idle = -(-out // lanes) * lanes / out
    # of a folded query loss: the weight and the coefficients' gradient, y and the weight's gradient
    by_loss = 2 * weight * (2 * support + 2 * query)
    costs: dict[Form, Cost] = {
        "dense": cost(
            2 * weight * (in_steps + in_losses), 0, number * weight * (moves + 3), by_pass
        ),
        "dual": cost(
            of_support + of_query,
            coefficients * (in_steps + 2 * in_losses),
            number * (7 * weight + coefficients * moves),
            5 + by_pass - steps * passes,
            idle,
        ),
        "folded": cost(
            of_support + by_loss * losses,
            coefficients * in_steps,
            number * (4 * (1 + losses) * weight + coefficients * moves),
            5 + by_pass - steps * passes + 2 * losses,
            idle,
        ),
    }
    return Layer(index, slot, (support, out), refusal, MappingProxyType(costs))

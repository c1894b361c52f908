"""The generic executor: any module, and any loss, that PyTorch can differentiate twice.

It calls the module as it is (`overrides` says with which exceptions) and runs the recursion of
every other executor: gradients and Hessian-vector products of one pass at a time, by torch.func or
classic autograd (`gears`), of as many tasks side by side as a budget of memory holds (`chunks`).
Nothing is kept over the steps but the adapted parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set

import torch
from torch import Tensor

from ...program import (
    Cotangents,
    InnerLoop,
    Inputs,
    ModuleProgram,
    Outputs,
    restored_generators,
    undisturbed_modules,
)
from . import inner_loop
from .chunks import Chunks
from .gears import GEARS
from .note import DerivativeWarning, GenericNote
from .outputs import Collected
from .trial import describe

__all__ = ["GEARS", "DerivativeWarning", "GenericNote", "describe", "hvp", "refusal", "run"]


def refusal(loop: InnerLoop, inputs: Inputs) -> str | None:
    """Why this call cannot run here, or None."""
    if not isinstance(loop.program, ModuleProgram):
        return "it runs models as they are, and this one is traced; backend='generic' asks for it"
    return None


def run(
    loop: InnerLoop,
    inputs: Inputs,
    *,
    adapted: bool = False,
    cotangents: Cotangents | None = None,
    wanted: Set[str] = frozenset(),
) -> Outputs:
    """The inner loop of every task; with `cotangents` also the gradients of the keys `wanted`.

    The prediction is a tuple of tensors where the model does not return one tensor.

    Raises:
        BackendError: PyTorch cannot differentiate the model or the loss as often as it takes.
        Exception: what the model or the loss raises.
    """
    with _plain(loop, inputs) as inputs:
        cotangents = None if cotangents is None else cotangents.map(_without_autograd)
        gradients = {
            key: torch.zeros_like(tensor, memory_format=torch.contiguous_format)
            for key, tensor in inputs.tensors(loop.program)
            if cotangents is not None and key in wanted
        }
        collected = Collected(loop, inputs, adapted)
        for chunk, choices in Chunks(loop, inputs, cotangents, frozenset(gradients)):
            collected.add(chunk, inner_loop.run(chunk, choices, gradients))
        return collected.outputs(gradients)


def hvp(
    loop: InnerLoop, inputs: Inputs, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """H u of every task: H the Hessian of the support loss by the adapted slots."""
    with _plain(loop, inputs) as inputs:
        vectors = [None if vector is None else _without_autograd(vector) for vector in vectors]
        products = [None if vector is None else torch.zeros_like(vector) for vector in vectors]
        for chunk, choice in Chunks(loop, inputs, None, frozenset()).for_products():
            adapted = chunk.parameters(adapted=True)
            u = {key: vectors[slot][chunk.tasks] for slot, key in adapted}
            found = inner_loop.product(chunk, choice, u)
            for slot, key in adapted:
                products[slot][chunk.tasks] = found[key]
        return tuple(products)


@contextlib.contextmanager
def _plain(loop: InnerLoop, inputs: Inputs) -> Iterator[Inputs]:
    """The inputs without autograd's marks, and torch's modes and generators put back after.

    One call at a time: modules and generators are there once, for all threads.
    """
    plain = inputs.map(_without_autograd)
    with contextlib.ExitStack() as stack:
        # first: it lets autograd use its threads again, which undisturbed_modules keeps it from
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(undisturbed_modules(loop.program.module, plain.device))
        stack.enter_context(torch.no_grad())
        if loop.program.has_dropout:
            stack.enter_context(restored_generators(plain.device))
        yield plain


def _without_autograd(tensor: Tensor) -> Tensor:
    """A copy of what was made in inference mode: autograd, used inside, does not take it."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()

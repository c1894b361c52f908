"""What an executor is asked to run: the inner loop of T tasks, and what comes back.

The mathematics, for one task. phi_0 are the adapted parameters; for k = 0..K-1

    g_k = grad l_s(phi_k)                       l_s: the loss on the support samples
    s_{k+1} = momentum * s_k + g_k              s_0 = 0
    phi_{k+1} = phi_k - rate_k (.) s_{k+1}
    task_loss = sum_k c_k l_q(phi_k)            l_q: the loss on the query samples, k = 0..K

and the gradients come from the adjoint recursion, with v the adjoint of phi and r that of s:

    v_K = c_K grad l_q(phi_K) + given cotangents;   r_K = 0
    u_k = r_{k+1} - rate_k (.) v_{k+1};             r_k = momentum * u_k
    v_k = v_{k+1} + H_k u_k + c_k grad l_q(phi_k);  d rate_k = -v_{k+1} (.) s_{k+1}

First order (FOMAML, Finn et al. 2017, section 5.2) drops H_k u_k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .graph import Program
from .loss import Loss
from .module_program import ModuleProgram


@dataclass(frozen=True)
class InnerLoop:
    """The part of a call that holds no tensor."""

    program: Program | ModuleProgram
    loss: Loss | None
    """None only where no loss is read: no steps, and the query for its prediction alone."""
    adapted: tuple[bool, ...]
    """Which slots the inner loop adapts; the others are shared by all tasks and stay."""
    steps: int
    momentum: float = 0.0
    step_weights: tuple[float, ...] = ()
    """c_0..c_K; empty means that only c_K = 1 counts."""
    first_order: bool = False
    memory_budget: int | None = None
    """Bytes that a call may take beside its tensors; None: as many as it likes."""

    def step_weight(self, step: int) -> float:
        """c_step, the weight of the query loss after `step` inner steps."""
        return self.step_weights[step] if self.step_weights else float(step == self.steps)


@dataclass(eq=False)
class Samples:
    """The support or the query samples of T tasks, n each."""

    x: Tensor
    """[T, n, *sample]; of any dtype where the model runs as it is."""
    y: Tensor | None = None
    """[T, n] int64 classes, or float [T, n, *output]; [T, n, ...] of any dtype for a callable loss;
    None only for a query without a loss."""
    weights: Tensor | None = None
    """[T, n]; None weighs every sample of a task by 1 / its number of samples."""
    size: tuple[int, ...] | None = None
    """How many samples of each task are real, 1..n; None: all n. The others are never read."""


@dataclass(eq=False)
class Inputs:
    """The tensors of a call: one device, one float dtype, valid (checked before they get here).

    Each differentiable tensor has a key, by which gradients are asked for and returned:
    "parameter:NAME", "rate:NAME" with the slot's name, and "support_x", "support_y",
    "support_weights", "query_x", "query_y", "query_weights".
    """

    parameters: tuple[Tensor, ...]
    """One a slot: [*shape], or [T, *shape] where every task starts from its own."""
    rates: tuple[Tensor | None, ...]
    """One a slot, [S, *shape] per element or [S] per tensor; step k reads row min(k, S-1).
    None where the slot is not adapted, and everywhere if steps is 0."""
    support: Samples | None = None
    """None only if steps is 0."""
    query: Samples | None = None
    """None where only the adapted parameters are wanted."""
    seed: int = 0
    """What dropout's masks are drawn from, 0..2^32-1."""

    @property
    def samples(self) -> Samples:
        """The support, or the query where there is no support."""
        samples = self.support or self.query
        assert samples is not None
        return samples

    @property
    def tasks(self) -> int:
        """T, the number of tasks."""
        return self.samples.x.shape[0]

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self.samples.x.device

    @property
    def dtype(self) -> torch.dtype:
        """The float dtype."""
        return self.parameters[0].dtype if self.parameters else self.samples.x.dtype

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with `function` of each tensor."""

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        def of_samples(samples: Samples | None) -> Samples | None:
            if samples is None:
                return None
            return Samples(function(samples.x), of(samples.y), of(samples.weights), samples.size)

        return replace(
            self,
            parameters=tuple(function(parameter) for parameter in self.parameters),
            rates=tuple(of(rate) for rate in self.rates),
            support=of_samples(self.support),
            query=of_samples(self.query),
        )

    def per_task(self, program: Program | ModuleProgram, slot: int) -> bool:
        """Whether every task starts from its own copy of a parameter."""
        return self.parameters[slot].dim() == len(program.slots[slot].shape) + 1

    def flat(self) -> list[Tensor]:
        """The tensors that are there, in the order of `tensors`."""
        flat = [*self.parameters, *[rate for rate in self.rates if rate is not None]]
        for samples in (self.support, self.query):
            if samples is not None:
                parts = (samples.x, samples.y, samples.weights)
                flat += [tensor for tensor in parts if tensor is not None]
        return flat

    def tensors(self, program: Program | ModuleProgram) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) of each tensor that is there, in a fixed order."""
        for slot, parameter in zip(program.slots, self.parameters, strict=True):
            yield f"parameter:{slot.name}", parameter
        for slot, rate in zip(program.slots, self.rates, strict=True):
            if rate is not None:
                yield f"rate:{slot.name}", rate
        for name, samples in (("support", self.support), ("query", self.query)):
            if samples is not None:
                for part in ("x", "y", "weights"):
                    tensor = getattr(samples, part)
                    if tensor is not None:
                        yield f"{name}_{part}", tensor


@dataclass(eq=False)
class Cotangents:
    """The derivatives of some outer scalar by the outputs; None is zero."""

    task_loss: Tensor | None = None
    """[T]"""
    prediction: Tensor | tuple[Tensor | None, ...] | None = None
    """[T, m, *output]; one a leaf where the model does not return one tensor."""
    adapted: tuple[Tensor | None, ...] | None = None
    """One a slot, [T, *shape]; None for slots that are not adapted."""

    def given(self) -> tuple[Any, ...]:
        """Which of them there are."""
        adapted = self.adapted and tuple(bar is not None for bar in self.adapted)
        return self.task_loss is not None, self.prediction is not None, adapted

    def map(self, function: Callable[[Tensor], Tensor]) -> Cotangents:
        """The same with `function` of each tensor."""

        def of(part: Any) -> Any:
            if isinstance(part, tuple):
                return tuple(of(item) for item in part)
            return None if part is None else function(part)

        return Cotangents(of(self.task_loss), of(self.prediction), of(self.adapted))


@dataclass(eq=False)
class Outputs:
    """What a run returns."""

    task_loss: Tensor | None = None
    """[T]; None without a query or its targets."""
    prediction: Tensor | tuple[Tensor, ...] | None = None
    """[T, m, *output] at phi_K, zero beyond a task's query size; None without a query. The leaves,
    [T, ...] each, where the model does not return one tensor."""
    adapted: tuple[Tensor | None, ...] | None = None
    """phi_K, one a slot, [T, *shape]; None for slots that are not adapted, None if not asked."""
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """By key of `Inputs`, each of its tensor's shape: summed over tasks where it is shared."""

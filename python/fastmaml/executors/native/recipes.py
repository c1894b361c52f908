"""Calls of the extension: what all calls of the same shapes share, and then one call's tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ...extension import extension
from ...program import Cotangents, InnerLoop, Inputs, Outputs, Samples, Slot
from . import forms
from .forms import Layer
from .launch import CpuLauncher, CudaLauncher, Launcher, Trajectory
from .lockstep import lockstep
from .lowering import lowered


def layers(
    loop: InnerLoop, inputs: Inputs, wanted: Collection[str], hands_out_weights: bool
) -> tuple[Layer, ...]:
    """The layers of a call that may have other forms than dense; see `forms.layers`."""
    found = forms.layers(loop, inputs, wanted, hands_out_weights)
    saved = sum(layer.costs["dense"].seconds - layer.cost.seconds for layer in found)
    if saved == 0 or forms.FORCED is not None:
        return found
    together = lockstep(loop, inputs, wanted, saved)
    if together is None or together.why_not is not None:
        return found
    return tuple(replace(layer, refusal="the tasks run in lockstep") for layer in found)


class Recipe:
    """A call without its tensors, described to the extension once for all calls of its shapes.

    The description names a tensor by its index in a table of addresses that each run makes anew:
    none (0), the inputs in the order of `Inputs.flat`, on a GPU the sizes of padded tasks, then
    what subclasses add by `_given` (the caller's) and by `_made` (the results), in that order.
    """

    def __init__(self, loop: InnerLoop, inputs: Inputs, dual: tuple[Layer, ...] = ()) -> None:
        program = loop.program
        samples = inputs.query or inputs.support
        assert samples is not None
        self._dtype, self._device = samples.x.dtype, samples.x.device
        self._is_double = self._dtype == torch.float64
        self._dual = dual
        self._lowered = lowered(program, loop.adapted, loop.loss, self._dtype, dual=dual)
        self._index = {key: 1 + i for i, (key, _) in enumerate(inputs.tensors(program))}
        self._constants = [
            # from pinned memory, or the host would wait for the device
            torch.tensor(samples.size).pin_memory().to(self._device, non_blocking=True)
            for samples in (inputs.support, inputs.query)
            if samples is not None and samples.size is not None and self._device.type == "cuda"
        ]
        self._next_constant = 1 + len(self._index)
        self._entries = self._next_constant + len(self._constants)
        self._makers: list[tuple[Callable[[Tensor], Tensor], Tensor]] = []
        self._call = call = extension.Call()
        call.tasks = inputs.tasks
        call.steps = loop.steps
        call.momentum = loop.momentum
        call.step_weights = [loop.step_weight(k) for k in range(loop.steps + 1)]
        call.first_order = loop.first_order
        call.memory_budget = loop.memory_budget

    def _given(self) -> int:
        """The index of one more tensor that is given to each run."""
        assert not self._makers, "what is made follows what is given"
        self._entries += 1
        return self._entries - 1

    def _made(self, *shape: int, zero: bool = False) -> int:
        """The index of one more tensor that each run makes; `zero` where the call adds to it."""
        # The fastest way to a new tensor is from one like it. This one holds a single number; where
        # that is all, its strides must not be 0, or autograd would copy a gradient like it.
        one = torch.empty((1,) * len(shape), dtype=self._dtype, device=self._device)
        like = one.expand(shape)
        self._makers.append((torch.zeros_like if zero else torch.empty_like, like))
        self._entries += 1
        return self._entries - 1

    def _describe_inputs(self, loop: InnerLoop, inputs: Inputs, grads: dict[str, int]) -> None:
        """Parameters, rates and samples, and where their gradients go."""
        slots, at_rest = loop.program.slots, {layer.slot for layer in self._dual}
        for index, slot in enumerate(slots):
            key = f"parameter:{slot.name}"
            per_task = inputs.per_task(loop.program, index)
            self._call.add_parameter(self._index[key], per_task, grads.get(key, 0))
            rate, rate_grads = (None, {}) if index in at_rest else (inputs.rates[index], grads)
            self._add_rate(slot, rate, rate_grads)
        for layer in self._dual:  # coefficients are zero at first, and move at their weight's rate
            self._call.add_parameter(0, False, 0)
            self._add_rate(slots[layer.slot], inputs.rates[layer.slot], grads)
        if inputs.support is not None:
            self._call.support = self._samples("support", inputs.support, grads)
        if inputs.query is not None:
            self._call.query = self._samples("query", inputs.query, grads)

    def _add_rate(self, slot: Slot, rate: Tensor | None, grads: dict[str, int]) -> None:
        key = f"rate:{slot.name}"
        rows = 1 if rate is None else rate.shape[0]
        elements = 1 if rate is None else rate.numel() // rows
        self._call.add_rate(self._index.get(key, 0), rows, elements, grads.get(key, 0))

    def _samples(self, name: str, samples: Samples, grads: dict[str, int]) -> object:
        described = extension.Samples()
        described.count = samples.x.shape[1]
        if samples.size is not None and self._constants:
            described.size_on_device = self._next_constant
            self._next_constant += 1
        elif samples.size is not None:
            described.size = list(samples.size)
        described.x = self._index[f"{name}_x"]
        if samples.y is not None and samples.y.dtype == torch.int64:
            described.labels = self._index[f"{name}_y"]
        elif samples.y is not None:
            described.target = self._index[f"{name}_y"]
        described.weights = self._index.get(f"{name}_weights", 0)
        described.x_grad = grads.get(f"{name}_x", 0)
        described.target_grad = grads.get(f"{name}_y", 0)
        described.weights_grad = grads.get(f"{name}_weights", 0)
        return described

    @cached_property
    def _launcher(self) -> Launcher:
        """Once all is described."""
        if self._device.type == "cuda":
            return CudaLauncher(
                self._lowered, self._call, self._is_double, self._device, self._entries
            )
        return CpuLauncher(self._lowered, self._call, self._is_double, self._entries)

    def placement(self) -> str | None:
        """How calls lie on a GPU; None on a CPU."""
        return self._launcher.placement()

    def trajectory(self) -> Trajectory | None:
        """What calls keep of their inner steps on a CPU; None on a GPU."""
        return self._launcher.trajectory()

    def _run(self, tensors: Sequence[Tensor], seed: int, given: Iterable[Tensor]) -> list[Tensor]:
        """Runs the call; what it made."""
        made = [make(like) for make, like in self._makers]
        self._launcher.run([*tensors, *self._constants, *given, *made], seed)
        return made


class RunRecipe(Recipe):
    """The inner loop of every task; see `executors` for the arguments."""

    def __init__(
        self,
        loop: InnerLoop,
        inputs: Inputs,
        *,
        adapted: bool = False,
        cotangents: Cotangents | None = None,
        wanted: Collection[str] = frozenset(),
    ) -> None:
        hands_out_weights = adapted or (cotangents is not None and cotangents.adapted is not None)
        dual = [
            layer
            for layer in layers(loop, inputs, wanted if cotangents else (), hands_out_weights)
            if layer.is_dual
        ]
        super().__init__(loop, inputs, tuple(dual))
        call, slots, query = self._call, loop.program.slots, inputs.query
        if cotangents is not None and wanted:
            call.differentiate = True
            # The query's own gradients need the inner steps where losses between them count.
            call.through_steps = any(map(loop.step_weight, range(loop.steps))) or any(
                not key.startswith("query_") for key in wanted
            )
            if cotangents.task_loss is not None:
                call.task_loss_bar = self._given()
            if cotangents.prediction is not None:
                call.prediction_bar = self._given()
            if cotangents.adapted is not None:
                call.adapted_bar = [
                    0 if bar is None else self._given() for bar in cotangents.adapted
                ]
        self._has_task_loss = query is not None and query.y is not None
        self._has_prediction = query is not None
        self._adapted = loop.adapted if adapted else None
        if self._has_task_loss:
            call.task_loss = self._made(inputs.tasks)
        if query is not None:
            output = loop.program.values[loop.program.output]
            shape = (inputs.tasks, query.x.shape[1], *output)
            call.prediction = self._made(*shape, zero=query.size is not None)
        if adapted:
            call.adapted = [
                self._made(inputs.tasks, *slot.shape) if flag else 0
                for slot, flag in zip(slots, loop.adapted, strict=True)
            ]
        self._wanted = tuple(key for key in self._index if key in wanted and call.differentiate)
        shared = {
            f"parameter:{slot.name}"
            for index, slot in enumerate(slots)
            if not inputs.per_task(loop.program, index)
        }
        shapes = {key: tensor.shape for key, tensor in inputs.tensors(loop.program)}
        grads = {
            # what is summed over tasks is written, the rest is added to
            key: self._made(*shapes[key], zero=not (key in shared or key.startswith("rate:")))
            for key in self._wanted
        }
        self._describe_inputs(loop, inputs, grads)

    def run(self, tensors: Sequence[Tensor], seed: int, cotangents: Cotangents | None) -> Outputs:
        """Runs a call of these shapes on tensors in the order of `Inputs.flat`."""
        given: list[Tensor | None] = []
        if cotangents is not None and self._wanted:
            given += [cotangents.task_loss, cotangents.prediction, *(cotangents.adapted or ())]
        made = self._run(tensors, seed, [bar for bar in given if bar is not None])
        gradients = dict(zip(self._wanted, made[len(made) - len(self._wanted) :], strict=True))
        rest = iter(made)
        return Outputs(
            next(rest) if self._has_task_loss else None,
            next(rest) if self._has_prediction else None,
            self._adapted and tuple(next(rest) if flag else None for flag in self._adapted),
            gradients,
        )


class ProductRecipe(Recipe):
    """H u of every task."""

    def __init__(self, loop: InnerLoop, inputs: Inputs) -> None:
        super().__init__(loop, inputs)
        self._adapted = loop.adapted
        self._call.vectors = [self._given() if flag else 0 for flag in loop.adapted]
        self._call.products = [
            self._made(inputs.tasks, *slot.shape) if flag else 0
            for slot, flag in zip(loop.program.slots, loop.adapted, strict=True)
        ]
        self._describe_inputs(loop, inputs, {})

    def run(self, inputs: Inputs, vectors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Runs a call of these shapes."""
        given = [vector for vector in vectors if vector is not None]
        made = iter(self._run(inputs.flat(), inputs.seed, given))
        return tuple(next(made) if flag else None for flag in self._adapted)

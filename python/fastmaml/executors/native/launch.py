"""How a call's description and its tensors reach the extension: on the CPU, and on a GPU."""

from __future__ import annotations

import warnings
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...extension import cuda_extension, extension
from . import compiled, nvrtc


class Trajectory(NamedTuple):
    """What a call on a CPU keeps of its inner steps for the gradient, in how much memory."""

    teams: int
    """Tasks, or groups of them in lockstep, that run at the same time."""
    threads: int
    """Of all teams."""
    bytes: int
    """That the call takes beside its tensors."""
    kept: int
    """Bytes of those that hold what one team keeps of the steps."""
    segment: int
    """How many steps it keeps at a time. Where there are more, it keeps checkpoints so many steps
    apart, and computes all but the last segment again. 0: no gradient reads any."""
    activations: int
    """Of how many of the last of those it keeps activations; others' are computed again. 0: no
    gradient reads any."""


class Launcher(Protocol):
    """Runs calls of one description."""

    def run(self, tensors: list[Tensor], seed: int) -> None:
        """The call on its table of tensors; on a GPU it returns before it is done."""

    def placement(self) -> str | None:
        """How it lies on a GPU; None on a CPU."""

    def trajectory(self) -> Trajectory | None:
        """What it keeps on a CPU; None on a GPU."""


class CpuLauncher:
    """On the cores of this machine, as many as torch uses.

    Args:
        entries: of the table of addresses.
    """

    def __init__(self, program: object, call: object, is_double: bool, entries: int) -> None:
        recipe = extension.DoubleRecipe if is_double else extension.FloatRecipe
        self._recipe = recipe(program, call)
        self._entries = entries

    def run(self, tensors: list[Tensor], seed: int) -> None:
        """The call on its table of tensors."""
        self._recipe.run(tensors, seed, torch.get_num_threads())

    def placement(self) -> None:
        """Nothing to tell."""

    def trajectory(self) -> Trajectory:
        """What it keeps."""
        return Trajectory(*self._recipe.plan(self._entries, torch.get_num_threads()))


class CudaLauncher:
    """On the current stream of a GPU, in memory of torch's allocator.

    After some runs, by a kernel that is compiled for them (compiled.py).

    Args:
        entries: of the table of addresses.
    """

    def __init__(
        self, program: object, call: object, is_double: bool, device: torch.device, entries: int
    ) -> None:
        self._extension = cuda_extension()
        self._call = program, call
        self._is_double = is_double
        self._device = device
        self._entries = entries
        self._plan = self._extension.plan(*self._call, entries, is_double, device.index)
        self._runs = 0
        self._kernel: object = None
        self._failed = False  # to compile it
        self._workspace = torch.empty((), dtype=self._dtype, device=device).expand(
            self._plan.workspace
        )

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self._is_double else torch.float32

    def run(self, tensors: list[Tensor], seed: int) -> None:
        """The call on its table of tensors; returns before it is done."""
        workspace = torch.empty_like(self._workspace)
        if self._kernel is None and not self._failed:
            self._maybe_compile()
        self._extension.run(
            self._plan,
            self._kernel,
            *self._call,
            tensors,
            seed,
            self._is_double,
            workspace.data_ptr(),
            torch.cuda.current_stream(self._device).cuda_stream,
        )

    def _maybe_compile(self) -> None:
        """Before a run: makes the kernel if it is time to."""
        before = compiled.runs_before()
        self._runs += 1
        # while a graph is captured, nothing can be loaded
        if before is None or self._runs <= before or torch.cuda.is_current_stream_capturing():
            return
        source = self._extension.source(self._plan, *self._call, self._entries, self._is_double)
        try:
            self._kernel = compiled.kernel(source, self._device.index)
        except (nvrtc.CompileError, RuntimeError) as error:
            self._failed = True
            warnings.warn(f"no kernel is compiled for these calls: {error}", stacklevel=2)

    def _kernel_of_runs(self) -> str:
        before = compiled.runs_before()
        if before is None:
            return "the kernel for all calls (FASTMAML_COMPILE is never)"
        return f"the kernel for all calls, and after {before} runs one compiled for these"

    def placement(self) -> str:
        """Where a task runs, where its memory is, and which kernel runs it."""
        plan, number = self._plan, self._dtype.itemsize
        kib = number / 1024
        return (
            f"{plan.blocks_a_task} x {plan.lanes} threads a task, {plan.teams} tasks at a time, up "
            f"to {plan.blocks_together} on one multiprocessor; {plan.fast_size * kib:.3g} KiB of a "
            f"task in shared memory and {plan.slow_size * kib:.3g} KiB in global; workspace "
            f"{plan.workspace * kib / 1024:.3g} MiB; {self._kernel_of_runs()}"
        )

    def trajectory(self) -> None:
        """Nothing to tell."""

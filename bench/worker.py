"""A process of its own for one contender on one workload, and the parent's handle on it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import fastmaml as fm
import numpy as np
import torch

from .contenders import BASE, CONTENDERS
from .memory import PeakMemory
from .step import Gradients, Step, Unavailable, time_calls
from .workloads import WARM_UP, named

_LONG_SECONDS = 3.0
"""See `Setting.is_hasty`."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all contenders."""

    device: str
    """"cpu" or "cuda"."""
    cores: tuple[int, ...]
    """The cores of this machine to run on: one thread each, of torch, of ours and of JAX."""
    dtype: torch.dtype = torch.float32
    measures_memory: bool = True
    tf32: bool = False
    """Whether the products of all but ours may round their factors to TF32 on a GPU."""
    is_hasty: bool = False
    """Whether a loop over tasks whose first call takes long makes no second before its turn."""
    base: Path | None = None
    """The folder in which the contender `BASE` finds its fastmaml."""


@dataclass(frozen=True)
class Prepared:
    """What a contender's first calls showed."""

    gradients: dict[str, np.ndarray]
    first_seconds: float
    """Of the first call: what is traced or compiled for this workload is in it."""
    seconds: float
    """Of a later call."""
    peak_bytes: int | None
    """Beyond inputs; None if it was not measured."""


class Worker:
    """Runs a contender in a process that the system can be asked about and that can be ended."""

    def __init__(self, contender: str, workload: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, contender, workload, setting), daemon=False
        )
        with _searched_first(setting.base if contender == BASE else None):
            self._process.start()
        theirs.close()

    def prepare(self, limit: float) -> Prepared:
        """Waits for the first calls, `limit` seconds at most.

        Raises:
            Unavailable: there is no result, with the reason.
        """
        if not self._connection.poll(limit):
            raise Unavailable(f"no gradient within {limit:.0f} s")
        answer = self._answer()
        if isinstance(answer, str):
            raise Unavailable(answer)
        return answer

    def time(self, calls: int, limit: float = 3600.0) -> list[float]:
        """The seconds of each of so many calls; waits `limit` seconds at most.

        Raises:
            Unavailable: there is no answer, with the reason.
        """
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            self._connection.send(calls)
        if not self._connection.poll(limit):
            raise Unavailable(f"no answer within {limit:.0f} s, after its first gradient")
        return self._answer()

    def stop(self) -> None:
        """Ends the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # if it has no group of its own yet
        self._process.join()

    def _answer(self) -> Prepared | str | list[float]:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise Unavailable(f"its process ended with {self._process.exitcode}") from None


@contextlib.contextmanager
def _searched_first(folder: Path | None) -> Iterator[None]:
    """A process that is started meanwhile takes its modules from the folder before all others."""
    if folder is None:
        yield
        return
    path = sys.path.copy()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path


def _serve(connection: Connection, contender: str, workload: str, setting: Setting) -> None:
    os.setsid()
    os.sched_setaffinity(0, setting.cores)
    torch.set_num_threads(len(setting.cores))
    torch.set_float32_matmul_precision("high" if setting.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = setting.tf32
    os.environ.setdefault("FASTMAML_COMPILE", "0")  # in the first call, as the others do
    try:
        step, prepared = _prepare(contender, workload, setting)
    except Unavailable as reason:
        connection.send(str(reason))
        return
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has ended
        connection.send(prepared)
        while True:
            connection.send(time_calls(step, connection.recv()))


def _prepare(contender: str, workload: str, setting: Setting) -> tuple[Step, Prepared]:
    if contender == BASE and setting.base not in Path(fm.__file__).parents:
        raise Unavailable(f"there is no fastmaml in {setting.base}")
    device = torch.device(setting.device)
    entry = CONTENDERS[contender]
    # torch does not know what JAX, or a captured graph, takes of a GPU
    measures_memory = setting.measures_memory and (device.type == "cpu" or entry.shows_memory)
    if setting.measures_memory:
        _synchronised(entry.make(WARM_UP, device, setting.dtype), device)()  # what is loaded lazily
    step = _synchronised(entry.make(named(workload), device, setting.dtype), device)
    memory = PeakMemory(device) if measures_memory else None
    start = time.perf_counter()
    gradients = step()
    first = time.perf_counter() - start
    if entry.settles:  # later calls overwrite them
        gradients = _arrays(gradients)
    if setting.is_hasty and entry.is_loop and first > _LONG_SECONDS:
        return step, Prepared(_arrays(gradients), first, first, None)
    for _ in range(entry.settles):
        step()
    later, peak = None, None
    if memory is not None:
        with contextlib.suppress(OSError):
            memory.start()
            later = time_calls(step, 1)[0]
            peak = memory.peak()
    if later is None:
        later = time_calls(step, 1)[0]
    return step, Prepared(_arrays(gradients), first, later, peak)


def _synchronised(step: Step, device: torch.device) -> Step:
    # JAX waits for itself, and torch need not enter its process's GPU
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return step

    def synchronised() -> dict:
        gradients = step()
        torch.cuda.synchronize(device)
        return gradients

    return synchronised


def _arrays(gradients: Gradients) -> dict[str, np.ndarray]:
    return {
        name: np.array(gradient.cpu() if isinstance(gradient, torch.Tensor) else gradient)
        for name, gradient in gradients.items()
    }

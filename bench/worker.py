"""A process of its own for one contender on one workload, and the parent's handle on it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch

from .contenders import CONTENDERS, Step, Unavailable
from .memory import PeakMemory
from .workloads import WARM_UP, WORKLOADS


@dataclass(frozen=True)
class Setting:
    """What is the same for all contenders."""

    device: str
    """"cpu" or "cuda"."""
    cores: tuple[int, ...]
    """The cores of this machine to run on: one thread each, of torch, of ours and of JAX."""
    dtype: torch.dtype = torch.float32
    measures_memory: bool = True


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

    def time(self, calls: int) -> list[float]:
        """The seconds of each of so many calls."""
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            self._connection.send(calls)
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


def _serve(connection: Connection, contender: str, workload: str, setting: Setting) -> None:
    os.setsid()
    os.sched_setaffinity(0, setting.cores)
    torch.set_num_threads(len(setting.cores))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
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
            calls = connection.recv()
            if calls > 1:
                step()  # to be back in the caches, as between other calls
            connection.send([_seconds(step) for _ in range(calls)])


def _prepare(contender: str, workload: str, setting: Setting) -> tuple[Step, Prepared]:
    device = torch.device(setting.device)
    _, make = CONTENDERS[contender]
    # torch does not know what JAX takes of a GPU
    measures_memory = setting.measures_memory and (contender, device.type) != ("jax", "cuda")
    if setting.measures_memory:
        _synchronised(make(WARM_UP, device, setting.dtype), device)()  # loads what is loaded lazily
    step = _synchronised(make(WORKLOADS[workload], device, setting.dtype), device)
    memory = PeakMemory(device) if measures_memory else None
    start = time.perf_counter()
    gradients = step()
    first = time.perf_counter() - start
    later = _seconds(step)
    peak = None
    if memory is not None:
        with contextlib.suppress(OSError):
            memory.start()
            step()
            peak = memory.peak()
    arrays = {name: _array(gradient) for name, gradient in gradients.items()}
    return step, Prepared(arrays, first, later, peak)


def _synchronised(step: Step, device: torch.device) -> Step:
    if device.type != "cuda":
        return step

    def synchronised() -> dict:
        gradients = step()
        torch.cuda.synchronize(device)
        return gradients

    return synchronised


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _array(gradient: object) -> np.ndarray:
    return np.array(gradient.cpu() if isinstance(gradient, torch.Tensor) else gradient)

"""CUDA kernels compiled for the calls of one shape, from the source of those for all calls.

Such a kernel has code of its own for every op, with the sizes as constants
(csrc/cuda/compiled.cuh), and takes some 10 seconds to compile. So the first runs of a call are done
by the kernel for all calls, and the switch comes after a number of runs that is always the same,
wherever the kernel comes from: results, whose last digits may differ, depend on nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
import warnings
from functools import cache
from threading import Lock

from ...cache import cache_folder, write_whole
from ...extension import cuda_extension
from . import nvrtc

RUNS_BEFORE = 20
"""Runs of one recipe on the kernel for all calls; FASTMAML_COMPILE is another number, or never."""

_lock = Lock()
_kernels: dict[tuple[str, int], object] = {}
"""By source and device, for good: work on a stream may still need a kernel that no recipe holds."""


@cache
def runs_before() -> int | None:
    """After how many runs a kernel is compiled; None: never."""
    given = os.environ.get("FASTMAML_COMPILE", str(RUNS_BEFORE))
    if given == "never":
        return None
    if not given.isdecimal():
        raise ValueError(f"FASTMAML_COMPILE is {given!r}: it wants a number of runs, or never")
    return int(given)


def kernel(source: str, device: int) -> object:
    """The `CompiledKernel` of a source on a device. One is compiled at a time.

    Raises nvrtc.CompileError, and RuntimeError where the device does not take it.
    """
    extension = cuda_extension()
    with _lock:
        if (source, device) not in _kernels:
            architecture = extension.architecture(device)
            kept = binary(source, architecture)
            try:
                made = extension.CompiledKernel(device, kept)
            except RuntimeError:  # damaged, perhaps
                made = extension.CompiledKernel(device, binary(source, architecture, anew=True))
            _kernels[source, device] = made
        return _kernels[source, device]


def binary(source: str, architecture: str, anew: bool = False) -> bytes:
    """The cubin of a source, from the cache's folder if it is there and not to be made `anew`.

    Raises nvrtc.CompileError.
    """
    what = "\0".join((source, architecture, nvrtc.version(), *nvrtc.OPTIONS))
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    path = cache_folder() / "kernels" / f"{name}.cubin"
    if not anew:
        with contextlib.suppress(OSError):
            return path.read_bytes()
    made = _compile(source, architecture)
    try:
        write_whole(path, lambda file: file.write(made))
    except OSError as error:
        warnings.warn(f"a kernel will be compiled again next time: {error}", stacklevel=5)
    return made


def _compile(source: str, architecture: str) -> bytes:
    shows = sys.stderr.isatty()
    if shows:
        sys.stderr.write("fastmaml: compiling a kernel for this model, once ... ")
        sys.stderr.flush()
    start = time.perf_counter()
    made = nvrtc.compile_source(source, architecture)
    if shows:
        sys.stderr.write(f"{time.perf_counter() - start:.0f} s\n")
    return made

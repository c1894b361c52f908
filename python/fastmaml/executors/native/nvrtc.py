"""NVIDIA's run-time compiler, which comes with PyTorch's wheels for CUDA."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Lambdas of functions for both sides are the device's.
OPTIONS = ("-std=c++20", "-default-device")


class CompileError(RuntimeError):
    """The compiler is not there, or it refused a source; the text says why."""


def _candidates() -> Iterator[Path]:
    """Libraries to try: what a process finds by name, PyTorch's among it, and NVIDIA's packages."""
    for major in (13, 12):
        yield Path(f"libnvrtc.so.{major}")
    packages = find_spec("nvidia")
    for place in packages.submodule_search_locations or () if packages else ():
        yield from sorted(Path(place).glob("*/lib/libnvrtc.so.*"), reverse=True)


@cache
def _library() -> ctypes.CDLL:
    for candidate in _candidates():
        try:
            # the compiler looks for its other library by name, and not beside itself
            for builtins in candidate.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(candidate))
        except OSError:
            continue
    raise CompileError("there is no NVRTC (libnvrtc.so.13 or .12) in this environment")


@cache
def version() -> str:
    """The compiler's version, "13.0". Raises CompileError where there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_source(source: str, architecture: str) -> bytes:
    """The cubin of a CUDA source for an architecture, such as "sm_90".

    Takes seconds, in which other threads run. Raises CompileError with the compiler's log.
    """
    nvrtc = _library()
    program = ctypes.c_void_p()
    arguments = (source.encode(), b"fastmaml.cu", 0, None, None)
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), *arguments):
        raise CompileError("NVRTC makes no program")
    try:
        options = [option.encode() for option in (*OPTIONS, f"-arch={architecture}")]
        array = (ctypes.c_char_p * len(options))(*options)
        if nvrtc.nvrtcCompileProgram(program, len(options), array):
            log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise CompileError(f"NVRTC {version()} for {architecture}: {log.decode().strip()}")
        return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(size_of: object, read: object, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))  # type: ignore[operator]
    text = ctypes.create_string_buffer(size.value)
    read(program, text)  # type: ignore[operator]
    return text.raw

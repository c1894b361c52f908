"""`fastmaml info`: what this installation is, and what it can run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from . import __version__, executors
from .cache import cache_folder
from .executors import native
from .extension import cuda_extension, extension
from .plan import BACKENDS

OPTIONAL = ("triton", "matplotlib", "pillow", "rich")
"""Packages that add something, by the names of their distributions."""


def describe() -> str:
    """The text of `fastmaml info`: a line for each thing, its name first."""
    facts = [
        ("fastmaml", f"{__version__}, {Path(__file__).parent}"),
        ("Python", platform.python_version()),
        ("torch", torch.__version__),
        *((name, _version(name)) for name in ("numpy", *OPTIONAL)),
        ("platform", platform.platform()),
        ("processor", f"{processor()}, {os.cpu_count()} cores"),
        ("threads", f"{torch.get_num_threads()}, as torch.get_num_threads() has it"),
        *_instruction_sets(),
        *_gpu_architectures(),
        *_executors(),
        ("cache", f"{_state(cache_folder())}"),
    ]
    return "\n".join(f"{name:<17}{text}" for name, text in facts)


def processor() -> str:
    """The name of the processor, as far as the platform tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _instruction_sets() -> Iterator[tuple[str, str]]:
    """Of the native executor; nothing where its extension cannot be loaded."""
    if extension is None:
        return
    yield "instructions", f"this processor can run {', '.join(extension.supported_isas())}"
    if native.unavailable() is None:
        chosen = "as FASTMAML_ISA says" if os.environ.get("FASTMAML_ISA") else "the fastest"
        yield "", f"{extension.isa()} in use, {chosen}"


def _gpu_architectures() -> Iterator[tuple[str, str]]:
    """Of the CUDA kernels, which the extension has in CMake's notation; nothing without them."""
    if isinstance(cuda_extension(), str):
        return
    names = cuda_extension().architectures.split()
    compiled = [f"sm_{name.removesuffix('-real')}" for name in names if "-virtual" not in name]
    ptx = [f"compute_{name.removesuffix('-virtual')}" for name in names if "-real" not in name]
    yield "CUDA kernels", f"compiled for {', '.join(compiled) or 'no GPU'}"
    if ptx:
        yield "", f"PTX of {', '.join(ptx)}, which drivers compile for newer GPUs"


def _executors() -> Iterator[tuple[str, str]]:
    cpu = native.unavailable()
    yield "native on CPU", "ready" if cpu is None else f"missing: {cpu}"
    cuda = native.cuda_unavailable(0)
    yield "native on CUDA", "ready" if cuda is None else f"missing: {cuda}"
    for name in BACKENDS:
        if name not in ("auto", "native"):
            here = hasattr(executors, name)
            yield name, "ready" if here else "missing: not part of this version of fastmaml"


def _state(folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.glob("glyphs-*.npz"))
    return f"{folder}, {f'{size / 2**20:.1f} MiB of glyphs' if size else 'no glyphs drawn yet'}"

"""What figures were measured on, and how fast its cores can multiply and add, and move memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fastmaml as fm
import torch
from fastmaml.executors import native
from fastmaml.extension import extension

from .peers import LEARN2LEARN

_HERE = Path(__file__).parent


def describe(
    device: str, cores: tuple[int, ...], base: str | None = None, tf32: bool = False
) -> dict[str, Any]:
    """The machine, the commit and the versions that figures belong to.

    Args:
        device: "cpu" or "cuda".
        cores: those that are used.
        base: the revision that is compared with this one.
        tf32: whether the others may round factors to TF32.
    """
    load = os.getloadavg()[0]  # before what is measured here adds to it
    if device == "cuda":
        peak, bandwidth, cache = gpu_peak(), gpu_bandwidth(), gpu_cache()
    else:
        peak, bandwidth = fma_peak(cores), memory_bandwidth(cores)
        cache = _last_level_cache()
    return {
        "machine": platform.node(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "device": device,
        "tf32": tf32,
        "threads": len(cores),
        "cores of the machine": os.cpu_count(),
        "load before": round(load, 2),
        "system": platform.platform(),
        "commit": _commit(),
        "base": base,
        "instruction set": None if native.unavailable() else extension.isa(),
        "fp32 peak, GFLOP/s": None if peak is None else round(peak / 1e9, 1),
        "memory bandwidth, GB/s": None if bandwidth is None else round(bandwidth / 1e9, 1),
        "last-level cache, MiB": cache >> 20,
        "versions": {
            "python": platform.python_version(),
            "fastmaml": fm.__version__,
            "torch": torch.__version__,
            **{name: _version(name) for name in ("jax", "higher", "torchopt", "numpy")},
            "learn2learn": _version("learn2learn") or LEARN2LEARN,
        },
    }


def fma_peak(cores: tuple[int, ...]) -> float | None:
    """FLOP/s of fused multiply-adds in registers on all the cores; None without a C compiler."""
    with _compiled("fma_peak.c") as program:
        if program is None:
            return None
        runs = [
            subprocess.Popen(
                [program],
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),
            )
            for core in cores
        ]
        return sum(float(run.communicate()[0]) for run in runs)


def memory_bandwidth(cores: tuple[int, ...]) -> float | None:
    """Bytes a second of a triad on all the cores together; None without a C compiler."""
    with _compiled("triad.c", "-pthread") as program:
        if program is None:
            return None
        done = subprocess.run([program, *map(str, cores)], capture_output=True, text=True)
        return None if done.returncode else float(done.stdout)


def gpu_peak(size: int = 8192) -> float:
    """FLOP/s of a large product in IEEE float32: what fused multiply-adds reach, without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    factor = torch.randn(size, size, device="cuda")
    try:
        return 2 * size**3 / _gpu_seconds(lambda: factor @ factor)
    finally:
        torch.set_float32_matmul_precision(before)


def gpu_bandwidth(size: int = 2**30) -> float:
    """Bytes a second of a large copy, those that are read and those that are written."""
    source = torch.zeros(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / _gpu_seconds(lambda: target.copy_(source))


def gpu_cache() -> int:
    """Bytes of the GPU's own cache."""
    return torch.cuda.get_device_properties().L2_cache_size


def _gpu_seconds(work: Callable[[], object], calls: int = 5) -> float:
    """The median of a few calls, by the GPU's own clock, after two for warming up."""
    seconds = []
    for _ in range(2 + calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        seconds.append(1e-3 * start.elapsed_time(end))
    return statistics.median(seconds[2:])


@contextlib.contextmanager
def _compiled(source: str, *flags: str) -> Iterator[Path | None]:
    """A program from csrc/, for this very processor; None where it cannot be compiled."""
    compiler = shutil.which("cc")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        command = [compiler, _HERE / "csrc" / source, "-O3", "-march=native", *flags]
        is_there = compiler is not None and not (
            subprocess.run([*command, "-o", program], capture_output=True).returncode
        )
        yield program if is_there else None


def _last_level_cache() -> int:
    """Bytes of the largest cache of a core, as Linux tells them; 0 where it does not."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(size.read_text().removesuffix("K\n")) << 10 for size in caches), default=0)


def _cpu_model() -> str:
    names = ("model name", "Model")  # of x86 and of some Arm
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    git = ["git", "-C", str(_HERE)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return None
    changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return head.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

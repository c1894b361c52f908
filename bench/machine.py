"""What the figures were measured on, and the fastest that its processor can multiply and add."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fastmaml as fm
import torch
from fastmaml.executors import native

_HERE = Path(__file__).parent


def describe(device: str, cores: tuple[int, ...]) -> dict[str, Any]:
    """The machine, the commit and the versions that figures belong to."""
    peak = fma_peak(cores) if device == "cpu" else None
    return {
        "machine": platform.node(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "device": device,
        "threads": len(cores),
        "cores of the machine": os.cpu_count(),
        "system": platform.platform(),
        "commit": _commit(),
        "instruction set": None if native.unavailable() else native.extension.isa(),
        "fp32 peak, GFLOP/s": None if peak is None else round(peak / 1e9, 1),
        "versions": {
            "python": platform.python_version(),
            "fastmaml": fm.__version__,
            "torch": torch.__version__,
            "jax": _version("jax"),
            "numpy": _version("numpy"),
        },
    }


def fma_peak(cores: tuple[int, ...]) -> float | None:
    """FLOP/s of fused multiply-adds in registers on all the cores; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "fma_peak")
        source = _HERE / "csrc" / "fma_peak.c"
        flags = ["-O3", "-march=native", "-o", program]
        if subprocess.run([compiler, source, *flags], capture_output=True).returncode:
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

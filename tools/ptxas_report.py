"""What ptxas says of the CUDA kernels: registers, stack, spills, and blocks a multiprocessor.

    python tools/ptxas_report.py [ARCHITECTURE ...] > bench/results/ptxas.md

For the architectures of a release, unless others are named, a minute and a half each on one core.
Needs nvcc and no GPU. Functions that are compiled once and called are listed under their kernel.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-DFM_ISA=cuda", "--expt-relaxed-constexpr"]
HEADER = """# What ptxas says of the CUDA kernels

`python tools/ptxas_report.py`, nvcc {release}. Stack and spills in bytes a thread; blocks that a
multiprocessor's registers hold at once. The functions of a kernel share its registers, so that one
may spill because of what its callers hold: the second table is of products that nobody calls from
within a program."""
REGISTERS = 65536
"""Of a multiprocessor."""
LANES = (64, 128, 256, 512)
"""Threads that a block may have (csrc/cuda/executor.cu)."""
PRODUCTS = """
#include "cuda/kernels.cuh"

namespace fastmaml::cuda {

template <class Real>
__global__ void __launch_bounds__(most_lanes, 1) product(BlockProduct<Real> p, int log_lanes) {
  DeviceLanes<Real> lanes({log_lanes, 0, 8192}, 0);
  block_gemm(lanes, p);
}
template __global__ void product<float>(BlockProduct<float>, int);
template __global__ void product<double>(BlockProduct<double>, int);

}  // namespace fastmaml::cuda
"""
"""Kernels of nothing but the products of a thread block, where most of the time goes."""
LARGE = 32000
"""The larger size that a kernel's argument may have: the same code as with the smaller."""


@dataclass
class Function:
    """Of one kernel, or of a function that it calls."""

    name: str
    stack: int = 0
    spilled: int = 0
    """Bytes of stores and loads."""
    registers: int | None = None
    """Of a kernel, the most of all that it calls."""
    called: list[Function] = field(default_factory=list)


def released() -> list[str]:
    """The architectures that CMakeLists.txt compiles a release for."""
    text = (ROOT / "CMakeLists.txt").read_text()
    return re.findall(r"\d+", re.search(r"CMAKE_CUDA_ARCHITECTURES (\d+-real .*)\)", text)[1])


def compiled(source: str, architecture: str) -> list[Function]:
    """The kernels of a source text in CUDA."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.cu"
        file.write_text(source)
        done = subprocess.run(
            [
                *(
                    "nvcc",
                    *FLAGS,
                    "-gencode",
                    f"arch=compute_{architecture},code=sm_{architecture}",
                ),
                *("-I", ROOT / "csrc", "-Xptxas", "-v", "-c", file),
                *("-o", file.with_suffix(".o")),
            ],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(done.stderr)
    return parsed(done.stderr)


def parsed(text: str) -> list[Function]:
    """The kernels in what ptxas -v prints, in its order."""
    kernels: list[Function] = []
    current: Function | None = None
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)'", line):
            kernels.append(Function(_plain(found[1])))
        elif found := re.search(r"Function properties for (\S+)", line):
            name = _plain(found[1])
            current = kernels[-1]
            if name != current.name:
                current = Function(name)
                kernels[-1].called.append(current)
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            current.stack, current.spilled = int(found[1]), int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            kernels[-1].registers = int(found[1])
    return kernels


def _plain(mangled: str) -> str:
    """A readable name: without the namespaces and what is the same for all."""
    done = subprocess.run(["c++filt", mangled], capture_output=True, text=True)
    name = done.stdout.strip().removeprefix("void ")
    name = re.sub(r"fastmaml::(cuda::)?", "", name)
    name = re.sub(r"TeamBlock<(float|double), DeviceLanes<\1> ?>", "Team", name)
    return re.sub(r", DeviceLanes<(float|double)> ?", "", name.split("(")[0])


def table(kernels: list[Function]) -> list[str]:
    """In Markdown."""
    blocks = [f"{lanes} threads" for lanes in LANES]
    lines = [
        "| kernel, and what it calls | registers | stack | spilled | "
        + " | ".join(f"blocks of {lanes}" for lanes in blocks)
        + " |",
        "|---|---:|---:|---:|" + "---:|" * len(LANES),
    ]
    for kernel in kernels:
        if f", {LARGE}>" in kernel.name:
            continue
        most = [str(REGISTERS // (kernel.registers * lanes)) for lanes in LANES]
        lines.append(_row(kernel, f"**{kernel.name}**", most))
        lines += [_row(function, function.name, [""] * len(LANES)) for function in kernel.called]
    return lines


def _row(function: Function, label: str, blocks: list[str]) -> str:
    registers = "" if function.registers is None else str(function.registers)
    cells = [label, registers, str(function.stack), str(function.spilled), *blocks]
    return f"| {' | '.join(cells)} |"


def main(architectures: list[str]) -> None:
    """Prints the report."""
    if shutil.which("nvcc") is None:
        sys.exit("there is no nvcc on the path")
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    release = re.search(r"V([0-9.]+)", version)[1]
    print(HEADER.format(release=release))
    for architecture in architectures:
        print(f"\n## sm_{architecture}")
        for source in ('#include "cuda/executor.cu"', PRODUCTS):
            print("", *table(compiled(source, architecture)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:] or released())

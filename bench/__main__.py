"""`python -m bench`: the comparison from the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from . import base, machine, picture, readme, report
from .compare import Comparison
from .contenders import BASE, CONTENDERS, CUDA_ONLY
from .entrants import Entrants, prepare_together
from .worker import Setting
from .workloads import NOT_YET, WORKLOADS

QUICK = ("sine5", "anil")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m bench") -> int:
    """Compares, and writes JSON, Markdown and a picture; returns the exit code."""
    options = _options(arguments, prog)
    torch.set_num_threads(options.threads)
    console = Console()
    with tempfile.TemporaryDirectory() as private:
        # So that a compiler compiles, whatever ran before; and JAX shares the GPU with the others.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{private}/inductor"
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        if options.jobs > 1:  # the compilers of several contenders share the cores
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        built, revision = None, None
        if options.base is not None:
            built = Path(private, "base")
            console.print(f"Building fastmaml at {options.base}")
            try:
                revision = base.build(options.base, built)
            except base.BuildError as error:
                print(f"{prog}: error: --base: {error}", file=sys.stderr)
                return 2
        setting = Setting(
            options.device,
            tuple(sorted(os.sched_getaffinity(0)))[: options.threads],
            measures_memory=options.memory,
            tf32=options.tf32,
            is_hasty=options.least < 2,
            base=built,
        )
        described = machine.describe(options.device, setting.cores, revision, options.tf32)
        _compare(options, setting, described, console)
    console.print(f"Written to {options.out}")
    if options.readme:
        readme.write(options.out / "results.json")
    return 0


def _compare(
    options: argparse.Namespace, setting: Setting, described: dict, console: Console
) -> None:
    where = described["gpu"] or described["cpu"]
    console.print(f"{where}, {options.threads} threads, commit {described['commit']}")
    comparisons: list[Comparison] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(options.workloads))
        entrants = [
            Entrants(
                name,
                options.contenders,
                setting,
                options.limit,
                lambda what, name=name: progress.update(bar, description=f"{name}: {what}"),
            )
            for name in options.workloads
        ]
        if options.jobs > 1:
            prepare_together(entrants, options.jobs)
        try:
            for each in entrants:
                comparison = each.compare(options.seconds, options.rounds, options.least)
                comparisons.append(comparison)
                console.print(report.table(comparison, described))
                progress.advance(bar)
                _write(comparisons, described, options)
        finally:
            for each in entrants:
                each.stop()
    for note in report.notes(described):
        console.print(note)
    console.print(report.noise(comparisons), style="bold")


def _write(comparisons: list[Comparison], described: dict, options: argparse.Namespace) -> None:
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    figures = report.as_json(comparisons, described)
    (folder / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
    (folder / "results.md").write_text(report.markdown(comparisons, described))
    if options.tasks:
        picture.draw_tasks(comparisons, described, folder / "tasks.png")
    else:
        picture.draw(comparisons, described, folder / "speed.png")


def _options(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=(
            "The time, the memory and the exactness of fastmaml's meta-gradients beside those of "
            "what else one could use."
        ),
        epilog="Workloads: "
        + "; ".join(f"{each.name} ({each.what})" for each in WORKLOADS.values()),
    )
    parser.add_argument("workloads", nargs="*", metavar="workload", help="default: all")
    names = [name for name in CONTENDERS if name != BASE]
    parser.add_argument(
        "--contenders", nargs="+", choices=names, help="default: all that the device is for"
    )
    parser.add_argument(
        "--tasks", nargs="+", type=int, help="each workload with these numbers of tasks, in turn"
    )
    parser.add_argument(
        "--base", metavar="REV", help="build fastmaml at this git revision, and compare it too"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{' and '.join(QUICK)}, a few seconds each"
    )
    parser.add_argument("--seconds", type=float, help="of timed calls a workload; default: 10")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each contender")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds to a contender's first gradient"
    )
    parser.add_argument(
        "--least", type=int, default=5, help="calls that even the slowest contender makes"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="prepare (and compile) so many contenders at a time, of all workloads, and time them "
        "after that; each keeps a process until its workload has been timed",
    )
    parser.add_argument("--threads", type=int, help="default: those that torch uses")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--tf32", action="store_true", help="let the others round factors to TF32 on a GPU"
    )
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--out", type=Path, help="default: bench/results/MACHINE-DATE")
    parser.add_argument(
        "--readme", action="store_true", help="cut the README's table from these results"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.workloads) - WORKLOADS.keys()
    if unknown:
        reasons = {name: NOT_YET.get(name, "there is no such workload") for name in unknown}
        parser.error("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    available = len(os.sched_getaffinity(0))
    if options.threads is None:
        options.threads = min(torch.get_num_threads(), available)
    if not 1 <= options.threads <= available:
        parser.error(f"--threads must be 1 to {available}, got {options.threads}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    if options.tasks and min(options.tasks) < 1:
        parser.error(f"--tasks must be positive, got {min(options.tasks)}")
    if options.contenders is None:
        options.contenders = [n for n in names if options.device == "cuda" or n not in CUDA_ONLY]
    if options.base is not None:
        options.contenders = [*options.contenders, BASE]
    # in their own order, whatever that of the command line, and each once
    options.contenders = [name for name in CONTENDERS if name in options.contenders]
    options.workloads = options.workloads or (list(QUICK) if options.quick else list(WORKLOADS))
    if options.tasks:
        options.workloads = [f"{n}:{count}" for n in options.workloads for count in options.tasks]
    options.seconds = options.seconds or (4.0 if options.quick else 10.0)
    if options.out is None:
        stamp = f"{datetime.now():%Y-%m-%d-%H%M}"
        options.out = Path(__file__).parent / "results" / f"{machine.platform.node()}-{stamp}"
    if options.readme and not options.out.resolve().is_relative_to(readme.README.parent):
        parser.error(f"--readme: --out must be in {readme.README.parent}, got {options.out}")
    return options


if __name__ == "__main__":
    sys.exit(main())

"""The comparison as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from .compare import FLOAT64_TOLERANCE, TOLERANCE, Comparison, Result
from .contenders import CONTENDERS
from .memory import WHAT
from .workloads import NOT_YET

HEADINGS = ("", "a call", "x ours", "error", "in float64", "first", "memory")


def notes(machine: dict[str, Any]) -> list[str]:
    """How to read the figures."""
    lines = [
        f"{machine['threads']} threads for every contender, torch's and JAX's pools alike, "
        "IEEE float32. The plain loop is PyTorch's, with create_graph=True and a backward a task. "
        "torch.func, torch.compile of it and JAX differentiate the mean over vmap(grad).",
        "A call is one meta-gradient: the median of calls that the contenders made in turn. "
        "The first traces or compiles, and is not among them.",
        "Error: the largest difference of a gradient to the float64 plain loop's, over its largest "
        f"number. Above {TOLERANCE:g} the contender was run in float64 too: what is right there "
        f"(within {FLOAT64_TOLERANCE:g}) differs by float32's roundings; the others are WRONG, and "
        "have no ratio.",
        f"Memory: {WHAT[machine['device']]}. Of JAX on a GPU it is not measured.",
    ]
    if machine["fp32 peak, GFLOP/s"]:
        lines.append(
            "Share of peak: the arithmetic of the matrix products of a call, over its time, over "
            f"the {machine['fp32 peak, GFLOP/s']} GFLOP/s of fp32 multiply-adds in registers that "
            "the cores reach together."
        )
    lines += [f"Not yet: {name} ({reason})." for name, reason in NOT_YET.items()]
    return lines


def title(comparison: Comparison, machine: dict[str, Any]) -> str:
    """The workload, and how ours stands to the best of the others."""
    parts = [f"{comparison.workload.name}: {comparison.workload.what}"]
    best = comparison.best_other()
    if best is not None:
        parts.append(f"{comparison.ratio(best):.2f} times as fast as {CONTENDERS[best][0]}")
    share = share_of_peak(comparison, machine)
    if share is not None:
        parts.append(f"{share:.1%} of peak")
    return "; ".join(parts)


def share_of_peak(comparison: Comparison, machine: dict[str, Any]) -> float | None:
    """The rate of fastmaml's arithmetic, as a part of the peak."""
    ours, peak = comparison.results.get("fastmaml"), machine["fp32 peak, GFLOP/s"]
    if ours is None or not ours.median or not peak:
        return None
    return comparison.flop / ours.median / (1e9 * peak)


def table(comparison: Comparison, machine: dict[str, Any]) -> Table:
    """A workload on the terminal."""
    view = Table(title=title(comparison, machine), title_justify="left", title_style="bold")
    for index, heading in enumerate(HEADINGS):
        view.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows(comparison):
        view.add_row(*row)
    view.caption = "\n".join(absent(comparison))
    return view


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row, of the columns `HEADINGS`, for each contender that ran."""
    lines = []
    for contender, result in comparison.results.items():
        if result.reason is not None:
            continue
        ratio = comparison.ratio(contender)
        standing = "WRONG" if not result.is_right else "" if ratio is None else f"{ratio:.2f}"
        exact = "" if result.float64_error is None else f"{result.float64_error:.1e}"
        memory = "" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.1f} MiB"
        lines.append(
            (
                CONTENDERS[contender][0],
                duration(result.median),
                standing,
                f"{result.error:.1e}",
                exact,
                duration(result.first_seconds),
                memory,
            )
        )
    return lines


def absent(comparison: Comparison) -> list[str]:
    """The contenders that did not run, and why."""
    return [
        f"{CONTENDERS[contender][0]}: {result.reason}"
        for contender, result in comparison.results.items()
        if result.reason is not None
    ]


def markdown(comparisons: Sequence[Comparison], machine: dict[str, Any]) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# fastmaml beside what else one could use",
        "",
        f"{machine['cpu']}{', ' + machine['gpu'] if machine['gpu'] else ''}; "
        f"{machine['machine']}, {machine['date']}, commit {machine['commit']}, {versions}.",
        "",
        *(f"- {note}" for note in notes(machine)),
    ]
    for comparison in comparisons:
        lines += ["", f"## {title(comparison, machine)}", ""]
        lines += [_line(HEADINGS), _line(["---", *["---:"] * (len(HEADINGS) - 1)])]
        lines += [_line(row) for row in rows(comparison)]
        lines += [f"\n{reason}" for reason in absent(comparison)]
    return "\n".join(lines) + "\n"


def as_json(comparisons: Sequence[Comparison], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, for json.dump."""
    return {
        "machine": machine,
        "workloads": {
            comparison.workload.name: {
                "what": comparison.workload.what,
                "flop": comparison.flop,
                "share of peak": share_of_peak(comparison, machine),
                "best other": comparison.best_other(),
                "contenders": {
                    contender: _figures(result) | {"times ours": comparison.ratio(contender)}
                    for contender, result in comparison.results.items()
                },
            }
            for comparison in comparisons
        },
    }


def duration(seconds: float | None) -> str:
    """In the unit that fits."""
    if seconds is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _figures(result: Result) -> dict[str, Any]:
    if result.reason is not None:
        return {"reason": result.reason}
    quartiles = statistics.quantiles(result.seconds, n=4) if len(result.seconds) > 1 else None
    return {
        "seconds": result.median,
        "quartiles": quartiles,
        "calls": len(result.seconds),
        "rounds": result.rounds,
        "gradient error": result.error,
        "gradient error in float64": result.float64_error,
        "right": result.is_right,
        "first call, seconds": result.first_seconds,
        "peak memory, bytes": result.peak_bytes,
    }


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

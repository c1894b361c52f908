"""The comparison as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .compare import FLOAT64_TOLERANCE, NOISY, TF32_TOLERANCE, TOLERANCE, Comparison
from .contenders import BASE, CONTENDERS
from .memory import WHAT
from .workloads import NOT_YET

HEADINGS = ("", "a call", "x ours", "quartiles", "error", "float64", "first", "MiB")


def notes(machine: dict[str, Any]) -> list[str]:
    """How to read the figures."""
    is_gpu, is_tf32 = machine["device"] == "cuda", bool(machine.get("tf32"))
    arithmetic = "float32, in TF32 where it is not ours" if is_tf32 else "IEEE float32"
    until = ", until the GPU has done it" if is_gpu else ""
    tolerance = TF32_TOLERANCE if is_tf32 else TOLERANCE
    lines = [
        f"{machine['threads']} threads for every contender, torch's and JAX's pools alike, "
        f"{arithmetic}. The plain loop is PyTorch's, with create_graph=True and a backward a task; "
        "so are the loops of learn2learn, higher and TorchOpt, as in their examples of MAML. "
        "torch.func, torch.compile of it and JAX differentiate the mean over vmap(grad).",
        f"A call is one meta-gradient{until}. The contenders have their turns in rounds, there and "
        "back; a call's time is the median of the rounds' medians. The first call traces or "
        "compiles, and is not among them.",
        "x ours: how many times as long as fastmaml's, in the same round; the median of the "
        f"rounds, and their quartiles. Quartiles that are more than {NOISY:.0%} of the median "
        "apart are called noisy: there the next run may say something else.",
        "Error: the largest difference of a gradient to the float64 plain loop's, over its largest "
        f"number. Above {tolerance:g} the contender was run in float64 too: what is right there "
        f"(within {FLOAT64_TOLERANCE:g}) differs by float32's roundings; the others are WRONG, and "
        "have no ratio.",
        f"MiB: {WHAT[machine['device']]}. Of JAX and of CUDA graphs it is not measured there.",
    ]
    if machine["fp32 peak, GFLOP/s"]:
        reached = (
            "GFLOP/s of a product of large fp32 matrices, without TF32."
            if is_gpu
            else "GFLOP/s of fp32 multiply-adds in registers that the cores reach together."
        )
        lines.append(
            "Share of peak: the arithmetic of the matrix products of a call, over its time, over "
            f"the {machine['fp32 peak, GFLOP/s']} {reached}"
        )
    if machine["memory bandwidth, GB/s"]:
        rate = f"{machine['memory bandwidth, GB/s']} GB/s"
        moved = (
            f"A large copy moves {rate}, reads and writes together."
            if is_gpu
            else f"The cores together move {rate} in a triad, as STREAM counts."
        )
        lines.append(
            f"{moved} Where the samples are twice what the last-level cache holds "
            f"({machine['last-level cache, MiB']} MiB) or more, each call must read them from "
            "memory at least once, and its share of bandwidth is their bytes alone, over its time, "
            "over that."
        )
    lines += [f"Not yet: {name} ({reason})." for name, reason in NOT_YET.items()]
    return lines


def title(comparison: Comparison, machine: dict[str, Any]) -> str:
    """The workload, and how ours stands to the best of the others."""
    parts = [f"{comparison.workload.name}: {comparison.workload.what}"]
    best = comparison.best_other()
    if best is not None:
        ratio = times(comparison.ratio(best).median)
        parts.append(f"{ratio} times as fast as {label(best, machine)}")
    share = share_of_peak(comparison, machine)
    if share is not None:
        parts.append(f"{share:.1%} of peak")
    share = share_of_bandwidth(comparison, machine)
    if share is not None:
        parts.append(f"{share:.1%} of bandwidth")
    return "; ".join(parts)


def label(contender: str, machine: dict[str, Any]) -> str:
    """Its name for people."""
    return f"fastmaml at {machine['base']}" if contender == BASE else CONTENDERS[contender].label


def share_of_peak(comparison: Comparison, machine: dict[str, Any]) -> float | None:
    """The rate of fastmaml's arithmetic, as a part of the peak."""
    ours, peak = comparison.results.get("fastmaml"), machine["fp32 peak, GFLOP/s"]
    if ours is None or not ours.median or not peak:
        return None
    return comparison.flop / ours.median / (1e9 * peak)


def share_of_bandwidth(comparison: Comparison, machine: dict[str, Any]) -> float | None:
    """The rate at which fastmaml reads its samples, as a part of the memory's; None where they
    may stay in a cache from call to call, and where nothing was measured."""
    ours, bandwidth = comparison.results.get("fastmaml"), machine["memory bandwidth, GB/s"]
    cache = machine["last-level cache, MiB"] << 20
    if ours is None or not ours.median or not bandwidth or not 0 < 2 * cache <= comparison.bytes:
        return None
    return comparison.bytes / ours.median / (1e9 * bandwidth)


def table(comparison: Comparison, machine: dict[str, Any]) -> Table:
    """A workload on the terminal."""
    view = Table(
        title=title(comparison, machine),
        title_justify="left",
        title_style="bold",
        caption="\n".join(remarks(comparison, machine)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for index, heading in enumerate(HEADINGS):
        view.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows(comparison, machine):
        view.add_row(*row)
    return view


def rows(comparison: Comparison, machine: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row, of the columns `HEADINGS`, for each contender that ran."""
    lines = []
    for contender, result in comparison.results.items():
        if result.reason is not None:
            continue
        ratio = comparison.ratio(contender)
        standing = "WRONG" if not result.is_right else "" if ratio is None else times(ratio.median)
        is_other = ratio is not None and contender != "fastmaml"
        exact = "" if result.float64_error is None else f"{result.float64_error:.1e}"
        memory = "" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.1f}"
        lines.append(
            (
                label(contender, machine),
                duration(result.median),
                standing,
                f"{times(ratio.low)}-{times(ratio.high)}" if is_other else "",
                f"{result.error:.1e}",
                exact,
                duration(result.first_seconds),
                memory,
            )
        )
    return lines


def remarks(comparison: Comparison, machine: dict[str, Any]) -> list[str]:
    """The contenders that did not run, and why; and the ratios that were noisy."""
    lines = [
        f"{label(contender, machine)}: {result.reason}"
        for contender, result in comparison.results.items()
        if result.reason is not None
    ]
    noisy = [
        f"{label(contender, machine)}'s by {comparison.ratio(contender).spread:.0%}"
        for contender in comparison.noisy()
    ]
    if noisy:
        lines.append(f"Noisy ratios, by their quartiles: {', '.join(noisy)}")
    return lines


def noise(comparisons: Sequence[Comparison]) -> str:
    """How quiet the machine was."""
    noisy = sum(len(each.noisy()) for each in comparisons)
    ratios = sum(len(each.ratios()) for each in comparisons)
    if not ratios:
        return "Nothing was compared with fastmaml."
    if not noisy:
        return f"The machine was quiet: none of {ratios} ratios spread by more than {NOISY:.0%}."
    return (
        f"The machine was NOISY: {noisy} of {ratios} ratios spread by more than {NOISY:.0%} from "
        "quartile to quartile of the rounds. Run it again with nothing beside it."
    )


def markdown(comparisons: Sequence[Comparison], machine: dict[str, Any]) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# fastmaml beside what else one could use",
        "",
        f"{machine['cpu']}{', ' + machine['gpu'] if machine['gpu'] else ''}; "
        f"{machine['machine']}, {machine['date']}, commit {machine['commit']}, {versions}; "
        f"load {machine['load before']} before the run.",
        "",
        noise(comparisons),
        "",
        *(f"- {note}" for note in notes(machine)),
    ]
    for comparison in comparisons:
        lines += ["", f"## {title(comparison, machine)}", ""]
        lines += [line(HEADINGS), line(["---", *["---:"] * (len(HEADINGS) - 1)])]
        lines += [line(row) for row in rows(comparison, machine)]
        lines += [f"\n{remark}" for remark in remarks(comparison, machine)]
    return "\n".join(lines) + "\n"


def as_json(comparisons: Sequence[Comparison], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, for json.dump."""
    return {
        "machine": machine,
        "noise": noise(comparisons),
        "workloads": {
            comparison.workload.name: {
                "what": comparison.workload.what,
                "tasks": comparison.workload.tasks,
                "flop": comparison.flop,
                "share of peak": share_of_peak(comparison, machine),
                "sample bytes": comparison.bytes,
                "share of bandwidth": share_of_bandwidth(comparison, machine),
                "best other": comparison.best_other(),
                "seconds of the comparison": round(comparison.elapsed, 1),
                "contenders": {
                    contender: _figures(comparison, contender) for contender in comparison.results
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


def times(ratio: float) -> str:
    """In three digits, or as many as it has before the point."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:#.3g}"


def line(cells: Sequence[str]) -> str:
    """Of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _figures(comparison: Comparison, contender: str) -> dict[str, Any]:
    result, ratio = comparison.results[contender], comparison.ratio(contender)
    if result.reason is not None:
        return {"reason": result.reason}
    return {
        "seconds": result.median,
        "seconds, by round": result.medians,
        "calls": result.calls,
        "times ours": None if ratio is None else ratio.median,
        "times ours, quartiles": None if ratio is None else [ratio.low, ratio.high],
        "gradient error": result.error,
        "gradient error in float64": result.float64_error,
        "right": result.is_right,
        "first call, seconds": result.first_seconds,
        "peak memory, bytes": result.peak_bytes,
    }

"""The README's table of speeds, cut from the figures of a comparison.

    python -m bench.readme bench/results/epyc-2core/results.json

writes what stands between the two comments `<!-- bench: ... -->` and `<!-- /bench -->` anew, and so
does `python -m bench --readme` with what it has measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import report
from .contenders import BASE, CONTENDERS

README = Path(__file__).parents[1] / "README.md"
_WIDTH = 100
_BLOCK = re.compile(r"<!-- bench: (?P<source>\S+) -->\n.*?<!-- /bench -->", re.DOTALL)


def source(text: str) -> Path:
    """The figures that a README's table was cut from, as a path from the README's folder.

    Raises:
        ValueError: there is no table.
    """
    found = _BLOCK.search(text)
    if found is None:
        raise ValueError("there is no <!-- bench: ... --> with a <!-- /bench --> after it")
    return Path(found["source"])


def updated(text: str, path: Path, figures: dict[str, Any]) -> str:
    """A README's text with its table cut from other figures, which are in the file `path`.

    Raises:
        ValueError: there is no table.
    """
    source(text)
    lines = [f"<!-- bench: {path.as_posix()} -->", *block(path, figures), "<!-- /bench -->"]
    return _BLOCK.sub(lambda _: "\n".join(lines), text)


def block(path: Path, figures: dict[str, Any]) -> list[str]:
    """The lines of the table and of what must be said beside it."""
    machine, workloads = figures["machine"], figures["workloads"]
    took_part = {name for each in workloads.values() for name in each["contenders"]}
    contenders = [name for name in CONTENDERS if name in took_part and name != BASE]
    labels = [CONTENDERS[name].label for name in contenders]
    lines = [
        _filled(_measured(machine, workloads)),
        "",
        report.line(["", *labels, "best other / fastmaml"]),
        report.line(["---", *["---:"] * (len(labels) + 1)]),
    ]
    for name, workload in workloads.items():
        cells = [_time(workload["contenders"].get(contender)) for contender in contenders]
        lines.append(report.line([name, *cells, _standing(workload)]))
    lines += ["", *(_filled(f"- {name}: {each['what']}") for name, each in workloads.items())]
    remarks = _remarks(contenders, workloads)
    if "noise" in figures:
        remarks.append(figures["noise"])
    folder, everything = path.parent.as_posix(), path.with_name("results.md").as_posix()
    remarks.append(f"All figures: [{folder}]({everything}).")
    for remark in remarks:
        lines += ["", _filled(remark)]
    return lines


def write(results: Path) -> None:
    """Writes the README's table anew, from the results.json of a comparison.

    Raises:
        ValueError: the README has no table, or the results are not in its folder.
    """
    path = results.resolve().relative_to(README.parent)
    README.write_text(updated(README.read_text(), path, json.loads(results.read_text())))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.readme", description="Cuts the README's table of speeds anew."
    )
    parser.add_argument("results", type=Path, help="results.json of a comparison")
    try:
        write(parser.parse_args().results)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


def _measured(machine: dict[str, Any], workloads: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{label} {machine['versions'][name]}"
        for name, label in (("torch", "torch"), ("jax", "JAX"))
        if machine["versions"].get(name)
    )
    ours = [each["contenders"]["fastmaml"] for each in workloads.values()]
    single = [each["gradient error"] for each in ours if each["gradient error in float64"] is None]
    double = [error for each in ours if (error := each["gradient error in float64"]) is not None]
    within = [f"{max(single):.0e}"] if single else []
    if double:
        within.append(f"{max(double):.0e} in float64 where float32's roundings grow")
    return (
        "One meta-gradient (forward and backward through the public interface), medians of the "
        f"interleaved rounds of `python -m bench` on {machine['threads']} threads of "
        f"{machine['gpu'] or machine['cpu']}, {machine['instruction set']}, at commit "
        f"{machine['commit']}: IEEE float32 for all, {versions}. Each contender's gradient was "
        "checked against the plain loop in float64 first; ours were within "
        f"{', and '.join(within)}."
    )


def _filled(text: str) -> str:
    """Broken into lines; a list's item keeps its indentation."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _time(result: dict[str, Any] | None) -> str:
    if result is None or "reason" in result:
        return "-"
    return report.duration(result["seconds"]) + ("" if result["right"] else " (wrong)")


def _standing(workload: dict[str, Any]) -> str:
    best = workload["best other"]
    return "-" if best is None else f"{workload['contenders'][best]['times ours']:.2f}"


def _remarks(contenders: list[str], workloads: dict[str, Any]) -> list[str]:
    lines = []
    memory = _ranges(contenders, workloads, "peak memory, bytes", lambda n: f"{n / 2**20:.1f}")
    if memory:
        lines.append(f"Peak memory beyond the inputs, in MiB: {memory}.")
    first = _ranges(contenders, workloads, "first call, seconds", lambda s: f"{s:.2g}")
    if first:
        lines.append(f"The first call, which traces or compiles, in seconds: {first}.")
    wrong = {
        CONTENDERS[contender].label
        for workload in workloads.values()
        for contender, result in workload["contenders"].items()
        if contender in contenders and "reason" not in result and not result["right"]
    }
    if wrong:
        lines.append(
            f"Wrong: the gradient of {', '.join(sorted(wrong))} there differs from the plain "
            "loop's in float64 too."
        )
    absent: dict[str, list[str]] = {}
    for name, workload in workloads.items():
        for contender, result in workload["contenders"].items():
            if contender in contenders and "reason" in result:
                reason = f"{CONTENDERS[contender].label} ({result['reason']})"
                absent.setdefault(reason, []).append(name)
    lines += [f"Did not run: {reason}, on {', '.join(names)}." for reason, names in absent.items()]
    return lines


def _ranges(
    contenders: list[str], workloads: dict[str, Any], key: str, text: Callable[[float], str]
) -> str:
    """From the least to the most of all workloads, for each contender that was measured."""
    ranges = []
    for contender in contenders:
        results = (workload["contenders"].get(contender, {}) for workload in workloads.values())
        numbers = [number for result in results if (number := result.get(key)) is not None]
        if numbers:
            low, high = text(min(numbers)), text(max(numbers))
            spread = low if low == high else f"{low} to {high}"
            ranges.append(f"{CONTENDERS[contender].label} {spread}")
    return ", ".join(ranges)


if __name__ == "__main__":
    main()

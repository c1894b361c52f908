"""Writes headers, each with all that it includes, as strings of one C++ header.

    python tools/join_headers.py OUT ROOT NAME=HEADER...

The kernels that are compiled while fastmaml runs are compiled from these strings, so they are
always those of the module that launches them. A header stands in the first string that needs it
alone; includes of the standard library are left out.
"""

import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'#include ([<"])(.*)[>"]')


def joined(header: Path, seen: set[Path]) -> str:
    """The text of a header behind that of those that it includes and that were not seen yet."""
    if header in seen:
        return ""
    seen.add(header)
    text = []
    for line in header.read_text().splitlines():
        include = INCLUDE.fullmatch(line)
        if include and include[1] == '"':
            text.append(joined((header.parent / include[2]).resolve(), seen))
        elif not include and line != "#pragma once":
            text.append(line + "\n")
    return "".join(text)


def main(out: str, root: str, *named: str) -> None:
    seen: set[Path] = set()
    lines = ["#pragma once", ""]
    for name, header in (entry.split("=") for entry in named):
        text = joined((Path(root) / header).resolve(), seen)
        lines.append(f'inline constexpr char {name}[] = R"header({text})header";')
    Path(out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

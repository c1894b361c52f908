"""The command line: `fastmaml demo`, `fastmaml bench` and `fastmaml info`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import __version__, demo, info
from .checks import integer


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 2 for what the user can mend."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["bench"]:  # the comparison has options of its own
            return _bench(arguments[1:])
        options = parser.parse_args(arguments)
        return options.command(options)
    except _UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


class _UserError(Exception):
    """What the user can mend."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmaml", description="Fused inner loops for model-agnostic meta-learning."
    )
    parser.add_argument("--version", action="version", version=f"fastmaml {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "info",
        help="versions, instruction sets and executors, and why one is missing",
        description="Prints versions, instruction sets and executors, and why one is missing.",
    )
    command.set_defaults(command=_info)

    command = commands.add_parser(
        "demo",
        help="MAML learns to tell letters of unknown scripts apart, in about two minutes",
        description=demo.__doc__.partition("\n\n")[2],
    )
    default = demo.Settings()
    command.add_argument(
        "--output", type=Path, metavar="PNG", help=f"the picture (default {default.output})"
    )
    for name, text in (
        ("way", "classes of a task"),
        ("shot", "support images of a class"),
        ("steps", "inner steps of training"),
        ("iterations", "meta-batches of training"),
        ("seed", "of everything random"),
    ):
        command.add_argument(
            f"--{name}", type=int, metavar="N", help=f"{text} (default {getattr(default, name)})"
        )
    command.add_argument(
        "--threads", type=int, metavar="N", help="of torch (default: as torch chooses)"
    )
    command.add_argument("--fast", action="store_true", help="seconds of it, to see that it runs")
    command.set_defaults(command=_demo)

    commands.add_parser(
        "bench",
        help="the comparison with other libraries, from a checkout of the sources",
        add_help=False,
    )
    return parser


def _info(_: argparse.Namespace) -> int:
    print(info.describe())
    return 0


def _demo(options: argparse.Namespace) -> int:
    names = {field.name for field in dataclasses.fields(demo.Settings)}
    given = {
        name: value for name, value in vars(options).items() if name in names and value is not None
    }
    try:
        settings = dataclasses.replace(demo.FAST if options.fast else demo.Settings(), **given)
        if options.threads is not None:
            torch.set_num_threads(integer("threads", options.threads, minimum=1))
        demo.check_output(settings.output)
        display = demo.Display()
        data = demo.load(settings)
    except (ImportError, OSError, ValueError) as error:
        raise _UserError(error) from error
    print(f"\n{demo.run(settings, data, display)}\n\npicture: {settings.output}")
    return 0


def _bench(arguments: Sequence[str]) -> int:
    checkout = _checkout()
    if checkout is None:
        raise _UserError(
            "bench compares from a checkout of fastmaml's sources, and there is none here: get the "
            "repository, `pip install '.[bench]'` in it, and run this again in its folder"
        )
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    try:
        from bench.__main__ import main as compare
    except ImportError as error:
        raise _UserError(f"bench needs {error.name}: pip install fastmaml[bench]") from error
    return compare(arguments, prog="fastmaml bench")


def _checkout() -> Path | None:
    """The folder of the sources: the current one or above it, or where this file is."""
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "bench" / "compare.py").is_file() and (folder / "python/fastmaml").is_dir():
            return folder
    return None

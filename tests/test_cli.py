"""The command line, as far as it draws no glyphs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import fastmaml
import numpy as np
import pytest
import torch
from fastmaml import cli, info
from fastmaml.executors import native
from fastmaml.extension import extension


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What stderr says where the command line ends with exit code 2."""
    with pytest.raises(SystemExit) as ending:
        cli.main(arguments)
    assert ending.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def facts() -> dict[str, str]:
    """What `fastmaml info` prints, by what a line begins with."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in info.describe().splitlines())


@pytest.mark.parametrize(
    ("argument", "text"), [("--version", f"fastmaml {fastmaml.__version__}\n"), ("--help", "demo")]
)
def test_version_and_help(capsys, argument, text):
    with pytest.raises(SystemExit) as ending:
        cli.main([argument])
    assert ending.value.code == 0
    assert text in capsys.readouterr().out


def test_a_command_is_wanted(capsys):
    assert "COMMAND" in refusal(capsys)
    assert "invalid choice: 'train'" in refusal(capsys, "train")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--way", "1"), "way must be at least 2, got 1"),
        (("--way", "two"), "invalid int value: 'two'"),
        (("--shot", "0"), "shot must be at least 1, got 0"),
        (("--steps", "0"), "steps must be at least 1, got 0"),
        (("--iterations", "0"), "iterations must be at least 1, got 0"),
        (("--seed", "-1"), "seed must be at least 0, got -1"),
        (("--threads", "0"), "threads must be at least 1, got 0"),
        (("--output", "no/such/folder/demo.png"), "output must be in a folder that is there"),
        (("--output", "."), "output must be a file that can be written, got ."),
    ],
)
def test_the_demo_refuses(capsys, arguments, text):
    pytest.importorskip("matplotlib")
    assert text in refusal(capsys, "demo", "--fast", *arguments)


def test_the_demo_says_which_library_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "needs matplotlib: pip install fastmaml[demo]" in refusal(capsys, "demo", "--fast")


def test_an_interrupt_leaves_no_traceback(capsys, monkeypatch):
    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "describe", interrupt)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_bench_runs_from_a_checkout(capsys):
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as ending:
        cli.main(["bench", "--help"])
    assert ending.value.code == 0
    assert "usage: fastmaml bench" in capsys.readouterr().out


def test_bench_says_where_it_is_without_a_checkout(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "fastmaml" / "cli.py"))
    assert "from a checkout of fastmaml's sources" in refusal(capsys, "bench")


def test_bench_says_which_library_is_missing(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "bench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refusal(capsys, "bench", "--help")
    assert "bench needs matplotlib: pip install fastmaml[bench]" in said


def test_info_gives_versions(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path))
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out == info.describe() + "\n"
    told = facts()
    assert told["fastmaml"].startswith(fastmaml.__version__)
    assert told["torch"] == torch.__version__
    assert told["numpy"] == np.__version__
    assert told["threads"].startswith(f"{torch.get_num_threads()},")
    assert told["cache"] == f"{tmp_path}, no glyphs drawn yet"


def test_info_tells_which_executors_there_are():
    told = facts()
    assert told["reference"] == told["generic"] == "ready"
    assert told["triton"] == "missing: not part of this version of fastmaml"
    if native.unavailable():
        assert native.unavailable() in told["native on CPU"]
    else:
        assert told["native on CPU"] == "ready"
        assert extension.isa() in told["instructions"]


def test_info_tells_which_gpus_have_kernels(monkeypatch):
    module = SimpleNamespace(architectures="75-real 90 120-virtual")
    monkeypatch.setattr(info, "cuda_extension", lambda: module)
    assert facts()["CUDA kernels"] == "compiled for sm_75, sm_90"
    assert "\n                 PTX of compute_90, compute_120, " in info.describe()


def test_info_without_the_extension():
    """In a process of its own, in which the extension fails to load."""
    script = (
        "import sys; sys.modules['fastmaml._native'] = None\n"
        "from fastmaml.cli import main; sys.exit(main(['info']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing = r"native on CPU +missing: the extension module fastmaml\._native cannot be loaded"
    assert re.search(missing, done.stdout)
    assert "instructions" not in done.stdout


def test_info_with_an_instruction_set_that_is_not_there():
    """Chosen by an environment variable that is read once, hence a process of its own."""
    script = "from fastmaml.cli import main; raise SystemExit(main(['info']))"
    environment = {**os.environ, "FASTMAML_ISA": "no-such-set"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"native on CPU +missing: .*no-such-set", done.stdout)

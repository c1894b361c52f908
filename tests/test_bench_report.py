"""The reports of the comparison: tables, JSON, the picture, the README and the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bench import machine, picture, readme, report
from bench.__main__ import main
from bench.compare import Comparison, Result
from bench.contenders import BASE, CONTENDERS, CUDA_ONLY
from bench.workloads import WORKLOADS, named

MIB = 1 << 20


def a_result(seconds: float, error: float = 1e-7, float64_error: float | None = None) -> Result:
    return Result(error, float64_error, 2 * seconds, 3 * MIB, [[seconds]] * 3)


@pytest.fixture
def described() -> dict:
    """A machine, of the keys of `machine.describe`."""
    return {
        "machine": "here", "date": "2026-01-01", "cpu": "a processor", "gpu": None, "device": "cpu",
        "tf32": False, "threads": 2, "load before": 0.1, "commit": "abcdef0", "base": "0fedcba",
        "instruction set": "avx2",
        "fp32 peak, GFLOP/s": 100.0, "memory bandwidth, GB/s": 10.0, "last-level cache, MiB": 32,
        "versions": {"torch": "2.13.0", "jax": None},
    }  # fmt: skip


@pytest.fixture
def comparisons() -> list[Comparison]:
    """Everyone on one workload: one is wrong, one is absent, and one is noisy. The next after
    ours is ours too, so it is not the best of the others."""
    results = {name: a_result(2.0) for name in CONTENDERS if name not in CUDA_ONLY}
    results["fastmaml"] = a_result(1.0)
    results["autograd"] = a_result(1.1)
    results["generic"] = a_result(1.25)
    results["func"] = a_result(1.5, 1e-3, 1e-3)
    results["jax"] = Result(reason="JAX cannot be imported")
    results["higher"] = Result(1e-7, rounds=[[2.0], [3.0], [4.0]])
    return [Comparison(WORKLOADS["anil1k"], 10**10, 5 * 10**9, results)]


def test_shares_of_what_the_machine_can_do(comparisons, described):
    assert report.share_of_peak(comparisons[0], described) == pytest.approx(0.1)
    assert report.share_of_bandwidth(comparisons[0], described) == pytest.approx(0.5)
    comparisons[0].bytes = 64 * MIB - 1  # may stay in the cache
    assert report.share_of_bandwidth(comparisons[0], described) is None


def test_markdown_tells_everything(comparisons, described):
    text = report.markdown(comparisons, described)
    assert "2.00 times as fast as plain loop; 10.0% of peak; 50.0% of bandwidth" in text
    assert "| fastmaml at 0fedcba | 2 s | 2.00 | 2.00-2.00 |" in text
    assert "| torch.func | 1.5 s | WRONG |  |" in text
    assert "JAX jit: JAX cannot be imported" in text
    assert "Noisy ratios, by their quartiles: higher's by 33%" in text
    assert "The machine was NOISY: 1 of 8 ratios" in text


def test_a_quiet_machine_is_called_so(comparisons):
    comparisons[0].results["higher"] = a_result(3.0)
    assert report.noise(comparisons) == (
        "The machine was quiet: none of 8 ratios spread by more than 15%."
    )


def test_without_ratios_nothing_is_said_of_noise(comparisons):
    del comparisons[0].results["fastmaml"]
    assert report.noise(comparisons) == "Nothing was compared with fastmaml."


def test_json_has_every_figure(comparisons, described):
    figures = json.loads(json.dumps(report.as_json(comparisons, described)))
    workload = figures["workloads"]["anil1k"]
    assert workload["best other"] == "plain"
    assert workload["contenders"]["jax"] == {"reason": "JAX cannot be imported"}
    noisy = workload["contenders"]["higher"]
    assert (noisy["times ours"], noisy["times ours, quartiles"]) == (3.0, [2.5, 3.5])
    assert noisy["seconds, by round"] == [2.0, 3.0, 4.0]
    assert workload["contenders"]["func"]["times ours"] is None


@pytest.mark.parametrize("count", [1, 4])
def test_the_picture_has_a_panel_a_workload(comparisons, described, tmp_path, count):
    picture.draw(comparisons * count, described, tmp_path / "speed.png")
    with Image.open(tmp_path / "speed.png") as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(1 << 16)) > 10


def test_the_picture_of_tasks_has_a_line_a_contender(comparisons, described, tmp_path):
    of_tasks = [
        Comparison(named(f"{name}:{tasks}"), 1, 1, comparisons[0].results)
        for name in ("sine5", "anil")
        for tasks in (1, 10, 100)
    ]
    picture.draw_tasks(of_tasks, described, tmp_path / "tasks.png")
    with Image.open(tmp_path / "tasks.png") as image:
        assert image.size[0] > 1.5 * image.size[1]
        assert len(image.convert("RGB").getcolors(1 << 16)) > 10


def test_notes_say_what_a_gpu_was_told(described):
    described |= {"device": "cuda", "gpu": "a GPU", "tf32": True}
    text = " ".join(report.notes(described))
    assert "in TF32 where it is not ours" in text
    assert "until the GPU has done it" in text
    assert "Above 0.01 the contender" in text
    assert "100.0 GFLOP/s of a product of large fp32 matrices" in text


def test_a_picture_of_ours_alone(comparisons, described, tmp_path):
    comparisons[0].results = {"fastmaml": comparisons[0].results["fastmaml"]}
    picture.draw(comparisons, described, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 0


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_bandwidth_of_memory_is_measured():
    cores = tuple(sorted(machine.os.sched_getaffinity(0)))[:1]
    assert 1e8 < machine.memory_bandwidth(cores) < 1e13


def test_the_readme_is_cut_from_the_figures_that_it_names():
    text = readme.README.read_text()
    path = readme.source(text)
    figures = json.loads((readme.README.parent / path).read_text())
    assert text == readme.updated(text, path, figures), f"run python -m bench.readme {path}"


def test_a_readme_is_cut_anew(comparisons, described):
    old = "before\n<!-- bench: old.json -->\nold\n<!-- /bench -->\nafter\n"
    figures = report.as_json(comparisons, described)
    text = readme.updated(old, Path("results/results.json"), figures)
    assert text.startswith("before\n<!-- bench: results/results.json -->\nOne meta-gradient")
    assert text.endswith("<!-- /bench -->\nafter\n")
    assert (
        "| anil1k | 1 s | 1.1 s | 1.25 s | 2 s | 2 s | 3 s | 2 s | 1.5 s (wrong) | 2 s | - | 2.00 |"
        in text
    )
    assert "Did not run: JAX jit (JAX cannot be imported), on anil1k." in text
    assert "The machine was NOISY" in text
    assert BASE not in text.split("|")
    assert readme.updated(text, Path("results/results.json"), figures) == text


def test_a_readme_without_a_table_is_refused():
    with pytest.raises(ValueError, match="there is no <!-- bench"):
        readme.updated("no table", Path("results.json"), {})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nonsense",), "nonsense: there is no such workload"),
        (("omniconv",), "there is no convolution yet"),
        (("--threads", "0", "sine"), "--threads must be 1 to"),
        (("--tasks", "10", "0"), "--tasks must be positive, got 0"),
        (("--contenders", "nobody"), "invalid choice: 'nobody'"),
        (("--readme", "--out", "/tmp/elsewhere"), "--out must be in"),
    ],
)
def test_the_command_refuses(capsys, arguments, text):
    with pytest.raises(SystemExit) as ending:
        main(arguments, prog="fastmaml bench")
    assert ending.value.code == 2
    assert text in capsys.readouterr().err


def test_the_command_says_that_a_base_is_no_commit(capsys, monkeypatch):
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")  # main sets them; so they are set back
    assert main(["sine", "--threads", "1", "--base", "no-such-revision"], "fastmaml bench") == 2
    error = "fastmaml bench: error: --base: no-such-revision is no commit of"
    assert error in capsys.readouterr().err

"""What the comparison compares with: other libraries, and other versions of fastmaml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fastmaml as fm
import numpy as np
import pytest
import torch

from bench import base, peers
from bench.compare import relative_error
from bench.contenders import BASE, plain_loop
from bench.entrants import Entrants
from bench.step import Contender, Unavailable
from bench.worker import Setting, Worker
from bench.workloads import WARM_UP, WORKLOADS

CPU = torch.device("cpu")
CORES = (min(os.sched_getaffinity(0)),)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def no_learn2learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """learn2learn is neither installed nor in the cache, which is the folder returned."""
    loaded = [name for name in sys.modules if name.split(".")[0] == "learn2learn"]
    for name in ("learn2learn", "learn2learn.algorithms", "learn2learn.algorithms.maml", *loaded):
        monkeypatch.setitem(sys.modules, name, None)  # what was there comes back in the end
        del sys.modules[name]
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("make", [peers.higher, peers.torchopt], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["sine", "sine5", "anil"])
def test_libraries_agree_in_float64(name: str, make: Contender):
    check_twice(name, make)


def test_learn2learn_agrees_in_float64():
    if not (peers.cache_folder() / f"learn2learn-{peers.LEARN2LEARN}").exists():
        pytest.skip("learn2learn has not been downloaded")
    check_twice("sine5", peers.learn2learn)


def check_twice(name: str, make: Contender) -> None:
    """The second call too: the first must leave the initial parameters as they were."""
    try:
        step = make(WORKLOADS[name], CPU, torch.float64)
    except Unavailable as reason:
        pytest.skip(str(reason))
    exact = {
        key: value.numpy()
        for key, value in plain_loop(WORKLOADS[name], CPU, torch.float64)().items()
    }
    for _ in range(2):
        gradients = {key: np.asarray(value) for key, value in step().items()}
        assert relative_error(gradients, exact) < 1e-9


@pytest.mark.parametrize("name", ["higher", "torchopt"])
def test_a_library_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unavailable, match=f"{name} cannot be imported"):
        getattr(peers, name)(WARM_UP, CPU, torch.float32)


def test_of_learn2learn_only_what_maml_needs_is_imported(no_learn2learn: Path):
    package = no_learn2learn / f"learn2learn-{peers.LEARN2LEARN}" / "learn2learn"
    (package / "algorithms").mkdir(parents=True)
    for folder in (package, package / "algorithms"):
        (folder / "__init__.py").write_text("raise ImportError('what must be compiled')\n")
    (package / "utils.py").write_text("answer = 42\n")
    (package / "algorithms" / "maml.py").write_text(
        "from learn2learn.utils import answer\nclass MAML:\n    told = answer\n"
    )
    assert peers._learn2learn_maml().told == 42


def test_without_a_network_learn2learn_is_unavailable(
    no_learn2learn: Path, monkeypatch: pytest.MonkeyPatch
):
    failed = SimpleNamespace(returncode=1, stderr="WARNING: slow\nERROR: no such host\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(Unavailable, match="cannot be downloaded: ERROR: no such host"):
        peers.learn2learn(WARM_UP, CPU, torch.float32)
    assert list(no_learn2learn.iterdir()) == []


def test_the_base_is_another_fastmaml(tmp_path: Path):
    shutil.copytree(Path(fm.__file__).parent, tmp_path / "fastmaml")
    setting = Setting("cpu", CORES, measures_memory=False, base=tmp_path)
    said: list[str] = []
    entrants = Entrants("sine", ["fastmaml", BASE], setting, limit=120, say=said.append)
    compared = entrants.compare(seconds=0.1, rounds=3, least=5)
    assert [result.reason for result in compared.results.values()] == [None, None]
    assert compared.results[BASE].is_right
    assert len(compared.results[BASE].rounds) == 3
    assert compared.ratio(BASE).median > 0
    turns = [what.split(":")[0] for what in said if "round" in what]
    assert turns == ["fastmaml", BASE, BASE, "fastmaml", "fastmaml", BASE]


def test_a_base_without_fastmaml_is_not_taken_for_one(tmp_path: Path):
    worker = Worker(BASE, "sine", Setting("cpu", CORES, base=tmp_path))
    try:
        with pytest.raises(Unavailable, match="there is no fastmaml in"):
            worker.prepare(limit=120)
    finally:
        worker.stop()
    assert str(tmp_path) not in sys.path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository of one commit, which does not build."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "no_such_backend"\n'
    )
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "1"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_an_unknown_revision_is_refused(repository: Path, tmp_path: Path):
    with pytest.raises(base.BuildError, match="no-such-revision is no commit of"):
        base.build("no-such-revision", tmp_path / "built", repository)


def test_a_revision_that_does_not_build_is_refused_with_the_reason(
    repository: Path, tmp_path: Path
):
    with pytest.raises(base.BuildError, match=r"(?s)HEAD \(\w+\) does not build:.*no_such_backend"):
        base.build("HEAD", tmp_path / "built", repository)

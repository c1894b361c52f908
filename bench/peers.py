"""Libraries of the same purpose: learn2learn, higher and TorchOpt.

Each is used as its own example of MAML uses it (maml_omniglot in learn2learn, maml-omniglot in
higher, few-shot/maml_omniglot in TorchOpt), task by task with a backward a task.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
from fastmaml.cache import cache_folder
from torch import nn

from .step import LOSSES, Gradients, Step, Unavailable, samples_of
from .workloads import Workload

LEARN2LEARN = "0.2.0"
"""The release that is downloaded where none is installed."""

_DOWNLOAD_SECONDS = 60


def learn2learn(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`learn2learn.algorithms.MAML`: a clone a task, adapted in K steps."""
    maml_class = _learn2learn_maml()
    samples = samples_of(workload, device, dtype)
    maml = maml_class(workload.model(dtype).to(device), lr=workload.lr)
    loss = LOSSES[workload.loss]

    def step() -> Gradients:
        maml.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*samples, strict=True):
            learner = maml.clone()
            for _ in range(workload.steps):
                learner.adapt(loss(learner(support_x), support_y))
            (loss(learner(query_x), query_y) / workload.tasks).backward()
        return _gradients(maml.module)

    return step


def higher(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`higher.innerloop_ctx`: a functional model and a differentiable optimiser a task."""
    library = _imported("higher")
    samples = samples_of(workload, device, dtype)
    model = workload.model(dtype).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=workload.lr)
    loss = LOSSES[workload.loss]

    def step() -> Gradients:
        model.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*samples, strict=True):
            with library.innerloop_ctx(model, optimiser, copy_initial_weights=False) as (
                functional_model,
                differentiable_optimiser,
            ):
                for _ in range(workload.steps):
                    differentiable_optimiser.step(loss(functional_model(support_x), support_y))
                (loss(functional_model(query_x), query_y) / workload.tasks).backward()
        return _gradients(model)

    return step


def torchopt(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`torchopt.MetaSGD`, which is differentiable SGD, and the state set back after each task."""
    library = _imported("torchopt")
    samples = samples_of(workload, device, dtype)
    model = workload.model(dtype).to(device)
    parameters = dict(model.named_parameters())
    optimiser = library.MetaSGD(model, lr=workload.lr)
    loss = LOSSES[workload.loss]
    initial = library.extract_state_dict(model, by="reference")
    initial_optimiser = library.extract_state_dict(optimiser, by="reference")

    def step() -> Gradients:
        model.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*samples, strict=True):
            for _ in range(workload.steps):
                optimiser.step(loss(model(support_x), support_y))
            (loss(model(query_x), query_y) / workload.tasks).backward()
            library.recover_state_dict(model, initial)
            library.recover_state_dict(optimiser, initial_optimiser)
        return {name: parameter.grad for name, parameter in parameters.items()}

    return step


def _gradients(model: nn.Module) -> Gradients:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def _imported(name: str) -> types.ModuleType:
    """
    Raises:
        Unavailable: it is not installed, or does not work with what is.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # what an old library does when it meets a new torch is its own
        raise Unavailable(f"{name} cannot be imported: {error}") from error


def _learn2learn_maml() -> type[nn.Module]:
    """learn2learn's MAML, without the parts of the package that must be compiled.

    Its Cython code does not build on Python 3.11 and newer, and all of it is imported by the
    package's own __init__. MAML needs none of it. So the two packages above it are made by hand,
    of what is installed or else of the source from the package index.
    """
    if "learn2learn" not in sys.modules:
        found = importlib.util.find_spec("learn2learn")
        folder = Path(found.origin).parent if found and found.origin else _learn2learn_source()
        for name in ("learn2learn", "learn2learn.algorithms"):
            package = types.ModuleType(name)
            package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
    return _imported("learn2learn.algorithms.maml").MAML


def _learn2learn_source() -> Path:
    """The package's folder in the cache, downloaded at the first call.

    Raises:
        Unavailable: there is no such download here.
    """
    name = f"learn2learn-{LEARN2LEARN}"
    kept = cache_folder() / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            archive = _downloaded(f"learn2learn=={LEARN2LEARN}", Path(folder))
            shutil.unpack_archive(archive, folder, filter="data")
            os.replace(Path(folder, name), kept)  # at once, or another process could find a half
    return kept / "learn2learn"


def _downloaded(requirement: str, folder: Path) -> Path:
    """The source archive of a release, by pip."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "learn2learn"]
    options = ["--retries", "0", "--timeout", "5", "--quiet", "--dest", folder]
    try:
        done = subprocess.run(
            [*pip, *options, requirement], capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{requirement} was not downloaded in {_DOWNLOAD_SECONDS} s") from None
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable(
            f"{requirement} cannot be downloaded: {errors[0] if errors else done.stderr.strip()}"
        )
    return archives[0]

"""What several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from device import skip_if_refused
from fastmaml.executors import generic, native, reference
from fastmaml.executors.generic import trial
from small_problems import Net
from torch import Tensor, nn


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small only lose time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def gears_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generic executor takes the first gear that is right, whatever time each takes here."""
    by_place = {gear: place for place, gear in enumerate(generic.GEARS)}
    monkeypatch.setattr(trial, "seconds_a_task", lambda gears, *_: {g: by_place[g] for g in gears})


@pytest.fixture(params=[reference, native], ids=["reference", "native"])
def executor(request: pytest.FixtureRequest) -> ModuleType:
    """Every executor, as a module; native where it is built."""
    if request.param is native and native.unavailable():
        pytest.skip(native.unavailable())
    return request.param


@pytest.fixture(params=["reference", "native", "generic"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every executor, by its name; native where it is built."""
    if request.param == "native" and native.unavailable():
        pytest.skip(native.unavailable())
    return request.param


@pytest.fixture(params=["native", "reference", "generic"])
def device_backend(request: pytest.FixtureRequest) -> str:
    """Every executor, by its name; those that run on the device of the CUDA tests."""
    skip_if_refused(request.param)
    return request.param


@pytest.fixture
def model() -> nn.Module:
    """A small classifier in float64: 4 features, 3 classes, parameters in seven slots."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.SiLU(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


@pytest.fixture
def episode() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support and query of 3 tasks: 5 and 6 samples of 4 features, 3 classes, float64."""
    generator = torch.Generator().manual_seed(1)
    support_x = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    support_y = torch.randint(3, (3, 5), generator=generator)
    query_x = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    query_y = torch.randint(3, (3, 6), generator=generator)
    return support_x, support_y, query_x, query_y

"""CUDA kernels compiled for one call, as far as a machine without a GPU can tell: they compile."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import fastmaml as fm
import pytest
import torch
from fastmaml.executors.native import compiled, nvrtc, recipes
from fastmaml.extension import cuda_extension
from small_problems import double
from torch import nn


@pytest.fixture
def module() -> ModuleType:
    found = cuda_extension()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def compiler() -> None:
    try:
        nvrtc.version()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))


def several_ops() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 8),
        nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def source(
    monkeypatch, module: ModuleType, model: nn.Module, samples: int = 5, **sizes: int
) -> str:
    """The source for the meta-gradient of a model, as it would be on a GPU of such sizes."""
    described = []

    class Launcher(recipes.CpuLauncher):
        def __init__(self, *call: object) -> None:
            super().__init__(*call)
            described.append(call)

    monkeypatch.setattr(recipes, "CpuLauncher", Launcher)
    torch.manual_seed(0)
    dtype = next(model.parameters()).dtype
    x = double(3, samples, 4).to(dtype)
    y = x[..., :3].argmax(-1)
    fm.MAML(model, lr=0.1, steps=2, backend="native")(x, y, x, y).loss.backward()
    plan = module.LaunchPlan()
    chosen = {"log_lanes": 7, "log_blocks": 0, "scratch_size": 4096, "blocks_together": 1}
    for name, value in {
        **chosen,
        "image_bytes": 3000,
        "fast_size": 1 << 14,
        "slow_size": 0,
        **sizes,
    }.items():
        setattr(plan, name, value)
    program, call, is_double, entries = described[-1]
    return module.source(plan, program, call, entries, is_double)


@pytest.mark.parametrize(
    ("architecture", "dtype", "sizes"),
    [
        ("sm_75", torch.float64, {}),
        (
            "sm_90",
            torch.float32,
            {"log_lanes": 9, "log_blocks": 2, "fast_size": 0, "slow_size": 64},
        ),
    ],
    ids=["Turing, all shared", "Hopper, clusters"],
)
def test_it_compiles(
    monkeypatch, module, compiler, architecture: str, dtype: torch.dtype, sizes: dict[str, int]
):
    text = source(monkeypatch, module, several_ops().to(dtype), **sizes)
    binary = nvrtc.compile_source(text, architecture)
    assert binary.startswith(b"\x7fELF")
    assert b"run_compiled" in binary


def test_a_source_is_one_of_shapes(monkeypatch, module):
    """It may be kept for calls with other tensors, and must not for calls of other shapes."""
    text = source(monkeypatch, module, nn.Linear(4, 3))
    assert source(monkeypatch, module, nn.Linear(4, 3)) == text
    others = [
        source(monkeypatch, module, nn.Linear(4, 3), samples=6),
        source(monkeypatch, module, nn.Linear(4, 3, bias=False)),
        source(monkeypatch, module, nn.Linear(4, 3).double()),
        source(monkeypatch, module, nn.Linear(4, 3), log_lanes=8),
        source(monkeypatch, module, nn.Linear(4, 3), slow_size=64),
    ]
    assert len({text, *others}) == 6


def test_what_a_compiler_refuses(compiler):
    with pytest.raises(nvrtc.CompileError, match=r"for sm_90.*no_such_thing"):
        nvrtc.compile_source("int x = no_such_thing;", "sm_90")


def test_binaries_are_kept(monkeypatch, tmp_path):
    made = []

    def compile_source(source: str, architecture: str) -> bytes:
        made.append((source, architecture))
        return f"{source} {architecture}".encode()

    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "version", lambda: "13.0")
    monkeypatch.setattr(nvrtc, "compile_source", compile_source)
    for _ in range(2):
        assert compiled.binary("a", "sm_90") == b"a sm_90"
        assert compiled.binary("a", "sm_80") == b"a sm_80"
    assert made == [("a", "sm_90"), ("a", "sm_80")]
    monkeypatch.setattr(nvrtc, "version", lambda: "13.1")
    compiled.binary("a", "sm_90")
    assert len(made) == 3


def test_a_damaged_binary_is_made_anew(monkeypatch, tmp_path):
    class Extension:
        architecture = staticmethod(lambda device: f"sm_9{device}")

        @staticmethod
        def CompiledKernel(device: int, binary: bytes) -> bytes:
            if binary != b"sound":
                raise RuntimeError("CUDA: a compiled kernel cannot be loaded")
            return binary

    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(compiled, "cuda_extension", Extension)
    monkeypatch.setattr(nvrtc, "version", lambda: "13.0")
    monkeypatch.setattr(nvrtc, "compile_source", lambda *_: b"sound")
    assert compiled.kernel("a", 0) == b"sound"
    (path,) = (tmp_path / "kernels").glob("*.cubin")
    path.write_bytes(b"half")
    compiled._kernels.clear()
    assert compiled.kernel("a", 0) == b"sound"
    assert path.read_bytes() == b"sound"
    assert list(compiled._kernels) == [("a", 0)]


def test_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "version", lambda: "13.0")
    monkeypatch.setattr(nvrtc, "compile_source", lambda *_: b"made")
    with pytest.warns(UserWarning, match="compiled again"):
        assert compiled.binary("a", "sm_90") == b"made"


@pytest.fixture
def setting(monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """FASTMAML_COMPILE, which is read once."""
    compiled.runs_before.cache_clear()
    yield monkeypatch
    compiled.runs_before.cache_clear()


@pytest.mark.parametrize(("given", "runs"), [("7", 7), ("0", 0), ("never", None)])
def test_when_it_is_compiled(setting, given: str, runs: int | None):
    setting.setenv("FASTMAML_COMPILE", given)
    assert compiled.runs_before() == runs
    setting.delenv("FASTMAML_COMPILE")
    compiled.runs_before.cache_clear()
    assert compiled.runs_before() == compiled.RUNS_BEFORE


def test_a_wrong_setting_is_named(setting):
    setting.setenv("FASTMAML_COMPILE", "soon")
    with pytest.raises(ValueError, match=r"FASTMAML_COMPILE is 'soon'.*number of runs, or never"):
        compiled.runs_before()

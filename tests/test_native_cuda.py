"""The extension of the CUDA kernels, where there is no GPU: it loads, and says what is missing.

What needs a GPU is in the files test_cuda_*.py.
"""

from __future__ import annotations

import ctypes

import fastmaml as fm
import pytest
import torch
from fastmaml.extension import cuda_extension, cuda_unavailable, extension
from torch import nn

module = cuda_extension()
needs_module = pytest.mark.skipif(isinstance(module, str), reason=str(module))
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def has_driver() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        return False


@without_gpu
def test_a_missing_gpu_is_said():
    assert cuda_unavailable(0)


@needs_module
@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch was built with CUDA")
def test_a_pytorch_without_cuda_is_said():
    assert cuda_unavailable(0) == f"PyTorch {torch.__version__} was built without CUDA"


@needs_module
@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver")
def test_a_missing_driver_is_said():
    assert module.device_refusal(0) == "there is no NVIDIA driver"


@needs_module
@without_gpu
def test_the_module_loads_without_a_driver():
    assert module.__version__ == fm.__version__
    assert module.architectures
    assert module.device_refusal(0)


@needs_module
@without_gpu
def test_it_takes_programs_and_calls_of_the_other_module():
    """What it cannot do without a GPU is the device's error, not one of types."""
    program = extension.Program([], [3], [], 0, "none", 0.0)
    with pytest.raises(RuntimeError, match="CUDA: "):
        module.plan(program, extension.Call(), 1, False, 0)


def test_tensors_of_neither_device_are_refused():
    maml = fm.MAML(nn.Linear(2, 1), 0.1, 1, loss="mse", backend="native").to("meta")
    x, y = torch.ones(1, 2, 2, device="meta"), torch.ones(1, 2, 1, device="meta")
    with pytest.raises(fm.BackendError, match="CPUs and CUDA"):
        maml(x, y, x, y)

"""The extension modules, or why there are none."""

from __future__ import annotations

from functools import cache

import torch

try:
    from fastmaml import _native as extension

    _import_error = None
except ImportError as error:
    extension = None
    _import_error = str(error)


@cache
def unavailable() -> str | None:
    """Why this process has no native executor; None if it has."""
    if extension is None:
        return f"the extension module fastmaml._native cannot be loaded: {_import_error}"
    try:
        extension.isa()
    except RuntimeError as error:  # FASTMAML_ISA names what this processor has not
        return str(error)
    return None


@cache
def cuda_extension() -> object | str:
    """The extension module of the CUDA kernels, or why there is none."""
    if unavailable():
        return unavailable()
    try:
        from fastmaml import _native_cuda
    except ModuleNotFoundError:
        return "this fastmaml was built without CUDA kernels (nvcc was not found)"
    except ImportError as error:
        return f"the extension module fastmaml._native_cuda cannot be loaded: {error}"
    return _native_cuda


@cache
def cuda_unavailable(device: int) -> str | None:
    """Why there is no native executor on a GPU; None if there is."""
    module = cuda_extension()
    if isinstance(module, str):
        return module
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA"
    if refusal := module.device_refusal(device):
        return refusal
    return None if torch.cuda.is_available() else "PyTorch finds no GPU"

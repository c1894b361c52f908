"""Where the tests of CUDA run, which is another device where FASTMAML_TEST_DEVICE names one.

With FASTMAML_TEST_DEVICE=cpu they show on any machine that they are right themselves; what needs
streams, graphs or a memory of its own is skipped then.
"""

from __future__ import annotations

import os

import fastmaml as fm
import pytest
import torch
from oracle import Tree, map_tensors
from torch import Tensor, nn

DEVICE = torch.device(os.environ.get("FASTMAML_TEST_DEVICE", "cuda"))
ELSEWHERE = torch.device("cpu" if DEVICE.type == "cuda" else "meta")
"""Any other device."""

_HAS_CUDA = torch.cuda.is_available()
needs_device = pytest.mark.skipif(
    DEVICE.type == "cuda" and not _HAS_CUDA, reason="there is no CUDA device"
)
needs_cuda = pytest.mark.skipif(
    DEVICE.type != "cuda" or not _HAS_CUDA, reason="it is about a CUDA device, and there is none"
)


def there(tree: Tree) -> Tree:
    """The same tensors on the device."""
    return map_tensors(tree, lambda tensor: tensor.to(DEVICE))


def back(tree: Tree) -> Tree:
    """The same tensors on the host."""
    return map_tensors(tree, Tensor.cpu)


def skip_if_refused(backend: str) -> None:
    """Skip a test, with the reason, where a backend runs nothing at all on the device."""
    x = torch.zeros(1, 2, 3, device=DEVICE)
    try:
        fm.MAML(nn.Linear(3, 3).to(DEVICE), 0.1, 1, backend=backend).plan(x, x)
    except fm.BackendError as refusal:
        pytest.skip(str(refusal))

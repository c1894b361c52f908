"""Running a module's forward so that the module is afterwards as it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def restored_attributes(model: nn.Module) -> Iterator[None]:
    """Undo what a forward writes to its modules: stand-ins for tensors must not stay there."""
    before = [(vars(module), dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for state, saved in before:
            if any(state.get(name, state) is not value for name, value in saved.items()):
                state.update(saved)
            for name in state.keys() - saved.keys():
                del state[name]


@contextlib.contextmanager
def restored_generators(device: torch.device) -> Iterator[None]:
    """Undo what is drawn from torch's default generators, on the host and on `device`."""
    is_host = device.type in ("cpu", "meta")
    where = () if is_host else (device,)
    with torch.random.fork_rng(where, device_type="cuda" if is_host else device.type):
        yield

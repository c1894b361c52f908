"""Running a module's forward so that the module is afterwards as it was before."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

modules_lock = threading.RLock()
"""Held while modules are not as their owner sees them, since they hold other tensors or are traced,
and while somebody reads what they hold."""
# A child that is forked meanwhile would keep them so, and wait for the lock for ever.
os.register_at_fork(
    before=modules_lock.acquire,
    after_in_parent=modules_lock.release,
    after_in_child=modules_lock.release,
)


class StatelessModule:
    """A module that is called with given tensors in the place of its parameters and buffers.

    As torch.func.functional_call, which looks all names up at every call; this does it once, for
    calls in a row, and undoes what forward writes to its modules. The caller holds `modules_lock`.

    Args:
        module: is to keep its submodules as long as this is used.
        aliases: first names of parameters and buffers, by every name that they have.
    """

    def __init__(self, module: nn.Module, aliases: Mapping[str, str]) -> None:
        self._module = module
        self._modules = list(module.modules())
        self._places = []
        for alias, first in aliases.items():
            path, _, name = alias.rpartition(".")
            owner = module.get_submodule(path)
            tensors = owner._parameters if name in owner._parameters else owner._buffers
            self._places.append((tensors, name, first))

    def __call__(self, state: Mapping[str, Tensor | None], x: Tensor) -> Any:
        """What forward returns of x, with the tensors of `state` by first name, or without."""
        own = [tensors[name] for tensors, name, _ in self._places]
        with _restored(self._modules):
            try:
                for tensors, name, first in self._places:
                    tensors[name] = state[first]
                return self._module(x)
            finally:
                for (tensors, name, _), tensor in zip(self._places, own, strict=True):
                    tensors[name] = tensor


def restored_attributes(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Undo what a forward writes to its modules: stand-ins for tensors must not stay there."""
    return _restored(model.modules())


@contextlib.contextmanager
def _restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    states = map(vars, modules)
    before = [(state, list(state), list(state.values())) for state in states]
    try:
        yield
    finally:
        for state, names, values in before:
            if list(state) == names and all(map(is_, state.values(), values)):
                continue
            saved = dict(zip(names, values, strict=True))
            for name in state.keys() - saved.keys():
                del state[name]
            state.update(saved)


@contextlib.contextmanager
def restored_generators(device: torch.device) -> Iterator[None]:
    """Undo what is drawn from torch's default generators, on the host and on `device`."""
    is_host = device.type in ("cpu", "meta")
    where = () if is_host else (device,)
    with torch.random.fork_rng(where, device_type="cuda" if is_host else device.type):
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's default generators on the host and on `device`: those that
    `restored_generators` puts back, where torch.manual_seed would seed every device's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type not in ("cpu", "meta"):
        torch.manual_seed(seed)


@contextlib.contextmanager
def undisturbed_modules(model: nn.Module, device: torch.device) -> Iterator[None]:
    """What must hold while a user's forward runs, and autograd in or behind it.

    `modules_lock` is held, and autograd stays in this thread. Its own thread for a GPU serves the
    backward passes of all threads, one of which may wait for the lock there.

    Recurrent layers do without cuDNN: it has no second derivative, and they would rearrange the
    memory of the tensors that they are given.
    """
    is_recurrent = device.type == "cuda" and any(
        isinstance(module, nn.RNNBase) for module in model.modules()
    )
    with modules_lock, torch.autograd.set_multithreading_enabled(False):
        before = torch.backends.cudnn.enabled
        if is_recurrent:
            torch.backends.cudnn.enabled = False
        try:
            yield
        finally:
            if is_recurrent:
                torch.backends.cudnn.enabled = before

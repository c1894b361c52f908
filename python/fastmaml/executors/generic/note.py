"""What is said aloud of the generic executor: once a model, which gear runs it, and why."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping

from torch import nn

from ...program import ModuleProgram


class GenericNote(UserWarning):
    """A model runs as it is, without kernels of its own; the message says how, and why."""


class DerivativeWarning(UserWarning):
    """PyTorch's second derivative of a model is not what its first derivatives say."""


_noted: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def note(program: ModuleProgram, gear: str, passed_over: Mapping[str, str]) -> None:
    """Warn of it, unless it was said of this model before."""
    model = program.module
    if model in _noted:
        return
    _noted.add(model)
    message = f"{type(model).__name__} runs by the generic executor, in {gear}: {program.why}"
    warnings.warn(message + reasons(passed_over), GenericNote, stacklevel=2)


def reasons(passed_over: Mapping[str, str]) -> str:
    """Why not a faster gear, to be appended; empty if there is none."""
    return "".join(f"; not in {name}: {reason}" for name, reason in passed_over.items())


def warn_of_second_derivatives(name: str, error: float) -> None:
    """Say that they may be wrong."""
    warnings.warn(
        f"the second derivatives of {name} differ by {error:.1e} of the largest from differences "
        "of its gradients: an autograd.Function in it has a backward that cannot be "
        "differentiated, forward stops a gradient (as spectral_norm does in training), or "
        "PyTorch's own rule for an operation is wrong",
        DerivativeWarning,
        stacklevel=2,
    )

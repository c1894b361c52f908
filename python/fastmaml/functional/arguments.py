"""From what users hand in to what an executor is asked: a model bound to its parameters."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import checks
from ..program import InnerLoop, Inputs, Loss, Program, Samples, TraceError, traced
from . import rates
from .calls import is_autocast_on

NamePattern: TypeAlias = "str | Sequence[str] | Callable[[str], bool]"
"""Names of parameters: a shell pattern, several of them, or a predicate."""


class Bound:
    """A model traced for samples of one shape, with the tensor that each of its slots holds.

    Args:
        model: what to trace.
        x_name: the name of `x` in messages.
        x: [T, n, *sample], whose shape the program is traced for.
        parameters: by name, [*shape] or [T, *shape]; the model's own where it has none.
    """

    def __init__(
        self,
        model: nn.Module,
        x_name: str,
        x: Tensor,
        parameters: Mapping[str, Tensor] | None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        checks.x(x_name, x)
        self.autocast = is_autocast_on(x.device.type)
        if self.autocast:
            warn_of_autocast()
        self.model = model
        self.tasks = x.shape[0]
        self.program = _program(model, x_name, tuple(x.shape[2:]))
        own = tuple(_parameter(model, path) for path in _paths(self.program))
        self.trainable = tuple(parameter.requires_grad for parameter in own)
        self.parameters = tuple(
            self.cast(parameter) for parameter in self._overridden(own, parameters)
        )
        like = self.parameters[0] if self.parameters else self.cast(x)
        self.dtype, self.device = like.dtype, like.device
        self._check_parameters()

    def cast(self, value: Any) -> Any:
        """Half-precision tensors as float32 under autocast, all else as it is."""
        if (
            self.autocast
            and isinstance(value, Tensor)
            and value.dtype in (torch.float16, torch.bfloat16)
        ):
            return value.float()
        return value

    def adapted(self, inner_parameters: NamePattern | None) -> tuple[bool, ...]:
        """Which slots the inner loop adapts: those that are named and not frozen."""
        if inner_parameters is None:
            named = self.trainable
        else:
            chosen = _chosen(self.model, self.program, inner_parameters)
            named = tuple(a and b for a, b in zip(chosen, self.trainable, strict=True))
        if not any(named):
            wanted = "" if inner_parameters is None else " and inner_parameters names it"
            raise ValueError(
                "nothing is left to adapt: a parameter is adapted if the model's forward uses "
                f"it, its requires_grad is True{wanted}, got model {type(self.model).__name__} "
                f"with inner_parameters={inner_parameters!r}"
            )
        return named

    def loop(
        self,
        loss: Loss,
        adapted: tuple[bool, ...],
        steps: Any,
        momentum: Any,
        first_order: Any,
        step_weights: Sequence[float] | None = None,
    ) -> InnerLoop:
        """The part of a call that holds no tensor, checked."""
        steps = checks.steps(steps)
        return InnerLoop(
            self.program,
            loss,
            adapted,
            steps,
            checks.number("momentum", momentum, minimum=0.0),
            checks.step_weights(step_weights, steps),
            checks.flag("first_order", first_order),
        )

    def samples(
        self, role: str, x: Any, y: Any, weights: Any, size: Any, loss: Loss | None
    ) -> Samples:
        """The support or the query, checked; see `checks.samples`."""
        return checks.samples(
            role,
            self.cast(x),
            self.cast(y),
            self.cast(weights),
            size,
            program=self.program,
            loss=loss,
            dtype=self.dtype,
            device=self.device,
            tasks=self.tasks,
        )

    def rates(self, lr: Any, loop: InnerLoop) -> tuple[Tensor | None, ...]:
        """One rate a slot; see `rates.resolve`."""
        resolved = rates.resolve(
            lr, self.model, self.program, loop.adapted, self.dtype, self.device, self.cast
        )
        return resolved if loop.steps else self.no_rates()

    def no_rates(self) -> tuple[None, ...]:
        """For a call that takes no step."""
        return (None,) * len(self.program.slots)

    def inputs(
        self,
        rates: tuple[Tensor | None, ...],
        support: Samples | None,
        query: Samples | None,
        seed: Any,
    ) -> Inputs:
        """The tensors of a call; `seed` None is drawn from torch's default generator."""
        if seed is not None:
            seed = checks.seed(seed)
        elif self.program.has_dropout:
            seed = int(torch.randint(2**32, (), dtype=torch.int64))
        return Inputs(self.parameters, rates, support, query, seed or 0)

    def _overridden(
        self, own: tuple[Tensor, ...], parameters: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, ...]:
        if parameters is None:
            return own
        if not isinstance(parameters, Mapping):
            raise TypeError(
                f"parameters must map names to tensors, got {type(parameters).__name__}"
            )
        for name, tensor in parameters.items():
            checks.tensor(f"parameters[{name!r}]", tensor)
        names = tuple(slot.name for slot in self.program.slots)
        if not parameters.keys() <= set(names):
            known = dict(self.model.named_parameters())
            for name, tensor in parameters.items():
                if name not in known:
                    raise ValueError(
                        f"parameters has {name!r}, which model.named_parameters() has not"
                    )
                self._check_shape(name, tensor, known[name].shape)
        return tuple(parameters.get(name, tensor) for name, tensor in zip(names, own, strict=True))

    def _check_parameters(self) -> None:
        if not self.dtype.is_floating_point:
            raise TypeError(f"the model's parameters must be of a float dtype, got {self.dtype}")
        for slot, parameter in zip(self.program.slots, self.parameters, strict=True):
            checks.alike(f"parameters[{slot.name!r}]", parameter, self.dtype, self.device)
            self._check_shape(slot.name, parameter, slot.shape)

    def _check_shape(self, name: str, parameter: Tensor, shape: tuple[int, ...]) -> None:
        if parameter.shape not in (shape, (self.tasks, *shape)):
            raise ValueError(
                f"parameters[{name!r}] must be {list(shape)} or {[self.tasks, *shape]}, one for "
                f"each task, got shape {tuple(parameter.shape)}"
            )


def _program(model: nn.Module, x_name: str, sample_shape: tuple[int, ...]) -> Program:
    try:
        return traced(model, sample_shape)
    except TraceError as error:
        shape = list(sample_shape)
        raise TraceError(f"{error} (traced for {x_name}, whose samples are {shape})") from error


@cache
def warn_of_autocast() -> None:
    """Once in the life of a process."""
    warnings.warn(
        "fastmaml runs its inner loop in float32 under autocast", UserWarning, stacklevel=2
    )


@lru_cache(maxsize=256)
def _paths(program: Program) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(slot.name.split(".")) for slot in program.slots)


def _parameter(module: nn.Module, path: tuple[str, ...]) -> nn.Parameter:
    """What `module.get_parameter` returns, in a tenth of the time."""
    *owners, leaf = path
    for owner in owners:
        module = module._modules[owner]
    return module._parameters[leaf]


_flags: weakref.WeakKeyDictionary[Program, dict[tuple[str, ...], tuple[bool, ...]]] = (
    weakref.WeakKeyDictionary()
)


def _chosen(model: nn.Module, program: Program, names: NamePattern) -> tuple[bool, ...]:
    """Whether `names` names each slot; kept where it cannot change."""
    if callable(names):
        chosen = named(model, names)
        return tuple(slot.name in chosen for slot in program.slots)
    patterns = _patterns(names)
    known = _flags.setdefault(program, {})
    if patterns not in known:
        chosen = named(model, patterns)
        known[patterns] = tuple(slot.name in chosen for slot in program.slots)
    return known[patterns]


def named(model: nn.Module, names: NamePattern | None) -> set[str]:
    """The parameters that `names` names, each by its first name and under any name that it has.

    Raises:
        TypeError: `names` is none of what `NamePattern` says.
        ValueError: a pattern matches no parameter.
    """
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases[name] = first.setdefault(id(parameter), name)
    if names is None:
        return set(aliases.values())
    if callable(names):
        return {of for name, of in aliases.items() if names(name)}
    chosen: set[str] = set()
    for pattern in _patterns(names):
        matches = {of for name, of in aliases.items() if fnmatchcase(name, pattern)}
        if not matches:
            raise ValueError(
                f"inner_parameters must match parameters of the model ({', '.join(aliases)}), "
                f"got {pattern!r}, which matches none"
            )
        chosen |= matches
    return chosen


def _patterns(names: str | Sequence[str]) -> tuple[str, ...]:
    """One pattern or several, as several."""
    try:
        patterns = (names,) if isinstance(names, str) else tuple(names)
    except (TypeError, RuntimeError):  # the latter from nested tensors
        patterns = (names,)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                "inner_parameters must be a name pattern, a list of them or a callable, "
                f"got {pattern!r}"
            )
    return patterns

"""From what users hand in to what an executor is asked: a model bound to its parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import checks
from ..plan import BACKENDS
from ..program import InnerLoop, Inputs, Loss, ModuleProgram, Program, Samples, modules_lock
from . import known, rates
from .autograd import unwrap_if_dead
from .known import Given
from .prepared import Prepared, is_autocast_on
from .programs import program_of, takes_scalars

NamePattern: TypeAlias = "str | Sequence[str] | Callable[[str], bool]"
"""Names of parameters: a shell pattern, several of them, or a predicate."""


class Bound:
    """A model's program for samples of one shape, with the tensor that each of its slots holds.

    A model is traced unless `backend`, its data or the loss ask for it as it is; with "auto", also
    one that cannot be traced runs as it is.

    A call asks `known` first. If none like it came before, it has everything checked by the methods
    from `adapted` to `inputs`, and leaves what comes of it with `prepared`.

    Args:
        model: what to trace.
        x_name: the name of `x` in messages.
        x: [T, n, *sample], whose shape the program is traced for.
        parameters: by name, [*shape] or [T, *shape]; the model's own where it has none.
        backend: one of `plan.BACKENDS`.
        loss: None where nothing is compared.
        size: as of the support or the query; only read where the model runs as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        x_name: str,
        x: Tensor,
        parameters: Mapping[str, Tensor] | None,
        backend: str,
        loss: Loss | None,
        size: Any = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        self.backend = checks.choice("backend", backend, BACKENDS)
        checks.x(x_name, x, scalars=takes_scalars(x, backend))
        self.autocast = is_autocast_on(x.device.type)
        if self.autocast:
            warn_of_autocast()
        self.model = model
        self.tasks = x.shape[0]
        with modules_lock:
            self.program = program_of(
                model,
                x_name,
                self.cast(x),
                parameters,
                backend=backend,
                loss=loss,
                size=size,
                cast=self.cast,
            )
            own = tuple([_parameter(model, path) for path in _paths(self.program)])
        self._own = own
        self.trainable = tuple([parameter.requires_grad for parameter in own])
        self.parameters = own if parameters is None else self._overridden(own, parameters)
        if self.autocast:
            self.parameters = tuple([self.cast(parameter) for parameter in self.parameters])
        like = self.parameters[0] if self.parameters else self.cast(x)
        self.dtype, self.device = like.dtype, like.device

    def prepared(
        self, loop: InnerLoop, inputs: Inputs, given: Given
    ) -> tuple[Prepared, list[Tensor]]:
        """A call that was checked, remembered for those like it; its tensors, alive."""
        inputs = inputs.map(unwrap_if_dead)  # before anyone asks what requires grad
        prepared = Prepared(loop, inputs, self.backend, given.lr)
        known.remember(self.model, given, self._own, prepared)
        return prepared, inputs.flat()

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
        memory_budget: Any = None,
    ) -> InnerLoop:
        """The part of a call that holds no tensor, checked."""
        self._check_parameters()
        steps = checks.steps(steps)
        return InnerLoop(
            self.program,
            loss,
            adapted,
            steps,
            checks.number("momentum", momentum, minimum=0.0),
            checks.step_weights(step_weights, steps),
            checks.flag("first_order", first_order),
            checks.memory_budget(memory_budget),
        )

    @property
    def is_traced(self) -> bool:
        """Whether the program is the model's ops; else the model runs as it is."""
        return isinstance(self.program, Program)

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
        return rates.resolve(lr, self.model, loop, self.dtype, self.device, self.cast)

    def no_rates(self) -> tuple[None, ...]:
        """For a call that takes no step."""
        return (None,) * len(self.program.slots)

    def inputs(
        self,
        rates: tuple[Tensor | None, ...],
        support: Samples | None,
        query: Samples | None,
    ) -> Inputs:
        """The tensors of a call."""
        return Inputs(self.parameters, rates, support, query)

    def _overridden(
        self, own: tuple[Tensor, ...], parameters: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
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


@cache
def warn_of_autocast() -> None:
    """Once in the life of a process."""
    warnings.warn(
        "fastmaml runs its inner loop in float32 under autocast", UserWarning, stacklevel=2
    )


@lru_cache(maxsize=256)
def _paths(program: Program | ModuleProgram) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(slot.name.split(".")) for slot in program.slots)


def _parameter(module: nn.Module, path: tuple[str, ...]) -> nn.Parameter:
    """What `module.get_parameter` returns, in a tenth of the time."""
    *owners, leaf = path
    for owner in owners:
        module = module._modules[owner]
    return module._parameters[leaf]


def _chosen(
    model: nn.Module, program: Program | ModuleProgram, names: NamePattern
) -> tuple[bool, ...]:
    """Whether `names` names each slot; kept where it cannot change."""
    if callable(names):
        chosen = named(model, names)
        return tuple(slot.name in chosen for slot in program.slots)
    patterns = _patterns(names)
    key = ("chosen", *patterns)
    if key not in program.derived:
        chosen = named(model, patterns)
        program.derived[key] = tuple(slot.name in chosen for slot in program.slots)
    return program.derived[key]


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

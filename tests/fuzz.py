"""Random calls of the functional API: each agrees with plain PyTorch, or is refused by name.

`python tests/fuzz.py COUNT [FIRST]` checks the calls of seeds FIRST.. and prints what failed.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import fastmaml
import torch
from fastmaml import BackendError, TraceError, functional
from oracle import largest, nudge
from plain_calls import Results, is_plain, plain, with_gradients
from random_calls import Call, random_call
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Runs = Callable[[Call], Results]
PACKAGE = str(Path(fastmaml.__file__).parent)
TORCH_NN = Path(nn.__file__).parent
REFUSALS = (TypeError, ValueError, BackendError)  # a TraceError is a ValueError
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}


def check(call: Call) -> str:
    """Checks a call; returns what became of it: "agrees", "refused" or "compared".

    A valid call must agree with plain PyTorch; with dropout, and where a spoilt call is accepted,
    the executors must agree with each other. What is refused must be refused by name.

    Raises:
        AssertionError: neither is so.
    """
    try:
        actual = run(call)
    except REFUSALS as error:
        check_refusal(call, error)
        return "refused"
    except Exception:
        assert is_own_loss(call)
        return "refused"
    dtype = next((p.dtype for p in call.arguments["model"].parameters()), None)
    if dtype not in TOLERANCES:
        return "compared"
    if call.spoilt or has_dropout(call):
        if call.arguments.get("seed") is not None:
            compare_with_reference(call, actual, dtype)
        return "compared"
    compare(call, actual, plain, dtype)
    return "agrees"


def is_expected(call: Call, error: Exception) -> bool:
    """Whether a call that was drawn as valid asks for what is documented not to be."""
    reasons = ("nothing is left to adapt", "BatchNorm", "backend='native': it computes in float32")
    named = ("matches none", "vector must name the inner parameters", "every adapted parameter")
    return any(reason in str(error) for reason in reasons + named) or (
        # only adapted parameters may differ between tasks
        "parameters" in str(error) and "one for each task" in str(error)
    )


def is_own_loss(call: Call) -> bool:
    """Whether the loss was spoilt to a module, which is as good a callable as any."""
    return "loss" in call.spoilt and isinstance(call.arguments["loss"], nn.Module)


def check_refusal(call: Call, error: Exception) -> None:
    """There is a reason; the error is raised by fastmaml itself, and names an argument.

    A loss that is any callable is called, and may raise what it likes; so may a model that runs as
    it is for its sake.
    """
    assert call.spoilt or is_expected(call, error), f"refused a valid call: {error}"
    *_, frame = traceback.extract_tb(error.__traceback__)
    is_models_own = "loss" in call.spoilt and Path(frame.filename).is_relative_to(TORCH_NN)
    if is_own_loss(call) or is_models_own:
        return
    assert frame.filename.startswith(PACKAGE), f"not raised by fastmaml: {error!r}"
    names = {*call.arguments, "model", "lr", "support_y", "query_y", "cannot trace"}
    named = any(re.search(rf"\b{name}\b", str(error)) for name in names)
    assert named, f"names no argument: {error!r}"


# --- results --------------------------------------------------------------------------------------


def run(call: Call) -> Results:
    """What fastmaml returns, and the gradients of a sum of it."""
    results = getattr(functional, call.name)(**call.arguments)
    return with_gradients(call, as_dict(results))


def as_dict(results: Any) -> Results:
    """Every tensor of the results by name; but what no forward reads is handed back as it was
    given, and has no numbers where it was on the meta device."""
    if hasattr(results, "_asdict"):
        results = results._asdict()
    elif not isinstance(results, Mapping):
        results = {"prediction": results}
    return {
        f"{name} {index}" if index else name: tensor
        for name, result in results.items()
        for index, tensor in enumerate(tree_leaves(result))  # a model may return several
        if not tensor.is_meta
    }


def numbers_of(call: Call) -> Iterator[Tensor | float]:
    """Every number and dense tensor among the arguments, and the parameters."""
    for value in call.arguments.values():
        if isinstance(value, nn.Module):
            yield from value.parameters()
        for item in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(item, int | float) or (isinstance(item, Tensor) and is_plain(item)):
                yield item


# --- comparison -----------------------------------------------------------------------------------


def compare_with_reference(call: Call, actual: Results, dtype: torch.dtype) -> None:
    """As `compare`; a spoilt model or loss may run as it is, which the reference must refuse."""
    other = Call(call.name, {**call.arguments, "backend": "reference"}, call.spoilt)
    try:
        compare(other, actual, run, dtype)
    except (BackendError, TraceError) as error:
        check_refusal(other, error)


def compare(call: Call, actual: Results, runs: Runs, dtype: torch.dtype) -> None:
    """The same numbers as `runs` finds in float64, up to rounding: within a small tolerance, or
    within twice its own error in `dtype`, the float32 rule of docs/architecture.md.

    Where NaN, infinities or overflow are about, finite predictions must agree; what comes of a
    gradient is not looked at: what of it is NaN depends on the order of differentiation.
    """
    exact = runs(cast(call, torch.float64))
    assert actual.keys() == exact.keys(), (actual.keys(), exact.keys())
    bound = math.sqrt(torch.finfo(dtype).max)
    if not all(is_tame(value, bound) for value in (*numbers_of(call), *exact.values())):
        exact = {"prediction": exact["prediction"]} if call.name == "predict" else {}
    derivatives = {name for name in exact if call.name == "hvp" or name.startswith("grad")}
    scale = max((largest_finite(exact[name]) for name in derivatives), default=0.0)

    def magnitude(name: str) -> float:
        # what cancels has no digits of its own
        floor = 1e-3 * max(1.0, scale if name in derivatives else 0.0)
        return max(largest_finite(exact[name]), floor)

    allowed = {name: tolerance(name, actual[name], dtype) for name in exact}
    errors = {}
    for name, reference in exact.items():
        value = actual[name].double()
        assert value.shape == reference.shape, (name, value.shape, reference.shape)
        errors[name] = error(value, reference.double(), magnitude(name), bound)
    if all(errors[name] <= allowed[name] for name in errors):
        return
    for rounded in nudged(call, dtype, runs):
        for name, reference in exact.items():
            own = error(rounded[name].double(), reference.double(), magnitude(name), bound)
            allowed[name] = max(allowed[name], 2 * own)
    wrong = {name: (errors[name], allowed[name]) for name in errors}
    wrong = {name: pair for name, pair in wrong.items() if not pair[0] <= pair[1]}
    assert not wrong, f"(error, allowed): {wrong}"


def tolerance(name: str, actual: Tensor, dtype: torch.dtype) -> float:
    """That of `dtype`; a gradient is rounded to its leaf's own, which may be coarser where no
    forward reads the leaf."""
    unit = torch.finfo(actual.dtype).eps if name.startswith("grad") else 0.0
    return max(TOLERANCES[dtype], unit)


def is_tame(value: Tensor | float, bound: float) -> bool:
    """Whether all numbers are finite and within the bound."""
    if not isinstance(value, Tensor):
        return abs(value) <= bound
    return not value.is_floating_point() or bool((value.detach().abs() <= bound).all())


def error(value: Tensor, reference: Tensor, magnitude: float, bound: float) -> float:
    """The largest difference over the magnitude, where the reference is within the bound."""
    difference = (value - reference)[reference.abs() <= bound]
    return largest(difference) / magnitude if difference.numel() else 0.0


def largest_finite(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()]
    return largest(finite.double()) if finite.numel() else 0.0


def nudged(call: Call, dtype: torch.dtype, runs: Runs) -> Iterator[Results]:
    """Results in `dtype` itself, for inputs that are moved by up to a unit in the last place, and
    with `Rounding`."""
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        inputs = cast(call, dtype, partial(nudge, generator))
        with Rounding(generator):
            yield runs(inputs)


class Rounding(TorchDispatchMode):
    """Moves what tanh and sigmoid return by up to a unit in the last place.

    Their derivatives 1 - y² and y (1 - y) have as many digits as y has below 1: hardly one where
    x is 18, in float64. No small step of x shows that, since y stays the same; but another tanh, as
    right as torch's, may round it the other way. Where y is 1 it stays, as it must if x is large.
    """

    FUNCTIONS = (torch.ops.aten.tanh.default, torch.ops.aten.sigmoid.default)

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        if func not in self.FUNCTIONS:
            return y
        return torch.where(y.abs() < 1, nudge(self.generator, y).clamp(-1, 1), y)


def cast(call: Call, dtype: torch.dtype, change: Any = lambda tensor: tensor) -> Call:
    """The same call with its float tensors in another dtype, and leaves of its own."""

    def one(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.is_floating_point() or not is_plain(value):
                return value
            moved = change(value.detach().to(dtype))
            return moved.clone().requires_grad_(value.requires_grad)
        if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
            module = copy.deepcopy(value).to(dtype)
            for parameter in module.parameters():
                parameter.data = change(parameter.data)
            return module
        if isinstance(value, Mapping):
            return {key: one(item) for key, item in value.items()}
        return value

    return Call(call.name, {name: one(value) for name, value in call.arguments.items()})


def has_dropout(call: Call) -> bool:
    return any(isinstance(m, nn.Dropout) and m.training for m in call.arguments["model"].modules())


def main(count: int, first: int = 0) -> int:
    """Checks calls and prints those that fail; returns how many did."""
    torch.set_num_threads(1)
    outcomes: dict[str, int] = {}
    began = time.monotonic()
    for seed in range(first, first + count):
        try:
            outcome = check(random_call(seed))
        except Exception as failure:
            outcome = "FAILED"
            *_, frame = traceback.extract_tb(failure.__traceback__)
            summary = "".join(traceback.format_exception_only(failure)).strip()[:600]
            summary = f"{Path(frame.filename).name}:{frame.lineno}: {summary}"
            with contextlib.suppress(Exception):
                print(f"seed {seed}: {str(random_call(seed))[:1500]}\n    {summary}", flush=True)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"{count} calls from seed {first} in {time.monotonic() - began:.0f} s: {outcomes}")
    return outcomes.get("FAILED", 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(*map(int, sys.argv[1:])) > 0)

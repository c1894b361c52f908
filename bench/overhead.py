"""What a call costs beside its arithmetic: `python -m bench.overhead`.

The smallest problem there is, a meta-gradient of one task of one sample through MAML, beside an
autograd Function of the same signature that computes nothing, in turns; then where the time goes.
On one thread, in seconds of that thread, so that what else the machine does counts little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import fastmaml
import torch
from fastmaml.functional import known
from fastmaml.functional.autograd import Run
from fastmaml.functional.calls import LossCall
from fastmaml.program import Cotangents
from torch import Tensor, nn
from torch.autograd import Function

from . import report

ROUNDS, CALLS = 50, 100


class Empty(Function):
    """Takes and returns what fastmaml's Function does, and computes nothing."""

    @staticmethod
    def forward(call: object, *tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.empty(()), torch.empty(1), torch.empty(1, 1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        pairs = zip(tensors, needed, strict=True)
        return None, *[torch.empty_like(tensor) if need else None for tensor, need in pairs]


class EmptyInOne(Function):
    """The same in the form that torch.func does not know, and which is called sooner."""

    @staticmethod
    def forward(ctx: Any, call: object, *tensors: Tensor) -> tuple[Tensor, ...]:
        Empty.setup_context(ctx, (call, *tensors), ())
        return Empty.forward(call, *tensors)

    backward = Empty.backward


def seconds(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Of a call of each, the median over rounds in which they take turns."""
    rounds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            function()
            start = time.thread_time()
            for _ in range(CALLS):
                function()
            rounds[name].append((time.thread_time() - start) / CALLS)
    return {name: statistics.median(times) for name, times in rounds.items()}


def main() -> None:
    """Prints both tables."""
    torch.set_num_threads(1)
    model = nn.Linear(1, 1)
    maml = fastmaml.MAML(model, lr=0.1, steps=1, loss="mse")
    data = tuple(torch.randn(4, 1, 1, 1))
    tensors = (*model.parameters(), *data)

    def gradient(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            loss().backward()

        return run

    def by_backward() -> None:
        model.zero_grad()
        maml.backward(*data)

    whole = {
        "an empty Function": gradient(lambda: Empty.apply(None, *tensors)[0]),
        "one without setup_context": gradient(lambda: EmptyInOne.apply(None, *tensors)[0]),
        "MAML, forward and backward": gradient(lambda: maml(*data).loss),
        "MAML by backward": by_backward,
        "MAML, forward": lambda: maml(*data),
    }
    _print(seconds(whole))
    print("of that forward pass, each with what is under it:")
    _print(seconds(_parts(maml, data)))


def _parts(maml: fastmaml.MAML, data: tuple[Tensor, ...]) -> dict[str, Callable[[], object]]:
    """From the whole to its innermost part."""
    calls: list[known.Given] = []
    find = known.find
    known.find = lambda model, given: calls.append(given) or find(model, given)
    maml(*data).loss.backward()
    known.find = find
    (given,) = calls
    found = find(maml.module, given)
    assert found is not None, "the call is known by now"
    prepared, tensors = found
    call = LossCall(prepared, 0, "mean")
    share = prepared.share("mean")
    options = {"cotangents": Cotangents(share), "wanted": prepared.wanted}
    prepared.run(tensors, 0, **options)
    (recipe,) = prepared._recipes.values()
    made = [make(like) for make, like in recipe._makers]
    table = [*tensors, share, *made]
    return {
        "MAML(...)": lambda: maml(*data),
        "  finding the call": lambda: find(maml.module, given),
        "  the autograd Function": lambda: Run.apply(call, *tensors),
        "    running the recipe": lambda: recipe.run(tensors, 0, options["cotangents"]),
        "      making the results": lambda: [make(like) for make, like in recipe._makers],
        "      the extension": lambda: recipe._launcher.run(table, 0),
    }


def _print(times: dict[str, float]) -> None:
    for name, each in times.items():
        print(f"{name:<30}{report.duration(each):>10}")


if __name__ == "__main__":
    main()

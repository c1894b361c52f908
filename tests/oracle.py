"""The oracle: the inner loop in plain PyTorch with create_graph=True, none of it fastmaml's code.

`oracle` takes what an executor's `run` takes and returns the same. `float32_tolerance` is the
error that a float32 result may have, calibrated by PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from fastmaml.program import Cotangents, InnerLoop, Inputs, Loss, Outputs, Program, Samples
from torch import Tensor
from torch.nn import functional as F

TORCH_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "linear": F.linear,
    "batch_norm": lambda x, w, b, eps: F.batch_norm(x, None, None, gain(w, b), b, True, eps=eps),
    "layer_norm": lambda x, w, b, axes, eps: F.layer_norm(x, x.shape[-axes:], gain(w, b), b, eps),
    "rms_norm": lambda x, w, axes, eps: F.rms_norm(x, x.shape[-axes:], w, eps),
    "relu": F.relu,
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope),
    "elu": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "sin": lambda x, frequency: torch.sin(frequency * x),
    "add": torch.add,
    "scale": lambda x, factor: factor * x,
}


def gain(weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """The weight of a norm; ones where there is a bias alone, which PyTorch's double backward
    cannot do ("Expected a proper Tensor but got None")."""
    return torch.ones_like(bias) if weight is None and bias is not None else weight


def apply(
    program: Program,
    x: Tensor,
    parameters: Sequence[Tensor],
    *,
    seed: int = 0,
    task: int = 0,
    pass_index: int = 0,
) -> Tensor:
    """The program's output for the samples x [n, *value 0] of one task."""
    values = {0: x}
    for op in program.ops:
        operands = [values[v] for v in op.inputs]
        operands += [None if slot is None else parameters[slot] for slot in op.parameters]
        if op.kind == "reshape":
            y = operands[0].reshape(len(x), *program.values[op.output])
        elif op.kind == "dropout":
            p, stream = op.attributes["p"], op.attributes["stream"]
            y = operands[0] * dropout_factor(operands[0], p, (seed, task, stream, pass_index))
        else:
            y = TORCH_FUNCTIONS[op.kind](*operands, **op.attributes)
        values[op.output] = y
    return values[program.output]


def dropout_factor(x: Tensor, p: float, where: Sequence[int]) -> Tensor:
    """mask / (1 - p) from the mask's definition, in numpy's wrapping uint32."""

    def mix(h: np.ndarray) -> np.ndarray:
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
        return h ^ (h >> np.uint32(16))

    seed, task, stream, pass_index = np.array(where, dtype=np.uint32)[:, None]
    key = mix(mix(mix(mix(seed) ^ task) ^ stream) ^ pass_index)
    element = np.arange(x.numel(), dtype=np.uint32)
    kept = mix(mix(element ^ key) + key).astype(np.uint64) >= np.uint64(np.floor(p * 2**32))
    return torch.from_numpy(kept.reshape(x.shape)).to(x.dtype) * (1 / (1 - p) if p < 1 else 0)


def sample_losses(loss: Loss, prediction: Tensor, target: Tensor) -> Tensor:
    """l_i, [n]."""
    if loss.kind == "cross_entropy":
        smoothing = loss.label_smoothing
        return F.cross_entropy(prediction, target, reduction="none", label_smoothing=smoothing)
    if loss.kind == "mse":
        terms = (prediction - target) ** 2
    else:
        terms = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
    return terms.reshape(len(terms), -1).mean(1)


def evaluate(
    loop: InnerLoop, samples: Samples, seed: int, task: int, parameters: list[Tensor], index: int
) -> tuple[Tensor, Tensor | None]:
    """The prediction for one task's samples, and the loss on them, in the pass of that index."""
    n = samples.x.shape[1] if samples.size is None else samples.size[task]
    x = samples.x[task, :n]
    prediction = apply(loop.program, x, parameters, seed=seed, task=task, pass_index=index)
    if samples.y is None:
        return prediction, None
    losses = sample_losses(loop.loss, prediction, samples.y[task, :n])
    weights = torch.ones_like(losses) / n if samples.weights is None else samples.weights[task, :n]
    return prediction, (weights * losses).sum()


def oracle(
    loop: InnerLoop,
    inputs: Inputs,
    cotangents: Cotangents | None = None,
    wanted: Set[str] = frozenset(),
    *,
    adapted: bool = True,
) -> Outputs:
    """What `run` should return, by differentiating the recorded inner loop."""
    inputs = map_tensors(inputs, lambda t: t.clone().requires_grad_(t.is_floating_point()))
    program, query = loop.program, inputs.query
    adapts = [slot for slot, moves in enumerate(loop.adapted) if moves]
    losses, predictions, phis = [], [], []
    for task in range(inputs.tasks):
        phi = [
            parameter[task] if inputs.per_task(program, slot) else parameter
            for slot, parameter in enumerate(inputs.parameters)
        ]
        velocity, task_loss, prediction = [0.0] * len(phi), 0.0, None
        for step in range(loop.steps + 1):
            if query is not None:
                index = 2 * step + 1
                prediction, loss = evaluate(loop, query, inputs.seed, task, phi, index)
                task_loss = None if loss is None else task_loss + loop.step_weight(step) * loss
            if step < loop.steps:
                _, loss = evaluate(loop, inputs.support, inputs.seed, task, phi, 2 * step)
                g = torch.autograd.grad(loss, [phi[slot] for slot in adapts], create_graph=True)
                phi = list(phi)
                for slot, gradient in zip(adapts, g, strict=True):
                    gradient = gradient.detach() if loop.first_order else gradient
                    velocity[slot] = loop.momentum * velocity[slot] + gradient
                    rate = inputs.rates[slot][min(step, len(inputs.rates[slot]) - 1)]
                    phi[slot] = phi[slot] - rate * velocity[slot]
        losses.append(task_loss)
        predictions.append(prediction)
        phis.append(phi)

    stacked = Outputs(
        task_loss=None if query is None or query.y is None else torch.stack(losses),
        prediction=None if query is None else pad(predictions, query.x.shape[1]),
        adapted=tuple(
            torch.stack([phi[slot] for phi in phis]) if moves else None
            for slot, moves in enumerate(loop.adapted)
        ),
    )
    gradients = {}
    if cotangents is not None and wanted:
        tensors = dict(inputs.tensors(program))
        leaves = [tensors[key] for key in sorted(wanted)]
        scalar = sum((leaf.flatten()[:0].sum() for leaf in leaves), torch.tensor(0.0))
        for output, bar in zip(flatten(stacked), flatten(cotangents), strict=False):
            if bar is not None:
                scalar = scalar + (bar * output).sum()
        found = torch.autograd.grad(scalar, leaves, allow_unused=True, materialize_grads=True)
        gradients = dict(zip(sorted(wanted), found, strict=True))
    detached = map_tensors(stacked, Tensor.detach)
    return replace(detached, adapted=detached.adapted if adapted else None, gradients=gradients)


def pad(predictions: list[Tensor], rows: int) -> Tensor:
    """[T, rows, *output], zero beyond each task's own rows."""
    return torch.stack(
        [torch.cat([p, p.new_zeros(rows - len(p), *p.shape[1:])]) for p in predictions]
    )


def flatten(outputs: Outputs | Cotangents) -> list[Tensor | None]:
    """task_loss, prediction and one entry a slot, of outputs or their cotangents."""
    return [outputs.task_loss, outputs.prediction, *(outputs.adapted or ())]


Tree = TypeVar("Tree")


def map_tensors(tree: Tree, function: Callable[[Tensor], Tensor]) -> Tree:
    """The same dataclass, dict or tuple with `function` of each tensor in it."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(item, function) for key, item in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_tensors(item, function) for item in tree)
    if is_dataclass(tree):
        items = {f.name: map_tensors(getattr(tree, f.name), function) for f in fields(tree)}
        return replace(tree, **items)
    return tree


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """The same dataclass with its floating-point tensors in another dtype."""
    return map_tensors(tree, lambda t: t.to(dtype) if t.is_floating_point() else t)


def named(program: Program, outputs: Outputs) -> dict[str, Tensor]:
    """Every tensor of the outputs by a name: task_loss, prediction, adapted:SLOT, a key."""
    tensors = {"task_loss": outputs.task_loss, "prediction": outputs.prediction}
    for slot, tensor in zip(program.slots, outputs.adapted or (), strict=False):
        tensors[f"adapted:{slot.name}"] = tensor
    return {k: t for k, t in (tensors | outputs.gradients).items() if t is not None}


def errors(program: Program, actual: Outputs, exact: Outputs) -> dict[str, float]:
    """By name, the largest error relative to the largest entry of the exact tensor.

    A gradient that all but cancels (of a bias that a norm removes, say) has no digits of its
    own: it is measured against a thousandth of the largest gradient.
    """
    values, references = named(program, actual), named(program, exact)
    assert values.keys() == references.keys(), values.keys() ^ references.keys()
    floor = 1e-3 * max((largest(gradient) for gradient in exact.gradients.values()), default=0.0)
    found = {}
    for name, reference in references.items():
        assert values[name].shape == reference.shape, (name, values[name].shape, reference.shape)
        scale = max(largest(reference), floor if name in exact.gradients else 0.0) or 1.0
        found[name] = largest(values[name].double() - reference) / scale
    return found


def largest(tensor: Tensor) -> float:
    """The largest magnitude in a tensor; NaN if it holds one."""
    return tensor.abs().max().item()


def float32_tolerance(
    loop: InnerLoop,
    inputs: Inputs,
    cotangents: Cotangents | None = None,
    wanted: Set[str] = frozenset(),
    orders: int = 8,
) -> tuple[Outputs, dict[str, float]]:
    """The float64 outputs for float32 inputs, and by name the error that `errors` may show.

    Twice the largest error of PyTorch's own float32 loop over several orders of the samples,
    or 1e-6 if that is larger. A few samples have few orders, so each run also moves the inputs
    by up to one unit in the last place. Not for programs with dropout, whose masks belong to
    positions.
    """
    assert not loop.program.has_dropout
    exact = oracle(loop, cast(inputs, torch.float64), cast(cotangents, torch.float64), wanted)
    allowed: dict[str, float] = {}
    for seed in range(orders):
        generator = torch.Generator().manual_seed(seed)
        order = random_orders(inputs, generator)
        nudged = map_tensors(inputs, partial(nudge, generator))
        shuffled = replace(
            nudged,
            support=map_tensors(nudged.support, partial(take, order.get("support"))),
            query=map_tensors(nudged.query, partial(take, order.get("query"))),
        )
        if cotangents is not None and cotangents.prediction is not None:
            prediction_bar = take(order["query"], cotangents.prediction)
            shuffled_cotangents = replace(cotangents, prediction=prediction_bar)
        else:
            shuffled_cotangents = cotangents
        outputs = oracle(loop, shuffled, shuffled_cotangents, wanted)
        back = {source: index.argsort(1) for source, index in order.items()}
        if outputs.prediction is not None:
            outputs = replace(outputs, prediction=take(back["query"], outputs.prediction))
        for key in wanted & {f"{s}_{part}" for s in back for part in ("x", "y", "weights")}:
            outputs.gradients[key] = take(back[key.split("_")[0]], outputs.gradients[key])
        for name, error in errors(loop.program, outputs, exact).items():
            allowed[name] = max(allowed.get(name, 1e-6), 2 * error)
    return exact, allowed


def nudge(generator: torch.Generator, tensor: Tensor) -> Tensor:
    """Each number, or one of its neighbours in the tensor's dtype."""
    if not tensor.is_floating_point():
        return tensor
    units = torch.randint(-1, 2, tensor.shape, generator=generator)
    return tensor * (1 + torch.finfo(tensor.dtype).eps * units)


def random_orders(inputs: Inputs, generator: torch.Generator) -> dict[str, Tensor]:
    """For support and query, an order of each task's real samples; the padding stays."""
    orders = {}
    for source, samples in (("support", inputs.support), ("query", inputs.query)):
        if samples is not None:
            tasks, n = samples.x.shape[:2]
            draws = torch.rand(tasks, n, generator=generator)
            for task, size in enumerate(samples.size or ()):
                draws[task, size:] = 1 + torch.arange(n - size)
            orders[source] = draws.argsort(1)
    return orders


def take(order: Tensor, samples: Tensor) -> Tensor:
    """Samples [T, n, ...] in another order [T, n]."""
    return samples[torch.arange(len(order))[:, None], order]

"""Calls of the functional API in plain PyTorch: functional_call, task by task, with a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from fastmaml.functional.losses import resolve
from oracle import sample_losses
from random_calls import Call
from torch import Tensor, nn
from torch.func import functional_call

Results = dict[str, Tensor]


def plain(call: Call) -> Results:
    """The results of a call, and its gradients by `with_gradients`."""
    a, model = call.arguments, call.arguments["model"]
    own = dict(model.named_parameters())
    start = own | dict(a.get("parameters") or {})
    tasks = (a["query_x"] if call.name == "predict" else a["support_x"]).shape[0]
    phis, losses, predictions, products = [], [], [], []
    for task in range(tasks):
        initial = {n: p[task] if p.dim() > own[n].dim() else p for n, p in start.items()}
        # torch 2.13's batch_norm is wrong backwards where its weight is strided
        initial = {n: p.contiguous() for n, p in initial.items()}
        if call.name == "hvp":
            products.append(plain_product(a, initial, adapted_names(a, own), task))
            continue
        task_loss: Any = 0.0
        for phi, weight in plain_steps(call, initial, adapted_names(a, own), task):
            if "query_y" in a and weight:
                task_loss = task_loss + weight * plain_loss(a, "query", phi, task)
        phis.append(phi)
        losses.append(task_loss if isinstance(task_loss, Tensor) else torch.zeros(()).double())
        if "query_x" in a:
            predictions.append(plain_prediction(a, phi, task))
    if call.name == "hvp":
        results = {name: torch.stack([p[name] for p in products]) for name in products[0]}
    elif call.name == "predict":
        results = {"prediction": torch.stack(predictions)}
    elif call.name == "meta_loss":
        task_loss = torch.stack(losses)
        loss = task_loss.mean() if a.get("reduction") == "mean" else task_loss.sum()
        results = {"loss": loss, "task_loss": task_loss, "prediction": torch.stack(predictions)}
    else:
        results = {name: torch.stack([phi[name] for phi in phis]) for name in own}
        if not a.get("expand", True):
            moved = adapted_names(a, own)
            results = {n: r if n in moved else start[n] for n, r in results.items()}
    return with_gradients(call, results)


def adapted_names(a: dict[str, Any], own: dict[str, Tensor]) -> list[str]:
    names = a.get("inner_parameters")
    if names is None:
        names = "*"
    if isinstance(names, str):
        names = [names]
    return [
        name
        for name, parameter in own.items()
        if parameter.requires_grad
        and not name.endswith("unused")
        and (names(name) if callable(names) else any(fnmatchcase(name, p) for p in names))
    ]


def plain_steps(
    call: Call, phi: Results, names: list[str], task: int
) -> Iterator[tuple[Results, float]]:
    """phi_0..phi_K and c_0..c_K."""
    a = call.arguments
    steps = {"sgd_step": 1, "predict": 0}.get(call.name, a.get("steps", 1))
    weights = a.get("step_weights") or [0.0] * steps + [1.0]
    velocity: dict[str, Any] = dict.fromkeys(names, 0.0)
    own = dict(a["model"].named_parameters())
    for step in range(steps):
        yield phi, weights[step]
        phi = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in phi.items()}
        loss = plain_loss(a, "support", phi, task)
        inner = [phi[name] for name in names]
        found = torch.autograd.grad(
            loss, inner, create_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(names, found, strict=True):
            gradient = gradient.detach() if a.get("first_order") else gradient
            velocity[name] = a.get("momentum", 0.0) * velocity[name] + gradient
            rate = plain_rate(a["lr"], name, tuple(own[name].shape), step)
            phi[name] = phi[name] - rate * velocity[name]
    yield phi, weights[steps]


def plain_rate(lr: Any, name: str, shape: tuple[int, ...], step: int) -> Any:
    rate = lr[name] if isinstance(lr, Mapping) else lr
    by_element = isinstance(lr, Mapping) and isinstance(rate, Tensor) and rate.shape == shape
    if not isinstance(rate, Tensor) or rate.dim() == 0 or by_element:
        return rate
    return rate[min(step, len(rate) - 1)]


def rows(a: dict[str, Any], role: str, task: int) -> int:
    size = a.get(f"{role}_size")
    return a[f"{role}_x"].shape[1] if size is None else int(size[task])


def plain_loss(a: dict[str, Any], role: str, phi: Results, task: int) -> Tensor:
    n = rows(a, role, task)
    prediction = functional_call(a["model"], phi, (a[f"{role}_x"][task, :n],))
    losses = sample_losses(resolve(a["loss"]), prediction, a[f"{role}_y"][task, :n])
    weights = a.get("weights" if role == "support" else "query_weights")
    return losses.mean() if weights is None else (weights[task, :n] * losses).sum()


def plain_prediction(a: dict[str, Any], phi: Results, task: int) -> Tensor:
    x, n = a["query_x"][task], rows(a, "query", task)
    prediction = functional_call(a["model"], phi, (x[:n],))
    return torch.cat([prediction, prediction.new_zeros(len(x) - n, *prediction.shape[1:])])


def plain_product(a: dict[str, Any], phi: Results, names: list[str], task: int) -> Results:
    # the Hessian is a constant here: hvp is differentiated by the vector alone
    phi = {name: p.detach().requires_grad_() for name, p in phi.items()}
    inner = [phi[name] for name in names]
    first = torch.autograd.grad(plain_loss(a, "support", phi, task), inner, create_graph=True)
    vector = [a["vector"][name] for name in names]
    own = [v[task] if v.dim() > p.dim() else v for v, p in zip(vector, inner, strict=True)]
    product = torch.autograd.grad(
        first, inner, own, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, product, strict=True))


def with_gradients(call: Call, results: Results) -> Results:
    """The results, and the gradients of their weighted sum by every leaf that requires grad.

    Raises:
        AssertionError: a leaf that nothing can compute with has a gradient.
    """
    leaves = leaves_of(call)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for name in sorted(results):
        result = results[name].double()
        weight = torch.rand(result.shape, generator=generator, dtype=torch.float64)
        # what is zero times infinity is not asked
        total = total + torch.where(result.isfinite(), weight * result, 0 * weight).sum()
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if leaves and total.requires_grad:
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    everything = {name: result.detach() for name, result in results.items()}
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        if is_plain(leaf):
            everything[f"grad {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
        else:  # it may be the rate of what is not adapted, say, at which nobody looks
            assert gradient is None, f"{name} is read"
    return everything


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is dense, with numbers in it."""
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_meta


def leaves_of(call: Call) -> dict[str, Tensor]:
    """What gradients are asked for: of hvp, by the vectors alone."""
    leaves: dict[str, Tensor] = {}
    for name, value in call.arguments.items():
        if call.name == "hvp" and name != "vector":
            continue
        if isinstance(value, nn.Module) and name == "model":
            value = dict(value.named_parameters())
        items = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, item in items:
            if isinstance(item, Tensor) and item.requires_grad:
                leaves[f"{name} {key}"] = item
    return leaves

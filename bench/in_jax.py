"""The workloads in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from fastmaml.nn import Sin
from jax import Array
from torch import nn

from .step import Gradients, Step, Unavailable
from .workloads import Workload

Parameters = dict[str, Any]


def meta_gradient(workload: Workload, device: str, dtype: torch.dtype) -> Step:
    """A step of the workload on "cpu" or "cuda", in arithmetic as exact as torch's is set to (a
    GPU's default is less)."""
    is_ieee = torch.get_float32_matmul_precision() == "highest"
    jax.config.update("jax_default_matmul_precision", "highest" if is_ieee else "tensorfloat32")
    jax.config.update("jax_enable_x64", dtype == torch.float64)
    try:
        place = jax.devices(device)[0]
    except RuntimeError as error:
        raise Unavailable(f"JAX has no {device} device here") from error
    model = workload.model(dtype)
    samples = [jax.device_put(tensor.numpy(), place) for tensor in workload.samples(dtype)]
    initial = {
        name: jax.device_put(parameter.detach().numpy(), place)
        for name, parameter in model.named_parameters()
    }
    loss = _LOSSES[workload.loss]

    def sample_loss(fast: Parameters, x: Array, y: Array) -> Array:
        return loss(_apply(model, fast, x), y)

    def task_loss(
        fast: Parameters, support_x: Array, support_y: Array, query_x: Array, query_y: Array
    ) -> Array:
        for _ in range(workload.steps):
            gradients = jax.grad(sample_loss)(fast, support_x, support_y)
            fast = {name: fast[name] - workload.lr * gradients[name] for name in fast}
        return sample_loss(fast, query_x, query_y)

    def meta_loss(initial: Parameters, *samples: Array) -> Array:
        return jax.vmap(task_loss, (None, 0, 0, 0, 0))(initial, *samples).mean()

    gradient = jax.jit(jax.value_and_grad(meta_loss))

    def step() -> Gradients:
        return jax.block_until_ready(gradient(initial, *samples))[1]

    return step


def _apply(model: nn.Sequential, parameters: Parameters, x: Array) -> Array:
    """The model on x [n, features], with parameters by name."""
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            x = x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
        elif isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + layer.eps)
            x = x * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]
        elif isinstance(layer, Sin):
            x = jnp.sin(layer.frequency * x)
        else:
            x = _ACTIVATIONS[type(layer)](x)
    return x


def _cross_entropy(prediction: Array, label: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(prediction), label[:, None], 1).mean()


_ACTIVATIONS: dict[type[nn.Module], Callable[[Array], Array]] = {
    nn.ReLU: jax.nn.relu,
    nn.Tanh: jnp.tanh,
}
_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "mse": lambda prediction, target: jnp.mean((prediction - target) ** 2),
    "cross_entropy": _cross_entropy,
}

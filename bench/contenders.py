"""The contenders: each makes of a workload a function that computes one meta-gradient.

That is the gradient, by the model's parameters, of the query loss after K inner steps, mean over
tasks, with second derivatives. Each is written as its own documentation would have a user write
it, in the fastest form of those that we tried.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import NamedTuple

import fastmaml as fm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from . import peers
from .step import LOSSES, Contender, Gradients, Step, Unavailable, samples_of
from .workloads import Workload


def fastmaml(
    workload: Workload,
    device: torch.device,
    dtype: torch.dtype,
    backend: str = "native",
    through_autograd: bool = False,
) -> Step:
    """`fastmaml.MAML` by `backward`; or `through_autograd`, as part of a larger loss would be."""
    samples = samples_of(workload, device, dtype)
    model = workload.model(dtype).to(device)
    maml = fm.MAML(model, workload.lr, workload.steps, workload.loss, backend=backend)
    parameters = dict(model.named_parameters())

    def step() -> Gradients:
        maml.zero_grad()
        if through_autograd:
            maml(*samples).loss.backward()
        else:
            maml.backward(*samples)
        return {name: parameter.grad for name, parameter in parameters.items()}

    return step


def fastmaml_autograd(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`fastmaml.MAML`, forward and backward."""
    return fastmaml(workload, device, dtype, through_autograd=True)


def fastmaml_generic(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`fastmaml.MAML` as it runs what it cannot trace."""
    return fastmaml(workload, device, dtype, backend="generic")


def fastmaml_captured(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`fastmaml.MAML` in a CUDA graph, whose buffers are given the samples before every replay."""
    if device.type != "cuda":
        raise Unavailable("CUDA graphs want a GPU")
    samples = samples_of(workload, device, dtype)
    buffers = [sample.clone() for sample in samples]
    model = workload.model(dtype).to(device)
    maml = fm.MAML(model, workload.lr, workload.steps, workload.loss, backend="native")
    graph, gradients = torch.cuda.CUDAGraph(), {}

    def step() -> Gradients:
        if not gradients:
            maml.backward(*buffers)  # what is prepared is prepared
            maml.zero_grad()
            with torch.cuda.graph(graph):
                maml.backward(*buffers)
            gradients.update((name, p.grad) for name, p in model.named_parameters())
        torch._foreach_copy_(buffers, list(samples))
        graph.replay()
        return gradients

    return step


def plain_loop(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """Task by task, with create_graph=True; each task's graph is freed by its own backward."""
    samples = samples_of(workload, device, dtype)
    model = workload.model(dtype).to(device)
    parameters = dict(model.named_parameters())
    loss = LOSSES[workload.loss]

    def step() -> Gradients:
        model.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*samples, strict=True):
            fast = parameters
            for _ in range(workload.steps):
                inner = loss(functional_call(model, fast, (support_x,)), support_y)
                gradients = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
                fast = {
                    name: value - workload.lr * gradient
                    for (name, value), gradient in zip(fast.items(), gradients, strict=True)
                }
            outer = loss(functional_call(model, fast, (query_x,)), query_y)
            (outer / workload.tasks).backward()
        return {name: parameter.grad for name, parameter in parameters.items()}

    return step


def torch_func(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`torch.func`: backward through the mean over vmap of an inner loop of grad."""
    samples = samples_of(workload, device, dtype)
    model = workload.model(dtype).to(device)
    parameters = dict(model.named_parameters())
    meta_loss = _batched_meta_loss(workload, model)

    def step() -> Gradients:
        model.zero_grad()
        meta_loss(parameters, *samples).backward()
        return {name: parameter.grad for name, parameter in parameters.items()}

    return step


def torch_compile(
    workload: Workload, device: torch.device, dtype: torch.dtype, mode: str | None = None
) -> Step:
    """`torch.compile` of the gradient of the loss of `torch_func`, all in one graph."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise Unavailable("torch.compile needs a C++ compiler, and there is none")
    samples = samples_of(workload, device, dtype)
    model = workload.model(dtype).to(device)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradient = grad_and_value(_batched_meta_loss(workload, model))
    compiled = torch.compile(gradient, fullgraph=True, dynamic=False, mode=mode)
    return lambda: compiled(parameters, *samples)[0]


def torch_compile_captured(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`torch_compile` that replays CUDA graphs, into which it copies the samples every time."""
    if device.type != "cuda":
        raise Unavailable("CUDA graphs want a GPU")
    step = torch_compile(workload, device, dtype, "reduce-overhead")

    def marked() -> Gradients:
        torch.compiler.cudagraph_mark_step_begin()  # nobody reads the last call's gradients again
        return step()

    return marked


def jax_jit(workload: Workload, device: torch.device, dtype: torch.dtype) -> Step:
    """`jax.jit` of the gradient of the mean over vmap of an inner loop of grad."""
    try:
        from . import in_jax
    except ImportError as error:
        raise Unavailable(f"JAX cannot be imported: {error}") from error
    return in_jax.meta_gradient(workload, device.type, dtype)


def _batched_meta_loss(workload: Workload, model: nn.Module) -> Callable[..., Tensor]:
    """Of initial parameters by name and the samples of all tasks."""
    loss = LOSSES[workload.loss]

    def sample_loss(fast: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, fast, (x,)), y)

    def task_loss(
        fast: dict[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
    ) -> Tensor:
        for _ in range(workload.steps):
            gradients = grad(sample_loss)(fast, support_x, support_y)
            fast = {name: fast[name] - workload.lr * gradients[name] for name in fast}
        return sample_loss(fast, query_x, query_y)

    def meta_loss(initial: dict[str, Tensor], *samples: Tensor) -> Tensor:
        return vmap(task_loss, (None, 0, 0, 0, 0))(initial, *samples).mean()

    return meta_loss


class Entry(NamedTuple):
    """A contender of the comparison."""

    label: str
    """Its name for people."""
    make: Contender
    is_loop: bool = False
    """Whether it is a loop over tasks, whose first call is hardly slower than its others."""
    shows_memory: bool = True
    """Whether torch counts what it takes of a GPU."""
    settles: int = 0
    """Calls after the first that record what later ones replay."""


BASE = "base"
"""fastmaml too, but another version of it, where `--base` names one."""

CONTENDERS: dict[str, Entry] = {
    "fastmaml": Entry("fastmaml", fastmaml),
    BASE: Entry("fastmaml at the base", fastmaml),
    "autograd": Entry("fastmaml, autograd", fastmaml_autograd),
    "captured": Entry("fastmaml, CUDA graph", fastmaml_captured, shows_memory=False, settles=1),
    "generic": Entry("fastmaml, generic", fastmaml_generic),
    "plain": Entry("plain loop", plain_loop, is_loop=True),
    "learn2learn": Entry("learn2learn", peers.learn2learn, is_loop=True),
    "higher": Entry("higher", peers.higher, is_loop=True),
    "torchopt": Entry("TorchOpt", peers.torchopt, is_loop=True),
    "func": Entry("torch.func", torch_func),
    "compile": Entry("torch.compile", torch_compile),
    "graphs": Entry(
        "torch.compile, CUDA graphs", torch_compile_captured, shows_memory=False, settles=3
    ),
    "jax": Entry("JAX jit", jax_jit, shows_memory=False),
}
"""By the name for the command line."""

CUDA_ONLY = ("captured", "graphs")
"""Those that want a GPU."""

OURS = ("fastmaml", BASE, "autograd", "captured", "generic")
"""Those that are no others."""

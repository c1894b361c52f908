"""The inner loop of T tasks as functions of tensors: adapt, meta_loss, sgd_step, predict, plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import checks
from ..plan import Plan
from ..plan import plan as plan_call
from ..program import Loss, modules_lock
from . import known, losses
from .arguments import Bound, NamePattern
from .autograd import Run, eager
from .backward import run_backward
from .calls import AdaptCall, LossCall, PredictCall
from .known import Given
from .losses import LossLike
from .rates import Rate


class MetaLoss(NamedTuple):
    """The outer loss of T tasks; each part can be differentiated."""

    loss: Tensor
    """[], the mean or the sum of task_loss."""
    task_loss: Tensor
    """[T], sum_k c_k l_q(phi_k) of each task; by default the query loss after the last step."""
    prediction: Any
    """[T, m, *output] of the query samples after the last step, zero beyond a query size. Of a
    model that returns a dict, say, such a dict; what has no axis of samples is [T, ...]."""


@eager
def adapt(
    model: nn.Module,
    support_x: Tensor,
    support_y: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    lr: Rate | Mapping[str, Rate],
    steps: int = 1,
    loss: LossLike = "cross_entropy",
    inner_parameters: NamePattern | None = None,
    weights: Tensor | None = None,
    support_size: Sequence[int] | Tensor | None = None,
    momentum: float = 0.0,
    first_order: bool = False,
    seed: int | None = None,
    backend: str = "auto",
    memory_budget: int | None = None,
    expand: bool = True,
) -> dict[str, Tensor]:
    """The parameters after `steps` steps of SGD on each task's support samples.

    See the package's docstring for what all functions share.

    Args:
        model: whose forward pass runs; its own parameters are where `parameters` has none.
        support_x: [T, n, *sample]; of integers where the model takes them.
        support_y: targets, [T, n] int64 classes, or float of the prediction's shape; [T, n, ...]
            for a callable loss.
        parameters: initial values by name, [*shape], or [T, *shape] where every task has its own.
        lr: the rates of the inner steps: a number, a tensor [] or [S], or one a parameter by name
            (number, [], [*shape], [S, 1, ..., 1] or [S, *shape]; step k reads row min(k, S-1)).
        steps: K >= 0.
        loss: "mse", "cross_entropy", "bce_with_logits", the torch.nn module or function of one of
            them, or any callable that returns one number for (prediction, target) of a task.
        inner_parameters: names of what is adapted: a pattern as of a shell, several, or a
            predicate; None: all. What has requires_grad=False in the model never is.
        weights: [T, n] weights of the samples' losses; None: 1 / the number of samples. Not with
            a callable loss, whose samples have no losses of their own.
        support_size: how many samples of each task are real, T integers on the host.
        momentum: of the inner SGD, without dampening.
        first_order: take the gradients of the inner loss for constants (FOMAML, Finn et al.
            2017, section 5.2).
        seed: of dropout's masks; None: drawn from torch's default generator.
        backend: "auto", "native", "reference" or "generic".
        memory_budget: the bytes that a call may take beside its inputs and results, over all
            threads; None: what is fastest. Where it does not hold what all inner steps leave for
            the gradient, some are computed again, to the same bits; where it does not hold tasks
            in lockstep, they run one by one. "reference", and "native" on a GPU, refuse it;
            "generic" keeps to it by estimate.
        expand: give everything the shape [T, *shape], also what all tasks share.

    Returns:
        Every parameter of the model by name. Those that are adapted are [T, *shape]; those that
        are not (frozen, not named, unused) keep their value, expanded to [T, *shape] without a
        copy, or as they were given if `expand` is False.

    Raises:
        TypeError, ValueError: an argument is not as described above, or `memory_budget` is less
            than the call can do with.
        TraceError: the model is not made of operations that a program has, and `backend` is none
            that runs it as it is.
        BackendError: the backend cannot run this call.
    """
    checks.flag("expand", expand)
    loss = losses.resolve(loss)
    options = ("adapt", steps, *loss.key, momentum, first_order, backend, memory_budget)
    data = (support_x, support_y, weights)
    given = Given((*options, inner_parameters), lr, parameters, data, (support_size,))
    call = known.find(model, given)
    if call is None:
        bound = Bound(model, "support_x", support_x, parameters, backend, loss, support_size)
        adapts = bound.adapted(inner_parameters)
        loop = bound.loop(loss, adapts, steps, momentum, first_order, memory_budget=memory_budget)
        support = bound.samples("support", support_x, support_y, weights, support_size, loss)
        call = bound.prepared(loop, bound.inputs(bound.rates(lr, loop), support, None), given)
    prepared, tensors = call
    adapted = iter(Run.apply(AdaptCall(prepared, prepared.seed(seed)), *tensors))
    with modules_lock:
        own = dict(model.named_parameters())
    result = own | dict(parameters or {})
    loop = prepared.loop
    initial = prepared.parameters(tensors)
    for slot, value, flag in zip(loop.program.slots, initial, loop.adapted, strict=True):
        result[slot.name] = next(adapted) if flag else value
    if not expand:
        return result
    return {
        name: value if value.dim() > own[name].dim() else value.expand(prepared.tasks, *value.shape)
        for name, value in result.items()
    }


@eager
def meta_loss(
    model: nn.Module,
    support_x: Tensor,
    support_y: Tensor,
    query_x: Tensor,
    query_y: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    lr: Rate | Mapping[str, Rate],
    steps: int = 1,
    loss: LossLike = "cross_entropy",
    inner_parameters: NamePattern | None = None,
    weights: Tensor | None = None,
    query_weights: Tensor | None = None,
    support_size: Sequence[int] | Tensor | None = None,
    query_size: Sequence[int] | Tensor | None = None,
    step_weights: Sequence[float] | None = None,
    momentum: float = 0.0,
    first_order: bool = False,
    reduction: str = "mean",
    seed: int | None = None,
    backend: str = "auto",
    memory_budget: int | None = None,
    backward: bool = False,
) -> MetaLoss:
    """The query loss of each task after adapting to its support samples (MAML, Finn et al. 2017).

    One run of the executor computes the value and, where a gradient may follow, the gradient of
    `loss`. A gradient of `task_loss` or `prediction` takes one more run.

    Args:
        query_x: [T, m, *sample].
        query_y: targets as of the support, of m samples.
        query_weights: [T, m] weights of the query samples' losses; None: 1 / their number.
        query_size: how many query samples of each task are real, T integers on the host.
        step_weights: c_0..c_K, the weights of the query loss after each step (MAML++, Antoniou
            et al. 2019, section 4.1); None: the loss after the last step alone.
        reduction: "mean" or "sum" over tasks.
        backward: add the gradient of `loss` to `.grad` of all that requires it, as
            `loss.backward()` would, but without a graph; the results are detached. It does not
            reach hooks of autograd's own nodes, such as those of DistributedDataParallel.

    The other arguments and the errors are those of `adapt`; with `backward` also

    Raises:
        RuntimeError: grad mode is off, or nothing requires grad.
    """
    checks.choice("reduction", reduction, ("mean", "sum"))
    checks.flag("backward", backward)
    loss = losses.resolve(loss)
    options = ("meta_loss", steps, *loss.key, step_weights, momentum, first_order, backend)
    options = (*options, memory_budget, inner_parameters)
    data = (support_x, support_y, weights, query_x, query_y, query_weights)
    given = Given(options, lr, parameters, data, (support_size, query_size))
    call = known.find(model, given)
    if call is None:
        bound = Bound(model, "support_x", support_x, parameters, backend, loss, support_size)
        adapts = bound.adapted(inner_parameters)
        loop = bound.loop(loss, adapts, steps, momentum, first_order, step_weights, memory_budget)
        checks.x("query_x", query_x, scalars=not bound.is_traced)
        support = bound.samples("support", support_x, support_y, weights, support_size, loss)
        query = bound.samples("query", query_x, query_y, query_weights, query_size, loss)
        call = bound.prepared(loop, bound.inputs(bound.rates(lr, loop), support, query), given)
    prepared, tensors = call
    call = LossCall(prepared, prepared.seed(seed), reduction)
    results = run_backward(call, tensors) if backward else Run.apply(call, *tensors)
    total, task_loss, *leaves = results
    return MetaLoss(total, task_loss, prepared.prediction(leaves))


def sgd_step(
    model: nn.Module,
    support_x: Tensor,
    support_y: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    lr: Rate | Mapping[str, Rate],
    loss: LossLike = "cross_entropy",
    inner_parameters: NamePattern | None = None,
    weights: Tensor | None = None,
    support_size: Sequence[int] | Tensor | None = None,
    first_order: bool = False,
    seed: int | None = None,
    backend: str = "auto",
) -> dict[str, Tensor]:
    """One inner step from `parameters`: `adapt` with steps=1."""
    return adapt(
        model,
        support_x,
        support_y,
        parameters=parameters,
        lr=lr,
        loss=loss,
        inner_parameters=inner_parameters,
        weights=weights,
        support_size=support_size,
        first_order=first_order,
        seed=seed,
        backend=backend,
    )


@eager
def predict(
    model: nn.Module,
    query_x: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    query_size: Sequence[int] | Tensor | None = None,
    seed: int | None = None,
    backend: str = "auto",
) -> Any:
    """What the model says of each task's samples, with parameters of its own where it has them.

    Args:
        model: whose forward pass runs; its own parameters are where `parameters` has none.
        query_x: [T, m, *sample].
        parameters: by name, [*shape], or [T, *shape] as `adapt` returns them.
        query_size: how many samples of each task are real, T integers on the host.
        seed: of dropout's masks; None: drawn from torch's default generator.
        backend: "auto", "native", "reference" or "generic".

    Returns:
        [T, m, *output], zero beyond a query size; of a model that returns a dict, say, such a
        dict. Raises what `adapt` raises.
    """
    given = Given(("predict", backend), None, parameters, (query_x,), (query_size,))
    call = known.find(model, given)
    if call is None:
        bound = Bound(model, "query_x", query_x, parameters, backend, None, query_size)
        loop = bound.loop(None, (False,) * len(bound.parameters), 0, 0.0, False)
        query = bound.samples("query", query_x, None, None, query_size, None)
        call = bound.prepared(loop, bound.inputs(bound.no_rates(), None, query), given)
    prepared, tensors = call
    return prepared.prediction(Run.apply(PredictCall(prepared, prepared.seed(seed)), *tensors))


def plan(
    model: nn.Module,
    support_x: Tensor,
    query_x: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    lr: Rate | Mapping[str, Rate],
    steps: int = 1,
    loss: LossLike = "cross_entropy",
    inner_parameters: NamePattern | None = None,
    momentum: float = 0.0,
    first_order: bool = False,
    step_weights: Sequence[float] | None = None,
    backend: str = "auto",
    memory_budget: int | None = None,
) -> Plan:
    """What `meta_loss` with these arguments would run, why, and at what cost; runs nothing."""
    of_loss = losses.resolve(loss)
    bound = Bound(model, "support_x", support_x, parameters, backend, of_loss)
    loop = bound.loop(
        of_loss,
        bound.adapted(inner_parameters),
        steps,
        momentum,
        first_order,
        step_weights,
        memory_budget,
    )
    checks.x("query_x", query_x, scalars=not bound.is_traced)
    support, query = (
        bound.samples(role, x, _some_targets(bound, x, loop.loss), None, None, loop.loss)
        for role, x in (("support", support_x), ("query", query_x))
    )
    inputs = bound.inputs(bound.rates(lr, loop), support, query)
    return plan_call(loop, inputs, bound.backend)


def _some_targets(bound: Bound, x: Tensor, loss: Loss) -> Tensor:
    """Targets that fit, for a call that is not run."""
    output = bound.program.output_shape
    if loss.kind == "cross_entropy" or output is None:
        return torch.zeros((), dtype=checks.LABELS, device=bound.device).expand(x.shape[:2])
    zero = torch.zeros((), dtype=bound.dtype, device=bound.device)
    return zero.expand(*x.shape[:2], *output)

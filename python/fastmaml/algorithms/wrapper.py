"""What the algorithms share: a module around a model, that learns to adapt it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._pytree import tree_map_only

from .. import checks, functional
from ..functional import MetaLoss
from ..functional.arguments import NamePattern
from ..functional.losses import LossLike, resolve
from ..functional.rates import Rate
from ..plan import BACKENDS, Plan
from ..program import has_hooks, modules_lock


class Adapted:
    """A model adapted to T tasks. Call it on [T, m, *sample] for predictions [T, m, *output].

    Args:
        model: whose forward pass runs.
        tasks: T.
        parameters: of the model by name, [T, *shape] where they are adapted, else [*shape].
        backend: see `functional.adapt`.
    """

    def __init__(
        self, model: nn.Module, tasks: int, parameters: Mapping[str, Tensor], backend: str
    ) -> None:
        self._model = model
        self._tasks = tasks
        self._parameters = dict(parameters)
        self._backend = backend

    def __call__(
        self,
        query_x: Tensor,
        *,
        query_size: Sequence[int] | Tensor | None = None,
        seed: int | None = None,
    ) -> Any:
        """Predictions [T, m, *output]; see `functional.predict`."""
        checks.x("query_x", query_x, scalars=True)
        if query_x.shape[0] != self._tasks:
            raise ValueError(
                f"query_x must be of the {self._tasks} tasks that were adapted to, "
                f"got shape {tuple(query_x.shape)}"
            )
        return functional.predict(
            self._model,
            query_x,
            parameters=self._parameters,
            query_size=query_size,
            seed=seed,
            backend=self._backend,
        )

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter of the model, [T, *shape]; what all tasks share is expanded."""
        with modules_lock:
            own = dict(self._model.named_parameters())
        for name, value in self._parameters.items():
            is_shared = value.dim() == own[name].dim()
            yield name, value.expand(self._tasks, *value.shape) if is_shared else value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._model).__name__}, tasks={self._tasks})"


class MetaLearner(nn.Module):
    """The base of the algorithms: inner SGD on the support samples of each task.

    Its parameters are those of the model, in `module`, and those that an algorithm adds. The
    model is shared, not copied: several algorithms may hold the same one. Modules in training
    and in evaluation differ in dropout alone.

    Args:
        model: what is adapted.
        steps: K >= 0, the inner steps of a forward pass.
        loss: of the inner loop and of the query; see `functional.adapt`.
        first_order: take the gradients of the inner loss for constants.
        inner_parameters: names of what the inner loop adapts; see `functional.adapt`.
        momentum: of the inner SGD.
        step_weights: weights of the query loss after each step; see `functional.meta_loss`.
        backend: "auto", "native", "reference" or "generic".
        memory_budget: the bytes that a call may take; see `functional.adapt`.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        loss: LossLike = "cross_entropy",
        first_order: bool = False,
        inner_parameters: NamePattern | None = None,
        momentum: float = 0.0,
        step_weights: Sequence[float] | None = None,
        backend: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        self.module = model
        self.steps = checks.steps(steps)
        self.loss = resolve(loss)
        self.first_order = checks.flag("first_order", first_order)
        self.inner_parameters = inner_parameters
        self.momentum = checks.number("momentum", momentum, minimum=0.0)
        self.step_weights = checks.step_weights(step_weights, steps) or None
        self.backend = checks.choice("backend", backend, BACKENDS)
        self.memory_budget = checks.memory_budget(memory_budget)

    def rates(self) -> Rate | Mapping[str, Rate]:
        """The `lr` of `functional.adapt`."""
        raise NotImplementedError

    def forward(
        self,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        *,
        weights: Tensor | None = None,
        query_weights: Tensor | None = None,
        support_size: Sequence[int] | Tensor | None = None,
        query_size: Sequence[int] | Tensor | None = None,
        steps: int | None = None,
        reduction: str = "mean",
        seed: int | None = None,
    ) -> MetaLoss:
        """The query loss of each task after adapting to its support; see `functional.meta_loss`.

        Args:
            support_x: [T, n, *sample].
            support_y: [T, n] int64 classes, or float of the prediction's shape.
            query_x: [T, m, *sample].
            query_y: as support_y, of m samples.
            weights: [T, n] weights of the support samples.
            query_weights: [T, m] weights of the query samples.
            support_size: how many support samples of each task are real.
            query_size: how many query samples of each task are real.
            steps: K, if not the one of the constructor.
            reduction: "mean" or "sum" over tasks.
            seed: of dropout's masks; None: drawn from torch's default generator.
        """
        return self._meta_loss(
            (support_x, support_y, query_x, query_y),
            steps,
            weights=weights,
            query_weights=query_weights,
            support_size=support_size,
            query_size=query_size,
            reduction=reduction,
            seed=seed,
        )

    def backward(
        self,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        *,
        steps: int | None = None,
        **options: Any,
    ) -> MetaLoss:
        """Adds the meta-gradient to `.grad`, and returns the loss, detached.

        That is `out = self(...)` and `out.loss.backward()` of the same arguments, to the same bits,
        but without a graph where nobody would see it, which costs small problems less time. Under
        DistributedDataParallel, call that and not this: its hooks are where only autograd comes by.

        The arguments are those of `forward`.

        Raises:
            RuntimeError: grad mode is off, or nothing requires grad.
        """
        samples = (support_x, support_y, query_x, query_y)
        if self._call_is_more_than_forward():
            out = self(*samples, steps=steps, **options)
            out.loss.backward()
            return tree_map_only(Tensor, Tensor.detach, out)
        # `parameters` is no option of this
        return self._meta_loss(samples, steps, parameters=None, backward=True, **options)

    def _meta_loss(
        self, samples: tuple[Tensor, ...], steps: int | None, **options: Any
    ) -> MetaLoss:
        return functional.meta_loss(
            self.module,
            *samples,
            step_weights=self.step_weights,
            **options,
            **self._inner_loop(steps),
        )

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        weights: Tensor | None = None,
        support_size: Sequence[int] | Tensor | None = None,
        steps: int | None = None,
        seed: int | None = None,
    ) -> Adapted:
        """The model adapted to each task, to be called on its query samples.

        The arguments are those of `forward`; what it returns is differentiable.
        """
        parameters = functional.adapt(
            self.module,
            support_x,
            support_y,
            weights=weights,
            support_size=support_size,
            seed=seed,
            expand=False,
            **self._inner_loop(steps),
        )
        return Adapted(self.module, support_x.shape[0], parameters, self.backend)

    def plan(self, support_x: Tensor, query_x: Tensor, *, steps: int | None = None) -> Plan:
        """What `forward` on such data runs, why, and at what cost: `print` it."""
        return functional.plan(
            self.module,
            support_x,
            query_x,
            step_weights=self.step_weights,
            **self._inner_loop(steps),
        )

    def extra_repr(self) -> str:
        parts = [f"steps={self.steps}", f"loss={self.loss.name!r}"]
        for name, default in (
            ("first_order", False),
            ("inner_parameters", None),
            ("momentum", 0.0),
            ("step_weights", None),
            ("backend", "auto"),
            ("memory_budget", None),
        ):
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)

    def _call_is_more_than_forward(self) -> bool:
        """Whether hooks, or a subclass, have a call do more than `MetaLearner.forward`."""
        return (
            type(self).forward is not MetaLearner.forward
            or has_hooks(self)
            or _has_any_global_hook()
        )

    def _inner_loop(self, steps: int | None) -> dict[str, Any]:
        return {
            "lr": self.rates(),
            "steps": self.steps if steps is None else steps,
            "loss": self.loss,
            "inner_parameters": self.inner_parameters,
            "momentum": self.momentum,
            "first_order": self.first_order,
            "backend": self.backend,
            "memory_budget": self.memory_budget,
        }

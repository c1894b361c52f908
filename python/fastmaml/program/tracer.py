"""torch.fx's tracer, with a program in the place of a graph."""

from __future__ import annotations

import inspect
import operator
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils import parametrize

from . import trace_layers, trace_tensors  # noqa: F401  (their rules register themselves)
from .facts import has_hooks
from .trace_builder import (
    SAMPLES,
    Constant,
    Parameter,
    ProgramBuilder,
    TraceError,
    Value,
    describe,
)
from .trace_rules import convert


class _SymbolicTensor(fx.Proxy):
    """A tensor while its model is traced: its shape is known, but for the number of samples.

    `node.meta["operand"]` says what it is: a `Value`, `Parameter`, `Constant` or `SAMPLES`.
    """

    @property
    def shape(self) -> tuple[Any, ...]:
        operand = self.node.meta["operand"]
        if operand is SAMPLES:
            raise self.tracer.error("the number of samples has no shape")
        samples = (self.tracer.samples,) if isinstance(operand, Value) else ()
        return (*samples, *operand.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def __len__(self) -> int:
        # Python wants an int here, and for a value the number of samples is not known.
        raise self.tracer.error("len() has no op; use x.shape[0]")


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`x += y` as an operation of its own; fx takes it for x = x + y, and aliases of x differ."""

    def method(self: _SymbolicTensor, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _operator in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imatmul", "imod"):
    setattr(_SymbolicTensor, f"__{_operator}__", _in_place(getattr(operator, _operator)))


class Tracer(fx.Tracer):
    """Runs forward on stand-ins, and gives each operation that they meet to `convert`."""

    def __init__(self, model: nn.Module, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.builder = ProgramBuilder(sample_shape, model.named_parameters())
        self.called: list[nn.Module] = []
        self.output: Value
        self._model = model
        self._thread = threading.get_ident()  # fx patches nn.Module for all threads
        self._path: list[tuple[str, nn.Module]] = []
        parameters = zip(model.parameters(), self.builder.parameters, strict=True)
        self._tensors: dict[int, Parameter | Constant] = {
            id(tensor): parameter for tensor, parameter in parameters
        }
        for prefix, module in model.named_modules():
            for name, tensor in (vars(module) | module._buffers).items():
                if isinstance(tensor, Tensor):
                    constant = Constant(f"{prefix}.{name}".lstrip("."), tensor)
                    self._tensors.setdefault(id(tensor), constant)
        self._modes = _modes()
        self._random_state = _random_state()
        self._error: TraceError | None = None

    def error(self, message: str) -> TraceError:
        """An error that names the model and the module whose forward runs.

        The first one is kept: a forward that catches exceptions cannot hide it.
        """
        path, module = self._path[-1] if self._path else ("", self._model)
        where = f"'{path}' ({type(module).__name__}): " if path else ""
        error = TraceError(f"cannot trace {type(self._model).__name__}: {where}{message}")
        self._error = self._error or error
        return error

    # fx calls the methods below, and no other of this class.

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., None], list[Any]]:
        """What fx runs, with the model's input as a stand-in."""
        self.samples = self._stand_in("placeholder", "samples", SAMPLES)
        x = self._stand_in("placeholder", "x", self.builder.input)

        def run(model: nn.Module, x: fx.Proxy) -> None:
            try:
                inspect.signature(root_fn).bind(model, x)
            except TypeError as error:
                raise self.error(
                    f"forward must take one tensor and have defaults for the rest, as it is "
                    f"called as model(x): {error}"
                ) from None
            self.output = self._single_value(self.call_module(model, root_fn, (x,), {}))

        return run, [self._model, x]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace through a module, by the forward of its class."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        path = (self.submodule_paths or {}).get(m)
        if path is None:
            raise self.error(
                f"calls a {type(m).__name__} that is no submodule of the model; register it as "
                f"an attribute or in an nn.ModuleList"
            )
        self._path.append((path, m))
        detour = _detour(m)
        if detour:
            raise self.error(detour)
        self.called.append(m)
        try:
            if isinstance(m, nn.BatchNorm1d) and type(m).forward is nn.BatchNorm1d.forward:
                result = _batch_statistics(m, *args, **kwargs)
            else:
                result = m.forward(*args, **kwargs)
        except TraceError:
            raise
        except Exception as error:
            raise self.error(f"forward raised {type(error).__name__}: {error}") from error
        self._path.pop()
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What a forward gets for self.weight, where it is a tensor: a stand-in."""
        if isinstance(attr_val, Tensor) and threading.get_ident() == self._thread:
            return self._stand_in("get_attr", attr, self._operand(attr_val))
        return attr_val

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *names: Any,
        **options: Any,
    ) -> fx.Proxy:
        """What a forward gets from an operation on stand-ins: one more of them."""
        if _modes() != self._modes:
            raise self.error(
                "changes the gradient mode or autocast inside of forward, which a program "
                "cannot; leave parameters out by requires_grad_(False)"
            )
        operands = map_aggregate(args, self._operand)
        keywords = map_aggregate(kwargs, self._operand)
        try:
            result = convert(self.builder, target, operands, keywords)
        except TraceError as error:
            raise self.error(str(error)) from None
        proxy = super().create_proxy(kind, target, args, kwargs, *names, **options)
        proxy.node.meta["operand"] = result
        return proxy

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _SymbolicTensor(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise self.error(
            f"control flow depends on {describe(self._operand(obj))}: a program takes the same "
            f"way for any data"
        )

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        raise self.error(f"iterating over {describe(self._operand(obj))} has no op")

    # Here ends what fx calls.

    def _stand_in(self, kind: str, name: str, operand: object) -> fx.Proxy:
        proxy = super().create_proxy(kind, name, (), {})
        proxy.node.meta["operand"] = operand
        return proxy

    def _operand(self, argument: Any) -> Any:
        """What an argument stands for; Python numbers, strings and so on for themselves."""
        if isinstance(argument, fx.Proxy):
            return argument.node.meta["operand"]
        if isinstance(argument, Tensor):
            operand = self._tensors.get(id(argument))
            if operand is None:
                raise self.error(
                    f"uses a tensor of shape {list(argument.shape)} that is no parameter of the "
                    f"model: it was made in forward, or is held elsewhere"
                )
            return operand
        return argument

    def _single_value(self, result: Any) -> Value:
        """What forward returned, with a last look for what it must not do on the way."""
        if self._error:
            raise self._error
        if _random_state() != self._random_state:
            raise self.error(
                "forward draws random numbers, which a program would keep; use dropout"
            )
        operand = self._operand(result)
        if isinstance(operand, Value):
            try:
                return self.builder.read(operand)
            except TraceError as error:
                raise self.error(f"return: {error}") from None
        if isinstance(operand, tuple | list | dict):
            name = type(operand).__name__
            raise self.error(f"forward returns a {name} of {len(operand)}; it must be one tensor")
        raise self.error(f"what forward returns does not depend on its input: {describe(operand)}")


def _detour(module: nn.Module) -> str | None:
    """What happens when a module is called that the forward of its class does not say."""
    if has_hooks(module) or _has_any_global_hook():
        return "has hooks, its own or global ones, which would not run; remove them"
    if parametrize.is_parametrized(module):
        return "has parametrizations; remove them by parametrize.remove_parametrizations"
    if "forward" in vars(module):
        return "has a forward replaced on the instance; define it in a class"
    if isinstance(module, _BatchNorm) and not isinstance(module, nn.BatchNorm1d):
        return "has no op; nn.BatchNorm1d has"
    if type(module).__call__ is not nn.Module.__call__ and not isinstance(module, fx.GraphModule):
        return "has a __call__ of its own, which is not traced; define forward alone"
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    names = set(code.co_names) if code else set()
    if "is_tensor" in names or {"isinstance", "Tensor"} <= names:
        return "has a forward that asks whether something is a Tensor; give it tensors alone"
    return None


def _batch_statistics(module: nn.BatchNorm1d, input: Tensor) -> Tensor:
    module._check_input_dim(input)
    return F.batch_norm(
        input,
        module.running_mean,
        module.running_var,
        module.weight,
        module.bias,
        training=True,
        eps=module.eps,
    )


def _modes() -> tuple[bool, ...]:
    """The modes of torch that change what an operation means."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    )


def _random_state() -> tuple[object, ...]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
        states += torch.cuda.get_rng_state_all()
    # Lists, since inside torch.func tensors have no numpy view.
    return random.getstate(), *[tuple(state.tolist()) for state in states]

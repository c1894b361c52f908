"""Rules for layers with parameters, activations and dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .trace_builder import Constant, Parameter, ProgramBuilder, TraceError, Value, describe
from .trace_rules import attribute, converts, parameter


@converts(F.linear)
def _linear(builder: ProgramBuilder, input: object, weight: object, bias: object = None) -> Value:
    x = builder.read(input)
    if not isinstance(weight, Parameter) or len(weight.shape) != 2:
        raise TraceError(f"wants a parameter [out, in] as weight, got {describe(weight)}")
    out_features, in_features = weight.shape
    if not x.shape or x.shape[-1] != in_features:
        raise TraceError(
            f"wants {in_features} features on the last axis, "
            f"as '{weight.name}' of shape {list(weight.shape)} has, got {describe(x)}"
        )
    parameters = (weight, parameter("bias", bias, (out_features,)))
    return builder.emit("linear", x, shape=(*x.shape[:-1], out_features), parameters=parameters)


@converts(F.batch_norm)
def _batch_norm(
    builder: ProgramBuilder,
    input: object,
    running_mean: object,
    running_var: object,
    weight: object = None,
    bias: object = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    # Statistics are the batch's own and running buffers stay as they are: no use for momentum.
    x = builder.read(input)
    if not training:
        raise TraceError("running statistics have no op; give training=True or nn.BatchNorm1d")
    if len(x.shape) not in (1, 2):
        raise TraceError(f"wants a value of shape [n, C] or [n, C, L], got {describe(x)}")
    channels = x.shape[:1]
    for buffer in (running_mean, running_var):
        if isinstance(buffer, Constant) and buffer.shape != channels:
            raise TraceError(f"wants {channels[0]} channels in {describe(buffer)}")
    parameters = (parameter("weight", weight, channels), parameter("bias", bias, channels))
    return builder.emit("batch_norm", x, parameters=parameters, eps=attribute("eps", eps))


def _normalized(x: Value, normalized_shape: object) -> tuple[int, ...]:
    """The shape that a norm of each sample works on; its axes are the last ones of x."""
    shape = tuple(normalized_shape) if isinstance(normalized_shape, list | tuple) else ()
    if not shape or len(shape) > len(x.shape) or x.shape[-len(shape) :] != shape:
        raise TraceError(
            f"wants a value whose last axes, without the sample axis, are the normalized_shape "
            f"{describe(normalized_shape)}, got {describe(x)}"
        )
    return shape


@converts(F.layer_norm)
def _layer_norm(
    builder: ProgramBuilder,
    input: object,
    normalized_shape: object,
    weight: object = None,
    bias: object = None,
    eps: float = 1e-5,
) -> Value:
    x = builder.read(input)
    shape = _normalized(x, normalized_shape)
    parameters = (parameter("weight", weight, shape), parameter("bias", bias, shape))
    return builder.emit(
        "layer_norm", x, parameters=parameters, axes=len(shape), eps=attribute("eps", eps)
    )


@converts(F.rms_norm)
def _rms_norm(
    builder: ProgramBuilder,
    input: object,
    normalized_shape: object,
    weight: object = None,
    eps: float | None = None,
) -> Value:
    x = builder.read(input)
    shape = _normalized(x, normalized_shape)
    return builder.emit(
        "rms_norm",
        x,
        parameters=(parameter("weight", weight, shape),),
        axes=len(shape),
        eps=None if eps is None else attribute("eps", eps),
    )


@converts(F.relu, torch.relu, "relu", in_place=(torch.relu_, "relu_"))
def _relu(builder: ProgramBuilder, input: object, inplace: bool = False) -> Value:
    return builder.emit("relu", builder.read(input))


@converts(F.leaky_relu, in_place=(F.leaky_relu_,))
def _leaky_relu(
    builder: ProgramBuilder, input: object, negative_slope: float = 0.01, inplace: bool = False
) -> Value:
    slope = attribute("negative_slope", negative_slope)
    return builder.emit("leaky_relu", builder.read(input), slope=slope)


@converts(F.elu, in_place=(F.elu_,))
def _elu(
    builder: ProgramBuilder, input: object, alpha: float = 1.0, inplace: bool = False
) -> Value:
    return builder.emit("elu", builder.read(input), alpha=attribute("alpha", alpha))


@converts(torch.tanh, "tanh", in_place=(torch.tanh_, "tanh_"))
def _tanh(builder: ProgramBuilder, input: object) -> Value:
    return builder.emit("tanh", builder.read(input))


@converts(torch.sigmoid, "sigmoid", in_place=(torch.sigmoid_, "sigmoid_"))
def _sigmoid(builder: ProgramBuilder, input: object) -> Value:
    return builder.emit("sigmoid", builder.read(input))


@converts(F.gelu)
def _gelu(builder: ProgramBuilder, input: object, approximate: str = "none") -> Value:
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    if approximate not in kinds:
        raise TraceError(f"wants approximate='none' or 'tanh', got {approximate!r}")
    return builder.emit(kinds[approximate], builder.read(input))


@converts(F.silu)
def _silu(builder: ProgramBuilder, input: object, inplace: bool = False) -> Value:
    return builder.emit("silu", builder.read(input))


@converts(F.softplus)
def _softplus(
    builder: ProgramBuilder, input: object, beta: float = 1.0, threshold: float = 20.0
) -> Value:
    return builder.emit(
        "softplus",
        builder.read(input),
        beta=attribute("beta", beta),
        threshold=attribute("threshold", threshold),
    )


@converts(torch.sin, "sin", in_place=(torch.sin_, "sin_"))
def _sin(builder: ProgramBuilder, input: object) -> Value:
    frequency, x = builder.unscaled(builder.read(input))
    return builder.emit("sin", x, frequency=frequency)


@converts(F.dropout)
def _dropout(
    builder: ProgramBuilder,
    input: object,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Value:
    x, p = builder.read(input), attribute("p", p)
    if not 0 <= p <= 1:
        raise TraceError(f"wants p in 0..1, got {p}")
    if not training or p == 0:
        return x.alias()
    return builder.emit("dropout", x, p=p, stream=builder.next_stream())

"""Every op and every loss, in every executor: the four functions against float64 autograd."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from fastmaml.executors.passes import LossPoint, Passes, Point
from fastmaml.program import LOSS_KINDS, OP_KINDS, InnerLoop, Inputs, Loss, Program, Samples
from oracle import apply, largest, sample_losses
from programs import Builder, Normal
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES = 5
WHERE = {"seed": 4_000_000_007, "task": 3, "pass_index": 8}
"""The pass whose dropout masks are checked; the seed needs all 32 bits."""


def unary(kind: str, *shape: int, to: tuple[int, ...] | None = None, **attributes) -> Program:
    build = Builder([shape])
    build.op(kind, (0,), to, **attributes)
    return build.program()


def linear(*shape: int, out: int, bias: bool = True) -> Program:
    build = Builder([shape])
    parameters = (build.slot(out, shape[-1]), build.slot(out) if bias else None)
    build.op("linear", (0,), (*shape[:-1], out), parameters)
    return build.program()


def norm(kind: str, *shape: int, affine: str = "weight bias", **attributes) -> Program:
    build = Builder([shape])
    normalised = shape[:1] if kind == "batch_norm" else shape[-attributes["axes"] :]
    parameters = tuple(
        build.slot(*normalised) if name in affine.split() else None
        for name in OP_KINDS[kind].parameters
    )
    build.op(kind, (0,), None, parameters, **attributes)
    return build.program()


def add_of_two() -> Program:
    build = Builder([(3,)])
    build.op("add", (0, build.op("scale", (0,), factor=-0.7)))
    return build.program()


def add_to_itself() -> Program:
    build = Builder([(2, 3)])
    build.op("add", (0, 0))
    return build.program()


def tied_residual() -> Program:
    """tanh and a linear used twice around a residual: slots and values that are read twice."""
    build = Builder([(3,)])
    parameters = (build.slot(3, 3), build.slot(3))
    hidden = build.op("linear", (0,), None, parameters)
    hidden = build.op("add", (0, build.op("tanh", (hidden,))))
    build.op("linear", (hidden,), None, parameters)
    return build.program()


CASES: dict[str, Program] = {
    "linear": linear(4, out=3),
    "linear without bias": linear(1, out=7, bias=False),
    "linear over positions": linear(2, 3, 4, out=5),
    "batch_norm": norm("batch_norm", 3, eps=1e-5),
    "batch_norm over positions": norm("batch_norm", 3, 4, eps=1e-2),
    "batch_norm over planes": norm("batch_norm", 2, 3, 2, eps=1e-5),
    "batch_norm without affine": norm("batch_norm", 3, affine="", eps=1e-5),
    "layer_norm": norm("layer_norm", 5, axes=1, eps=1e-5),
    "layer_norm of rows": norm("layer_norm", 2, 5, axes=1, eps=1e-1),
    "layer_norm of planes": norm("layer_norm", 2, 3, axes=2, eps=1e-5),
    "layer_norm without bias": norm("layer_norm", 5, affine="weight", axes=1, eps=1e-5),
    "layer_norm without weight": norm("layer_norm", 5, affine="bias", axes=1, eps=1e-5),
    "layer_norm without affine": norm("layer_norm", 5, affine="", axes=1, eps=1e-5),
    "rms_norm": norm("rms_norm", 5, axes=1, eps=1e-2),
    "rms_norm with the dtype's eps": norm("rms_norm", 5, axes=1, eps=None),
    "rms_norm of rows": norm("rms_norm", 2, 3, axes=1, eps=1e-5),
    "rms_norm of planes": norm("rms_norm", 2, 3, axes=2, eps=1e-5),
    "rms_norm without affine": norm("rms_norm", 3, affine="", axes=1, eps=1e-5),
    "relu": unary("relu", 3),
    "leaky_relu": unary("leaky_relu", 3, slope=0.01),
    "leaky_relu that falls": unary("leaky_relu", 3, 2, slope=-0.3),
    "elu": unary("elu", 3, alpha=1.0),
    "elu with alpha": unary("elu", 3, alpha=0.4),
    "tanh": unary("tanh", 3),
    "sigmoid": unary("sigmoid", 3),
    "gelu": unary("gelu", 3),
    "gelu_tanh": unary("gelu_tanh", 3),
    "silu": unary("silu", 3),
    "softplus": unary("softplus", 3, beta=1.0, threshold=20.0),
    "softplus with a low threshold": unary("softplus", 3, beta=2.5, threshold=0.5),
    "sin": unary("sin", 3, frequency=1.0),
    "sin with frequency": unary("sin", 3, frequency=30.0),
    "dropout": unary("dropout", 4, 5, p=0.3, stream=2),
    "dropout of nothing": unary("dropout", 3, p=0.0, stream=0),
    "dropout of everything": unary("dropout", 3, p=1.0, stream=0),
    "reshape": unary("reshape", 2, 6, to=(4, 3)),
    "reshape to a vector": unary("reshape", 2, 3, to=(6,)),
    "reshape to scalars": unary("reshape", 1, to=()),
    "add": add_of_two(),
    "add to itself": add_to_itself(),
    "scale": unary("scale", 3, factor=-1.7),
    "a tied residual": tied_residual(),
}


def test_every_op_has_a_case():
    covered = {op.kind for program in CASES.values() for op in program.ops}
    assert covered == OP_KINDS.keys()


def random_point(program: Program, seed: int) -> Point:
    draw = Normal(seed, torch.float64)

    def parameters() -> tuple[Tensor, ...]:
        return tuple(draw(*slot.shape) for slot in program.slots)

    def samples(value: int) -> Tensor:
        return draw(SAMPLES, *program.values[value])

    return Point(
        x=samples(0),
        parameters=parameters(),
        x_dot=samples(0),
        parameter_dots=parameters(),
        y_bar=samples(program.output),
        y_bar_dot=samples(program.output),
    )


def autograd_passes(program: Program, point: Point) -> Passes:
    """The four functions of the program by torch.func, jvp over vjp."""

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        return apply(program, x, parameters, **WHERE)

    def backward(y_bar: Tensor, *primals: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(forward, *primals)[1](y_bar)

    primals, dots = (point.x, *point.parameters), (point.x_dot, *point.parameter_dots)
    y, y_dot = torch.func.jvp(forward, primals, dots)
    bars, bar_dots = torch.func.jvp(backward, (point.y_bar, *primals), (point.y_bar_dot, *dots))
    return Passes(y, bars[0], bars[1:], y_dot, bar_dots[0], bar_dots[1:])


def skip_if_refused(
    executor: ModuleType, program: Program, loss: Loss | None, samples: Samples
) -> None:
    loop = InnerLoop(program, loss, adapted=(False,) * len(program.slots), steps=0)
    parameters = tuple(torch.zeros(slot.shape).to(samples.x) for slot in program.slots)
    inputs = Inputs(parameters, rates=(None,) * len(program.slots), query=samples)
    if reason := executor.refusal(loop, inputs):
        pytest.skip(reason)


def assert_near(name: str, actual: Tensor, exact: Tensor) -> None:
    assert actual.shape == exact.shape, name
    assert actual.dtype == exact.dtype, name
    # An exact zero (the bias of a norm that sees one number, say) leaves the absolute error.
    assert largest(actual - exact) <= 1e-9 * max(1.0, largest(exact)), name


@pytest.mark.parametrize("case", CASES)
def test_op(executor: ModuleType, case: str):
    program = CASES[case]
    for seed in range(3):
        point = random_point(program, seed)
        skip_if_refused(executor, program, None, Samples(point.x[None]))
        actual, exact = executor.passes(program, point, **WHERE), autograd_passes(program, point)
        for name in ("y", "x_bar", "y_dot", "x_bar_dot"):
            assert_near(name, getattr(actual, name), getattr(exact, name))
        for name in ("parameter_bars", "parameter_bar_dots"):
            pairs = zip(getattr(actual, name), getattr(exact, name), strict=True)
            for slot, (tensor, expected) in zip(program.slots, pairs, strict=True):
                assert_near(f"{name} {slot.name}", tensor, expected)


@pytest.mark.parametrize("beyond", [40.0, 800.0])
def test_softplus_is_straight_beyond_its_threshold(executor: ModuleType, beyond: float):
    program = CASES["softplus"]
    x = torch.tensor([[beyond, -beyond, 19.0]], dtype=torch.float64)
    ones = torch.ones_like(x)
    point = Point(x, (), ones, (), ones, torch.zeros_like(x))
    skip_if_refused(executor, program, None, Samples(x[None]))
    actual = executor.passes(program, point)
    s = torch.sigmoid(x[0, 2])
    assert_near("y", actual.y[0, :2], torch.tensor([beyond, 0.0], dtype=torch.float64))
    assert_near("x_bar", actual.x_bar[0, :2], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert actual.x_bar_dot[0, 0] == 0
    assert abs(actual.x_bar_dot[0, 2] - s * (1 - s)) < 1e-16


LOSSES = {
    **{kind: Loss(kind) for kind in LOSS_KINDS},
    "cross_entropy with smoothing": Loss("cross_entropy", label_smoothing=0.2),
    "cross_entropy, all smoothing": Loss("cross_entropy", label_smoothing=1.0),
}
TARGETS = {
    "classes": lambda draw, *shape: torch.randint(shape[1], shape[:1], generator=draw.generator),
    "numbers": lambda draw, *shape: draw(*shape),  # rows of no particular sum, of either sign
}
LOSS_CASES = [
    (loss, target, shape)
    for loss, value in LOSSES.items()
    for target, shape in (
        [("classes", (4,)), ("classes", (1,)), ("numbers", (4,)), ("numbers", (1,))]
        if value.kind == "cross_entropy"
        else [("numbers", (4,)), ("numbers", (1,)), ("numbers", (2, 3)), ("numbers", ())]
    )
]


@pytest.mark.parametrize(("loss", "target", "shape"), LOSS_CASES)
@pytest.mark.parametrize("size", [1.0, 900.0])
def test_loss(executor: ModuleType, loss: str, target: str, shape: tuple[int, ...], size: float):
    """`size` is that of the predictions: exp(900) is beyond float64."""
    kind, draw = LOSSES[loss], Normal(0, torch.float64)
    prediction, dot = size * draw(SAMPLES, *shape), draw(SAMPLES, *shape)
    y, weights = TARGETS[target](draw, SAMPLES, *shape), draw(SAMPLES)
    identity = unary("scale", *shape, factor=1.0)
    skip_if_refused(executor, identity, kind, Samples(prediction[None], y[None]))

    def losses(p: Tensor, y: Tensor) -> Tensor:
        return sample_losses(kind, p, y)

    inputs = (0, 1) if y.is_floating_point() else (0,)
    gradient = torch.func.grad(lambda p, y: (weights * losses(p, y)).sum(), inputs)
    sample_loss, sample_loss_dot = torch.func.jvp(lambda p: losses(p, y), (prediction,), (dot,))
    bars, bar_dots = torch.func.jvp(lambda p: gradient(p, y), (prediction,), (dot,))
    actual = executor.loss_passes(kind, LossPoint(prediction, y, weights, dot))
    assert_near("sample_loss", actual.sample_loss, sample_loss)
    assert_near("sample_loss_dot", actual.sample_loss_dot, sample_loss_dot)
    assert_near("prediction_bar", actual.prediction_bar, bars[0])
    assert_near("prediction_bar_dot", actual.prediction_bar_dot, bar_dots[0])
    if y.is_floating_point():
        assert_near("target_bar", actual.target_bar, bars[1])
        assert_near("target_bar_dot", actual.target_bar_dot, bar_dots[1])
    else:
        assert actual.target_bar is None
        assert actual.target_bar_dot is None

"""Bad input: a Python error that names the argument, what it got and what it wants."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import fastmaml as fm
import pytest
import torch
from fastmaml import functional
from fastmaml.functional.prepared import Prepared
from torch import Tensor, nn
from torch.nn import functional as F

NAN = float("nan")
T, N, M = 3, 5, 6


@pytest.fixture(autouse=True)
def no_executor_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error here comes before an executor is called."""

    def run(*args: Any, **options: Any) -> None:
        pytest.fail("an executor was called")

    monkeypatch.setattr(Prepared, "run", run)
    monkeypatch.setattr(Prepared, "hvp", run)


@pytest.fixture
def valid(model, episode) -> dict[str, Any]:
    """A valid call of `meta_loss`, for each case to spoil."""
    sx, sy, qx, qy = episode
    return {
        "model": model, "support_x": sx, "support_y": sy, "query_x": qx, "query_y": qy,
        "lr": 0.1, "steps": 2,
    }  # fmt: skip


class Case:
    """One or more arguments spoilt, the error, and words of its message in order."""

    def __init__(self, error: type[Exception], *words: str, **spoilt: Any) -> None:
        self.error = error
        self.pattern = "(?s)" + ".*".join(re.escape(word) for word in words)
        self.spoilt = spoilt

    def __repr__(self) -> str:
        return "-".join(self.spoilt)


def of(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Marks a value that depends on the valid one."""
    function.spoils = True
    return function


half = of(lambda t: t.half())
single = of(lambda t: t.float())
meta = of(lambda t: t.to("meta"))
sparse = of(lambda t: t.to_sparse())
as_complex = of(lambda t: t.to(torch.complex128))
as_list = of(lambda t: t.tolist())
as_numpy = of(lambda t: t.numpy())
as_labels = of(lambda t: t.long())
as_bytes = of(lambda t: (255 * t).byte())
as_float = of(lambda t: t.double())
one_hot_labels = of(lambda t: F.one_hot(t, 3))
no_task_axis = of(lambda t: t[0])
no_tasks = of(lambda t: t[:0])
no_samples = of(lambda t: t[:, :0])
fewer_tasks = of(lambda t: t[:2])
fewer_samples = of(lambda t: t[:, :4])
fewer_features = of(lambda t: t[..., :2])

DATA = [
    Case(TypeError, "support_x", "tensor", "list", support_x=as_list),
    Case(TypeError, "support_x", "tensor", "ndarray", support_x=as_numpy),
    Case(TypeError, "support_x", "dense", "sparse", support_x=sparse),
    Case(TypeError, "support_x", "dense", "nested", support_x=torch.nested.nested_tensor([[1.0]])),
    Case(TypeError, "support_x", "float64", "complex128", support_x=as_complex),
    Case(TypeError, "support_x", "float64", "int64", support_x=as_labels),
    Case(TypeError, "support_x", "float64", "uint8", support_x=as_bytes),
    Case(TypeError, "support_x", "float64", "float32", support_x=single),
    Case(ValueError, "support_x", "cpu", "meta", support_x=meta),
    Case(ValueError, "support_x", "[T, n, ...]", "(5, 4)", support_x=no_task_axis),
    Case(ValueError, "support_x", "at least one task", "(0, 5, 4)", support_x=no_tasks),
    Case(ValueError, "support_x", "at least one sample", "(3, 0, 4)", support_x=no_samples),
    Case(ValueError, "support_x", "[2]", support_x=fewer_features),
    Case(
        ValueError,
        "support_x",
        "at least one number",
        "(3, 5, 0)",
        support_x=of(lambda t: t[..., :0]),
    ),
    Case(TypeError, "query_x", "tensor", "NoneType", query_x=None),
    Case(TypeError, "query_x", "dense", "sparse", query_x=sparse),
    Case(TypeError, "query_x", "float64", "complex128", query_x=as_complex),
    Case(TypeError, "query_x", "float64", "uint8", query_x=as_bytes),
    Case(TypeError, "query_x", "float64", "float16", query_x=half),
    Case(ValueError, "query_x", "cpu", "meta", query_x=meta),
    Case(ValueError, "query_x", "[T, n, ...]", "(6, 4)", query_x=no_task_axis),
    Case(ValueError, "query_x", "at least one sample", "(3, 0, 4)", query_x=no_samples),
    Case(ValueError, "query_x", "[3, 6, 4]", "(2, 6, 4)", query_x=fewer_tasks),
    Case(ValueError, "query_x", "[3, 6, 4]", "(3, 6, 2)", query_x=fewer_features),
]
TARGETS = [
    Case(TypeError, "support_y", "tensor", "list", support_y=as_list),
    Case(TypeError, "support_y", "dense", "sparse", support_y=sparse),
    Case(TypeError, "support_y", "int64 class indices", "float64 of shape", support_y=as_float),
    Case(TypeError, "support_y", "int64 class indices", "int32", support_y=of(lambda t: t.int())),
    Case(TypeError, "support_y", "int64 class indices", "bool", support_y=of(lambda t: t > 0)),
    Case(ValueError, "support_y", "[3, 5]", "(3, 4)", support_y=fewer_samples),
    Case(ValueError, "support_y", "[3, 5]", "(2, 5)", support_y=fewer_tasks),
    Case(ValueError, "support_y", "[3, 5]", "(3, 5, 3)", support_y=one_hot_labels),
    Case(ValueError, "support_y", "cpu", "meta", support_y=meta),
    Case(ValueError, "support_y", "0..2", "got -1", support_y=of(lambda t: t - 1 - t.min())),
    Case(ValueError, "query_y", "0..2", "got 3", query_y=of(lambda t: t + 3 - t.max())),
    Case(ValueError, "query_y", "0..2", "got -100", query_y=of(lambda t: t - 100 - t.min())),
    Case(ValueError, "query_y", "[3, 6, 3]", "(3, 6, 2)", query_y=of(
        lambda t: torch.rand(3, 6, 2, dtype=torch.float64))),
    Case(TypeError, "query_y", "float64", "float32", query_y=of(lambda t: torch.rand(3, 6, 3))),
    Case(TypeError, "support_y", "float64", "'mse'", "int64", loss="mse"),
    Case(TypeError, "support_y", "'bce_with_logits'", "int64", loss="bce_with_logits"),
    Case(ValueError, "support_y", "[3, 5, 3]", "(3, 5)", loss="mse", support_y=as_float),
    Case(TypeError, "query_y", "tensor", "NoneType", query_y=None),
]  # fmt: skip
WEIGHTS = [
    Case(TypeError, "weights", "tensor", "list", weights=[0.2] * N),
    Case(TypeError, "weights", "float64", "float32", weights=torch.ones(T, N)),
    Case(ValueError, "weights", "[3, 5]", "(5,)", weights=torch.ones(N).double()),
    Case(ValueError, "query_weights", "[3, 6]", "(3, 5)",
         query_weights=torch.ones(T, N).double()),
    Case(ValueError, "support_size", "1..5", "got 0", support_size=[1, 0, 5]),
    Case(ValueError, "support_size", "1..5", "got 6", support_size=torch.tensor([1, 6, 5])),
    Case(ValueError, "support_size", "3 integers", "got 2", support_size=[1, 2]),
    Case(TypeError, "support_size", "3 integers", "got 2", support_size=2),
    Case(TypeError, "support_size", "integers", "2.5", support_size=[1, 2.5, 3]),
    Case(TypeError, "support_size", "integers", "2.0", support_size=torch.tensor([1.0, 2.0, 3.0])),
    Case(ValueError, "query_size", "1..6", "got 7", query_size=[7, 1, 1]),
    Case(TypeError, "support_size", "dense", "sparse", support_size=torch.ones(T).to_sparse()),
    Case(ValueError, "query_size", "host", "meta", query_size=torch.ones(T, device="meta").int()),
]  # fmt: skip
OPTIONS = [
    Case(TypeError, "model", "nn.Module", "function", model=lambda x: x),
    Case(ValueError, "steps", "at least 0", "-1", steps=-1),
    Case(TypeError, "steps", "integer", "1.5", steps=1.5),
    Case(TypeError, "steps", "integer", "'2'", steps="2"),
    Case(TypeError, "steps", "integer", "True", steps=True),
    Case(ValueError, "steps", "2**31", str(2**31), steps=2**31),
    Case(ValueError, "momentum", "at least 0", "-0.1", momentum=-0.1),
    Case(ValueError, "momentum", "finite", "nan", momentum=NAN),
    Case(ValueError, "momentum", "finite", "1000", momentum=10**400),
    Case(TypeError, "momentum", "number", "None", momentum=None),
    Case(TypeError, "first_order", "True or False", "1", first_order=1),
    Case(ValueError, "loss", "'mse'", "'hinge'", loss="hinge"),
    Case(ValueError, "loss", "'mse'", "None", loss=None),
    Case(ValueError, "loss", "(prediction, target)", "L1Loss", loss=nn.L1Loss),
    Case(ValueError, "weights", "None", "'l1_loss'", loss=F.l1_loss,
         weights=torch.ones(T, N).double()),
    Case(ValueError, "query_weights", "None", "'L1Loss'", loss=nn.L1Loss(),
         query_weights=torch.ones(T, M).double()),
    Case(ValueError, "support_y", "[3, 5, '...']", "(3, 4)", loss=F.l1_loss,
         support_y=fewer_samples),
    Case(ValueError, "reduction", "'mean', 'sum'", "'none'", reduction="none"),
    Case(ValueError, "backend", "'auto'", "'cuda'", backend="cuda"),
    Case(ValueError, "backend", "'auto'", "None", backend=None),
    Case(ValueError, "step_weights", "3 in all", "got 2", step_weights=(0.5, 0.5)),
    Case(ValueError, "step_weights[1]", "finite", "nan", step_weights=(0.5, NAN, 0.5)),
    Case(TypeError, "step_weights", "sequence", "0.5", step_weights=0.5),
    Case(TypeError, "step_weights", "sequence", "nested",
         step_weights=torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    Case(TypeError, "seed", "integer", "0.5", seed=0.5),
    Case(ValueError, "seed", "2**32", str(2**32), seed=2**32),
    Case(ValueError, "seed", "at least 0", "-1", seed=-1),
]  # fmt: skip
double = torch.float64
RATES = [
    Case(ValueError, "lr", "at least 0", "-0.1", lr=-0.1),
    Case(ValueError, "lr", "finite", "nan", lr=NAN),
    Case(ValueError, "lr", "finite", "inf", lr=float("inf")),
    Case(ValueError, "lr", "finite", "1000", lr=10**400),
    Case(TypeError, "lr", "number", "'0.1'", lr="0.1"),
    Case(TypeError, "lr", "number", "None", lr=None),
    Case(TypeError, "lr", "float64", "float32", lr=torch.tensor(0.1)),
    Case(ValueError, "lr", "cpu", "meta", lr=torch.tensor(0.1, dtype=double, device="meta")),
    Case(ValueError, "lr", "NaN", lr=torch.tensor([0.1, NAN], dtype=double)),
    Case(ValueError, "lr", "[S]", "(2, 1)", lr=torch.ones(2, 1, dtype=double)),
    Case(ValueError, "lr", "[S]", "(0,)", lr=torch.ones(0, dtype=double)),
    Case(ValueError, "lr", "every adapted parameter", "'0.bias'", lr={"0.weight": 0.1}),
    Case(ValueError, "lr", "'nobody'", "not a parameter", lr={"nobody": 0.1}),
]
PARAMETERS = [
    Case(TypeError, "parameters", "map names", "list", parameters=[]),
    Case(ValueError, "parameters", "'nobody'", parameters={"nobody": torch.ones(1)}),
    Case(TypeError, "parameters['0.bias']", "tensor", "float", parameters={"0.bias": 1.0}),
    Case(TypeError, "parameters['0.weight']", "tensor", "list", parameters={"0.weight": [[1.0]]}),
    Case(TypeError, "parameters['0.weight']", "tensor", "NoneType", parameters={"0.weight": None}),
    Case(TypeError, "parameters['5.bias']", "float64", "float32",
         parameters={"5.bias": torch.ones(3)}),
    Case(ValueError, "parameters['5.bias']", "[3] or [3, 3]", "(4,)",
         parameters={"5.bias": torch.ones(4).double()}),
    Case(ValueError, "parameters['0.bias']", "[5] or [3, 5]", "(2, 5)",
         parameters={"0.bias": torch.ones(2, 5).double()}),
    Case(ValueError, "parameters['0.bias']", "cpu", "meta",
         parameters={"0.bias": torch.ones(5, dtype=double, device="meta")}),
    Case(ValueError, "inner_parameters", "0.weight", "'head.*'", inner_parameters="head.*"),
    Case(ValueError, "inner_parameters", "'nobody'", inner_parameters=["0.*", "nobody"]),
    Case(TypeError, "inner_parameters", "pattern", "3", inner_parameters=["0.*", 3]),
    Case(TypeError, "inner_parameters", "pattern", "1.5", inner_parameters=1.5),
    Case(TypeError, "inner_parameters", "pattern", "['0.*']", inner_parameters=[["0.*"]]),
    Case(ValueError, "nothing is left to adapt", inner_parameters=lambda name: False),
    Case(ValueError, "nothing is left to adapt", "inner_parameters=[]", inner_parameters=[]),
]  # fmt: skip


@pytest.mark.parametrize("case", DATA + TARGETS + WEIGHTS + OPTIONS + RATES + PARAMETERS, ids=repr)
def test_meta_loss(valid, case):
    for name, value in case.spoilt.items():
        valid[name] = value(valid[name]) if getattr(value, "spoils", False) else value
    with pytest.raises(case.error, match=case.pattern):
        functional.meta_loss(**valid)


def rates(model: nn.Module, name: str, rate: Tensor) -> dict[str, Any]:
    return {**{other: 0.1 for other, _ in model.named_parameters()}, name: rate}


@pytest.mark.parametrize("shape", [(4,), (2, 2), (0, 1), (2, 4), (2, 1, 1)], ids=str)
def test_rates_of_a_shape_that_fits_nothing(valid, shape):
    valid["lr"] = rates(valid["model"], "0.bias", torch.ones(shape, dtype=double))
    with pytest.raises(
        ValueError, match=re.escape("lr['0.bias'] must be") + r".*\(" + str(shape[0])
    ):
        functional.meta_loss(**valid)


@pytest.mark.parametrize(
    ("rate", "error"), [(-0.1, ValueError), (NAN, ValueError), ("x", TypeError)], ids=str
)
def test_a_bad_rate_of_one_parameter(valid, rate, error):
    valid["lr"] = rates(valid["model"], "0.bias", rate)
    with pytest.raises(error, match=re.escape("lr['0.bias'] must be")):
        functional.meta_loss(**valid)


def test_nan_in_a_learned_rate(valid):
    bad = torch.full((5,), 0.1, dtype=double)
    bad[3] = NAN
    valid["lr"] = rates(valid["model"], "0.bias", bad)
    with pytest.raises(ValueError, match="lr must not be NaN"):
        functional.meta_loss(**valid)


@pytest.mark.parametrize("label", [-1, 3, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("is_strided", [False, True])
def test_a_label_that_is_no_class(valid, label, is_strided):
    labels = valid["query_y"].clone()
    labels[1, 2] = label
    valid["query_y"] = labels.T.contiguous().T if is_strided else labels
    message = rf"query_y must hold class indices 0\.\.2, as the model has 3 outputs, got {label}"
    with pytest.raises(ValueError, match=message):
        functional.meta_loss(**valid)


def test_a_rate_past_what_the_dtype_holds(valid):
    valid["model"].float()
    valid |= {name: valid[name].float() for name in ("support_x", "query_x")}
    with pytest.raises(ValueError, match=r"lr must be finite in torch\.float32, got 1e"):
        functional.meta_loss(**{**valid, "lr": 1e300})


def test_parameters_that_no_forward_reads_are_checked_too(valid):
    valid["model"].register_parameter("unused", nn.Parameter(torch.ones(2).double()))
    with pytest.raises(ValueError, match=r"parameters\['unused'\] must be \[2\] or \[3, 2\]"):
        functional.meta_loss(**valid, parameters={"unused": torch.ones(4).double()})


def test_frozen_models_have_nothing_to_adapt(valid):
    valid["model"].requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is left to adapt"):
        functional.meta_loss(**valid)


def test_parameters_of_mixed_dtype(valid):
    valid["model"][5].float()
    with pytest.raises(TypeError, match=r"parameters\['5.weight'\] must be torch.float64.*float32"):
        functional.meta_loss(**valid)


@pytest.mark.parametrize("role", ["support", "query"])
@pytest.mark.parametrize("by_size", [False, True])
def test_batch_norm_wants_two_samples(valid, role, by_size):
    valid["model"] = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    if by_size:
        valid[f"{role}_size"] = [2, 1, 2]
    else:
        valid[f"{role}_x"], valid[f"{role}_y"] = (
            valid[f"{role}_x"][:, :1],
            valid[f"{role}_y"][:, :1],
        )
    name = f"{role}_size" if by_size else f"{role}_x"
    with pytest.raises(ValueError, match=f"{name} must hold at least two samples.*BatchNorm"):
        functional.meta_loss(**valid)


def test_cross_entropy_wants_one_axis_of_classes(valid):
    valid["model"] = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))).double()
    with pytest.raises(ValueError, match=r"'cross_entropy' wants a model.*\[2, 3\]"):
        functional.meta_loss(**valid)


# --- the other functions --------------------------------------------------------------------------


def test_adapt_and_sgd_step_check_as_meta_loss_does(valid):
    data = {name: valid[name] for name in ("model", "support_x", "support_y", "lr")}
    for function in (functional.adapt, functional.sgd_step):
        with pytest.raises(ValueError, match=r"support_y must hold class indices 0\.\.2"):
            function(**{**data, "support_y": data["support_y"] + 3})
        with pytest.raises(ValueError, match="lr must be finite"):
            function(**{**data, "lr": -1})
        with pytest.raises(ValueError, match="support_x must hold at least one sample"):
            function(**{**data, "support_x": data["support_x"][:, :0]})
    with pytest.raises(TypeError, match="expand must be True or False, got 1"):
        functional.adapt(**data, expand=1)


def test_predict(model, episode):
    with pytest.raises(ValueError, match=r"query_x must be \[T, n, ...\]"):
        functional.predict(model, episode[2][0])
    with pytest.raises(ValueError, match=r"parameters\['0.bias'\] must be \[5\] or \[3, 5\]"):
        functional.predict(model, episode[2], parameters={"0.bias": torch.ones(2, 5).double()})
    with pytest.raises(ValueError, match=r"query_size must lie within 1\.\.6"):
        functional.predict(model, episode[2], query_size=[7, 1, 1])


def test_hvp(model, episode):
    sx, sy, _, _ = episode
    vector = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    with pytest.raises(TypeError, match="vector must map names to tensors, got list"):
        functional.hvp(model, sx, sy, list(vector.values()))
    with pytest.raises(ValueError, match=r"vector must name the inner parameters \['0.bias'"):
        functional.hvp(model, sx, sy, {"0.bias": vector["0.bias"]})
    with pytest.raises(ValueError, match=r"vector must name the inner parameters .*got.* 0\]"):
        functional.hvp(model, sx, sy, {**vector, 0: vector["0.bias"]})
    with pytest.raises(ValueError, match=r"vector must name the inner parameters \['5.bias'\]"):
        functional.hvp(model, sx, sy, vector, inner_parameters="5.bias")
    with pytest.raises(ValueError, match=r"vector\['5.bias'\] must be \[3\] or \[3, 3\]"):
        functional.hvp(model, sx, sy, {**vector, "5.bias": torch.ones(4).double()})
    with pytest.raises(TypeError, match=r"vector\['5.bias'\] must be torch.float64"):
        functional.hvp(model, sx, sy, {**vector, "5.bias": torch.ones(3)})
    with pytest.raises(ValueError, match=r"support_y must hold class indices 0\.\.2"):
        functional.hvp(model, sx, sy + 3, vector)


# --- backends and models --------------------------------------------------------------------------


def test_a_backend_that_is_not_there(valid):
    refusal = "backend='triton': not part of this version of fastmaml; backend='native' can"
    with pytest.raises(fm.BackendError, match=refusal):
        functional.meta_loss(**valid, backend="triton")


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_callable_loss_has_no_rules(valid, backend):
    refusal = f"backend='{backend}':.*traced.*loss 'l1_loss' is none of.*'generic' can"
    with pytest.raises(fm.BackendError, match=refusal):
        functional.meta_loss(**valid, loss=F.l1_loss, backend=backend)


def test_native_refuses_with_its_reason(model, episode):
    half = model.half()
    sx, sy, qx, qy = (t.half() if t.is_floating_point() else t for t in episode)
    with pytest.raises(fm.BackendError, match=r"backend='native':.*float16; .*'reference' can"):
        functional.meta_loss(half, sx, sy, qx, qy, lr=0.1, backend="native")


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_models_that_cannot_be_traced(valid, backend):
    valid["model"] = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=-1)).double()
    with pytest.raises(fm.TraceError, match=r"(?s)'1' .Softmax.*support_x"):
        functional.meta_loss(**valid, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "native", "reference"])
def test_models_that_do_not_take_the_samples(valid, backend):
    valid["model"] = nn.Linear(7, 3).double()
    with pytest.raises(fm.TraceError, match=r"support_x, whose samples are \[4\]"):
        functional.meta_loss(**valid, backend=backend)


def test_a_model_as_it_is_on_the_meta_device():
    x = torch.ones(T, N, 2, 2, dtype=torch.float64, device="meta")
    with pytest.raises(ValueError, match=r"^query_x must be where numbers are.*got device meta"):
        functional.predict(nn.Softmax(dim=-1), x)


def test_a_model_as_it_is_that_does_not_take_the_samples(valid):
    valid["model"] = nn.Linear(7, 3).double()
    with pytest.raises(fm.BackendError, match=r"(?s)Linear as it is.*forward raised.*\(3, 5, 4\)"):
        functional.meta_loss(**valid, backend="generic")

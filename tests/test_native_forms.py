"""The dual form of linear layers on the samples, folded or not: exact, chosen by cost, refused with
a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fastmaml import functional
from fastmaml.executors import native
from fastmaml.executors.native import forms
from fastmaml.program import Cotangents, InnerLoop, Inputs, Loss, Samples
from oracle import errors, float32_tolerance, named, oracle
from programs import Builder, Case, Normal, random_case
from torch import nn

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(native.unavailable() is not None, reason="no native executor"),
]

SAMPLES = {"support_x", "query_x"}
ONES = torch.ones(3, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMAML_POISON", "1")


@pytest.fixture(params=("dual", "folded"))
def dual(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every layer that can be is in the dual form."""
    monkeypatch.setattr(forms, "FORCED", request.param)


def without_refusals(case: Case) -> Case:
    """A case as it would be if nothing in it kept a layer from the dual form but tied weights."""
    loop, inputs, cotangents, wanted = case
    program = loop.program
    parameters = [
        parameter[0] if inputs.per_task(program, slot) else parameter
        for slot, parameter in enumerate(inputs.parameters)
    ]
    rates = [None if rate is None else rate.reshape(len(rate), -1)[:, 0] for rate in inputs.rates]
    inputs = replace(inputs, parameters=tuple(parameters), rates=tuple(rates))
    return loop, inputs, replace(cotangents, adapted=None), wanted - SAMPLES


def dual_layers(case: Case) -> list[forms.Layer]:
    loop, inputs, _, wanted = case
    return [layer for layer in forms.layers(loop, inputs, wanted, False) if layer.is_dual]


def run(case: Case):
    loop, inputs, cotangents, wanted = case
    return native.run(loop, inputs, cotangents=cotangents, wanted=wanted)


@pytest.mark.parametrize("start", range(0, 240, 40))
def test_random_programs_agree_with_autograd(dual, start: int):
    compared = 0
    for seed in range(start, start + 40):
        case = loop, inputs, cotangents, wanted = without_refusals(random_case(seed))
        if not dual_layers(case):
            continue
        exact = oracle(loop, inputs, cotangents, wanted)
        found = errors(loop.program, run(case), replace(exact, adapted=None))
        assert all(error <= 1e-9 for error in found.values()), (seed, found)
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("form", ["dual", "folded"])
def test_the_forms_agree_and_nan_stays_in_its_task(monkeypatch, form: str):
    compared = 0
    for seed in range(120):
        case = loop, inputs, _, _ = without_refusals(random_case(seed))
        monkeypatch.setattr(forms, "FORCED", form)
        if not dual_layers(case) or inputs.tasks < 2:
            continue
        clean = named(loop.program, native.run(loop, inputs))
        hit_x = inputs.support.x.index_fill(0, torch.tensor([0]), torch.nan)
        hit = replace(inputs, support=replace(inputs.support, x=hit_x))
        for name, tensor in named(loop.program, native.run(loop, hit)).items():
            assert torch.equal(tensor[1:], clean[name][1:]), (seed, name)
        found = named(loop.program, run(case))
        monkeypatch.setattr(forms, "FORCED", "dense")
        assert not dual_layers(case)
        for name, tensor in named(loop.program, run(case)).items():
            torch.testing.assert_close(tensor, found[name], rtol=1e-9, atol=1e-11)
        compared += 1
    assert compared >= 10


def test_float32_errs_no_more_than_pytorch(dual):
    compared = 0
    for seed in range(80):
        drawn = random_case(seed, torch.float32, dropout=False)
        case = loop, inputs, cotangents, wanted = without_refusals(drawn)
        if not dual_layers(case):
            continue
        exact, allowed = float32_tolerance(loop, inputs, cotangents, wanted)
        found = errors(loop.program, run(case), replace(exact, adapted=None))
        for name, error in found.items():
            assert error <= allowed[name], (seed, name, error, allowed[name])
        compared += 1
    assert compared >= 10


def a_case(**options) -> Case:
    """Two layers that read the samples, of several rows each, beside one another: with padding,
    momentum, losses between the steps, and per-step rates that want gradients."""
    build, draw = Builder([(3, 6)]), Normal(7, torch.float64)
    a = build.op("linear", (0,), (3, 4), (build.slot(4, 6), build.slot(4)))
    b = build.op("linear", (0,), (3, 4), (build.slot(4, 6), None))
    x = build.op("tanh", (build.op("add", (a, b)),))
    x = build.op("reshape", (x,), (12,))
    build.op("linear", (x,), (2,), (build.slot(2, 12), build.slot(2)))
    program = build.program()
    loop = InnerLoop(program, Loss("mse"), (True,) * 5, 3, 0.4, (0.1, 0.2, 0.0, 1.0))
    inputs = Inputs(
        tuple(0.3 * draw(*slot.shape) for slot in program.slots),
        tuple(0.1 + 0.01 * draw(2) for _ in program.slots),
        Samples(draw(3, 4, 3, 6), draw(3, 4, 2), draw(3, 4).abs(), size=(4, 2, 3)),
        Samples(draw(3, 5, 3, 6), draw(3, 5, 2), size=(1, 5, 4)),
    )
    wanted = {key for key, _ in inputs.tensors(program)} - SAMPLES
    return replace(loop, **options), inputs, Cotangents(task_loss=ONES), frozenset(wanted)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.0}, {"first_order": True}, {"step_weights": ()}, {"steps": 1}]
)
def test_what_the_dual_form_goes_with(dual, options):
    if options.get("steps") == 1:
        options = {**options, "step_weights": (0.5, 1.0)}
    case = loop, inputs, cotangents, wanted = a_case(**options)
    assert len(dual_layers(case)) == 2
    exact = replace(oracle(loop, inputs, cotangents, wanted), adapted=None)
    assert max(errors(loop.program, run(case), exact).values()) <= 1e-11


def check_same_bits(case: Case) -> None:
    """From any number of threads."""
    found = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        found.append(named(case[0].program, run(case)))
    for other in found[1:]:
        for name, tensor in found[0].items():
            assert torch.equal(tensor, other[name]), name


def test_same_bits_from_any_threads(dual):
    check_same_bits(a_case())


def test_same_bits_from_several_lanes_a_task(dual):
    """One large task, that several threads share."""
    build, draw = Builder([(400,)]), Normal(3, torch.float32)
    x = build.op("linear", (0,), (90,), (build.slot(90, 400), build.slot(90)))
    build.op("linear", (build.op("tanh", (x,)),), (5,), (build.slot(5, 90), build.slot(5)))
    program = build.program()
    inputs = Inputs(
        tuple(0.05 * draw(*slot.shape) for slot in program.slots),
        tuple(torch.full((1,), 0.1) for _ in program.slots),
        Samples(draw(1, 30, 400), torch.arange(30)[None] % 5),
        Samples(draw(1, 70, 400), torch.arange(70)[None] % 5),
    )
    loop = InnerLoop(program, Loss("cross_entropy"), (True,) * 4, 4)
    wanted = frozenset(f"parameter:{slot.name}" for slot in program.slots)
    case = loop, inputs, Cotangents(task_loss=torch.ones(1)), wanted
    assert len(dual_layers(case)) == 1
    check_same_bits(case)


def refusals(**options) -> set[str | None]:
    loop, inputs, _, wanted = a_case()
    inputs = options.get("inputs", lambda it: it)(inputs)
    wanted = wanted | options.get("wanted", set())
    layers = forms.layers(loop, inputs, wanted, options.get("hands_out_weights", False))
    assert len(layers) == 2
    return {layer.refusal for layer in layers}


def test_refusals_say_why(dual):
    assert refusals() == {None}
    assert refusals(hands_out_weights=True) == {"the call takes or returns adapted weights"}
    assert refusals(wanted={"query_x"}) == {"gradients of the samples are wanted"}

    def own(inputs: Inputs) -> Inputs:
        weight, *others = inputs.parameters
        return replace(inputs, parameters=(weight.expand(3, *weight.shape), *others))

    def element_wise(inputs: Inputs) -> Inputs:
        rate, *others = inputs.rates
        return replace(inputs, rates=(rate[:, None, None].expand(2, 4, 6), *others))

    assert refusals(inputs=own) == {None, "every task starts from a weight of its own"}
    assert refusals(inputs=element_wise) == {
        None,
        "each element of its weight has a rate of its own",
    }


def test_a_tied_weight_is_dense(dual):
    build = Builder([(4,)])
    weight = build.slot(4, 4)
    x = build.op("tanh", (build.op("linear", (0,), (4,), (weight, None)),))
    build.op("linear", (x,), (4,), (weight, None))
    loop = InnerLoop(build.program(), Loss("mse"), (True,), 2)
    draw = Normal(0, torch.float64)
    samples = Samples(draw(2, 3, 4), draw(2, 3, 4))
    inputs = Inputs((draw(4, 4),), (draw(1),), samples, samples)
    (layer,) = forms.layers(loop, inputs, {"parameter:p0"}, False)
    assert layer.refusal == "its weight is tied to another layer's"


def test_the_cheaper_form_is_chosen_and_shown():
    wide, narrow = nn.Linear(784, 64), nn.Linear(2, 64)
    for model, features, form in ((wide, 784, "dual"), (narrow, 2, "dense")):
        x = torch.randn(2, 5, features)
        lines = str(functional.plan(model, x, x, lr=0.1, steps=5, loss="mse")).splitlines()
        (line,) = [line for line in lines if line.startswith("form")]
        assert line.split()[1:3] == ["weight:", f"{form},"], line
        other = {"dual": "dense", "dense": "dual"}[form]
        assert f"({other}: " in line


def test_results_do_not_depend_on_what_is_asked_for_beyond_rounding():
    """adapt hands out weights, so it runs dense; meta_loss beside it runs dual."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 20), nn.Tanh(), nn.Linear(20, 3)).double()
    x, q = torch.randn(2, 4, 5, 300, dtype=torch.float64)
    y, t = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    options = {"lr": 0.01, "steps": 4, "loss": "mse"}
    meta = functional.meta_loss(model, x, y, q, t, **options)
    adapted = functional.adapt(model, x, y, **options)
    torch.testing.assert_close(
        functional.predict(model, q, parameters=adapted), meta.prediction, rtol=1e-10, atol=1e-12
    )
    loss = (functional.predict(model, q, parameters=adapted) - t).square().mean()
    for a, b in zip(
        torch.autograd.grad(meta.loss, list(model.parameters())),
        torch.autograd.grad(loss, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)

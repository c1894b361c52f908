"""Seeded random calls of the functional API: valid ones of every kind, and spoilt ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastmaml.program import Loss
from torch import Tensor, nn

FUNCTIONS = ("adapt", "meta_loss", "sgd_step", "predict", "hvp")
NAN, INF = float("nan"), float("inf")


@dataclass
class Call:
    """One call of `functional.NAME(**arguments)`."""

    name: str
    arguments: dict[str, Any]
    spoilt: tuple[str, ...] = ()
    """The arguments that are no longer what a valid call has."""

    def __str__(self) -> str:
        told = ", ".join(f"{name}={_tell(value)}" for name, value in self.arguments.items())
        return f"{self.name}({told}), spoilt: {self.spoilt}"


def _tell(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = "nested" if value.is_nested else tuple(value.shape)
        return f"<{value.dtype} {shape}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_tell(item)}" for key, item in value.items()) + "}"
    return " ".join(repr(value).split())


class Residual(nn.Module):
    """x + branch(x), with a bias that no forward reads and a weight that is used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.once, self.again = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.again.weight = self.once.weight
        self.unused = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.again(torch.tanh(self.once(x)))


ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus,
)  # fmt: skip
LOSSES: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("mse", lambda: "mse"),
    ("mse", lambda: nn.functional.mse_loss),
    ("cross_entropy", lambda: "cross_entropy"),
    ("cross_entropy", lambda: nn.CrossEntropyLoss(label_smoothing=0.1)),
    ("bce_with_logits", nn.BCEWithLogitsLoss),
    ("bce_with_logits", lambda: Loss("bce_with_logits")),
)


class Draw:
    """The choices of one call, all from its seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.rng.choices(
            (torch.float64, torch.float32, torch.float16, torch.bfloat16), (60, 30, 5, 5)
        )[0]
        self.tasks = self.rng.randint(1, 3)
        # now and then wide enough for whole vectors and what is left of one
        self.width = self.rng.choices((self.rng.randint(1, 5), 19, 33), (8, 1, 1))[0]

    def often(self, probability: float) -> bool:
        return self.rng.random() < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def tensor(self, *shape: int) -> Tensor:
        """Normal numbers in some layout: dense, a view of more, or one row for several."""
        layout = self.rng.choices(
            ("dense", "transposed", "sliced", "offset", "tasks", "rows"), (5, 2, 2, 1, 1, 1)
        )[0]
        if layout == "transposed":
            return self.normal(*shape[::-1]).permute(*reversed(range(len(shape))))
        if layout == "sliced":
            return self.normal(*shape[:-1], 2 * shape[-1])[..., ::2]
        if layout == "offset":
            return self.normal(shape[0] + 1, *shape[1:])[1:]
        if layout == "tasks":
            return self.normal(1, *shape[1:]).expand(shape)
        if layout == "rows" and len(shape) > 1:
            return self.normal(shape[0], 1, *shape[2:]).expand(shape)
        return self.normal(*shape)

    def leaf(self, tensor: Tensor) -> Tensor:
        return tensor.requires_grad_() if self.often(0.3) else tensor

    def model(self, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
        """A model and the shape of its samples."""
        width, layers = self.width, []
        sample: tuple[int, ...] = (width,)
        if self.often(0.2):
            sample, layers = (2, width), [nn.Flatten()]
            width *= 2
        for _ in range(self.rng.randint(0, 3)):
            following = self.rng.randint(1, 5)
            kind = self.rng.randrange(7)
            if kind <= 2:
                layers.append(nn.Linear(width, following, bias=self.often(0.8)))
                width = following
                layers.append(self.rng.choice(ACTIVATIONS)())
            elif kind == 3:
                # eps of a size that keeps derivatives of constant rows in bounds
                norm = self.rng.choice((nn.LayerNorm, nn.RMSNorm))
                layers.append(norm(width, eps=0.1, elementwise_affine=self.often(0.7)))
            elif kind == 4:
                affine = self.often(0.7)
                layers.append(
                    nn.BatchNorm1d(width, eps=0.1, affine=affine, track_running_stats=False)
                )
            elif kind == 5:
                layers.append(nn.Dropout(self.rng.choice((0.0, 0.5, 1.0))))
            else:
                layers.append(Residual(width))
        layers.append(nn.Linear(width, outputs))
        model = nn.Sequential(*layers).to(self.dtype).train(self.often(0.5))
        for parameter in model.parameters():
            parameter.data = 0.5 * self.normal(*parameter.shape)
            parameter.requires_grad_(self.often(0.9))
        return model, sample

    def samples(self, sample: tuple[int, ...], outputs: int, loss: str) -> tuple[Tensor, Tensor]:
        n = self.rng.randint(1, 5)
        x = self.tensor(self.tasks, n, *sample)
        if self.often(0.05):
            x = x.clone()
            x.flatten()[self.rng.randrange(x.numel())] = self.rng.choice((NAN, INF, -INF, 1e4))
        if loss == "cross_entropy" and self.often(0.7):
            y = torch.randint(outputs, (self.tasks, n), generator=self.generator)
        elif loss == "mse":
            y = self.leaf(self.tensor(self.tasks, n, outputs))
        else:
            y = self.leaf(self.tensor(self.tasks, n, outputs).sigmoid())
        return self.leaf(x), y

    def weights(self, n: int) -> Tensor:
        return self.leaf(self.tensor(self.tasks, n).abs() / n)

    def sizes(self, n: int) -> Any:
        sizes = [self.rng.randint(1, n) for _ in range(self.tasks)]
        return self.rng.choice((sizes, tuple(sizes), torch.tensor(sizes), np.array(sizes)))

    def rate(self, model: nn.Module, steps: int) -> Any:
        def one() -> float:
            return self.rng.choice((0.0, 0.1, self.rng.uniform(0, 0.3)))

        def rows() -> int:
            return self.rng.randint(1, steps + 2)

        kind = self.rng.randrange(4)
        if kind == 0:
            return one()
        if kind == 1:
            return self.leaf(torch.tensor(one(), dtype=self.dtype))
        if kind == 2:
            return self.leaf(0.1 * self.normal(rows()))
        rates: dict[str, Any] = {}
        for name, parameter in model.named_parameters():
            shape, rank = tuple(parameter.shape), parameter.dim()
            rates[name] = self.rng.choice(
                (
                    one,
                    lambda shape=shape: self.leaf(0.1 * self.tensor(*shape)),
                    lambda rank=rank: self.leaf(0.1 * self.normal(rows(), *[1] * rank)),
                    lambda shape=shape: self.leaf(0.1 * self.tensor(rows(), *shape)),
                )
            )()
        return rates

    def parameters(self, model: nn.Module) -> dict[str, Tensor]:
        given = {}
        for name, parameter in model.named_parameters():
            if self.often(0.5):
                shape = tuple(parameter.shape)
                # what is not adapted is shared by all tasks, unless nothing is adapted at all
                own = (self.tasks, *shape) if self.often(0.5) else shape
                given[name] = self.leaf(0.5 * self.tensor(*own))
        return given


def random_call(seed: int) -> Call:
    """A call, the same one for the same seed: half of them valid, half of them spoilt."""
    draw = Draw(seed)
    rng = draw.rng
    name = rng.choices(FUNCTIONS, (3, 5, 1, 2, 2))[0]
    loss, make_loss = rng.choice(LOSSES)
    outputs = rng.randint(1, 4)
    model, sample = draw.model(outputs)
    arguments: dict[str, Any] = {"model": model}
    steps = 1 if name == "sgd_step" else rng.randint(0, 3)
    if name != "predict":
        x, y = draw.samples(sample, outputs, loss)
        arguments |= {"support_x": x, "support_y": y, "loss": make_loss()}
        if draw.often(0.3):
            arguments["weights"] = draw.weights(x.shape[1])
        if draw.often(0.3):
            arguments["support_size"] = draw.sizes(x.shape[1])
        if draw.often(0.3):
            named = [n for n, p in model.named_parameters() if p.requires_grad]
            arguments["inner_parameters"] = rng.choice(
                ("*", "*weight", ["*.bias"], lambda name: name.endswith("weight"), named)
            )
    if name in ("adapt", "meta_loss", "sgd_step"):
        arguments["lr"] = draw.rate(model, steps)
        arguments["first_order"] = draw.often(0.2)
    if name in ("adapt", "meta_loss"):
        arguments |= {"steps": steps, "momentum": rng.choice((0.0, 0.0, 0.5))}
    if name in ("meta_loss", "predict"):
        x, y = draw.samples(sample, outputs, loss)
        arguments["query_x"] = x
        if draw.often(0.3):
            arguments["query_size"] = draw.sizes(x.shape[1])
        if name == "meta_loss":
            arguments["query_y"] = y
            if draw.often(0.3):
                arguments["query_weights"] = draw.weights(x.shape[1])
            if draw.often(0.3):
                arguments["step_weights"] = [rng.choice((0.0, 1.0, -0.3)) for _ in range(steps + 1)]
            arguments["reduction"] = rng.choice(("mean", "sum"))
    if name == "hvp":
        arguments["vector"] = {
            n: draw.leaf(draw.tensor(*(draw.tasks,) * draw.often(0.5), *p.shape))
            for n, p in model.named_parameters()
            if p.requires_grad and not n.endswith("unused")
        }
    if name == "adapt" and draw.often(0.3):
        arguments["expand"] = False
    if draw.often(0.4):
        arguments["parameters"] = draw.parameters(model)
    if draw.often(0.8):
        arguments["seed"] = rng.randrange(2**32)
    if draw.often(0.5):
        arguments["backend"] = rng.choice(("auto", "native", "reference"))
    call = Call(name, arguments)
    return spoil(draw, call) if draw.often(0.5) else call


# --- spoiling -------------------------------------------------------------------------------------

JUNK: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 2, lambda: 2**70, lambda: 10**400,
    lambda: 1.5, lambda: -0.5, lambda: 1e300, lambda: NAN, lambda: INF, lambda: 1j, lambda: "x",
    lambda: "", lambda: b"x", list, dict, tuple, set, object, lambda: [None], lambda: ["*", 1],
    lambda: [["*"]], lambda: {"x": 1}, lambda: {0: torch.ones(1)}, lambda: lambda *a: None,
    lambda: np.ones((2, 2)), lambda: np.float32(2),
    lambda: np.int64(1), lambda: torch.ones(()), lambda: torch.ones(0), lambda: torch.ones(3, 0, 4),
    lambda: torch.ones(0, 3, 4), lambda: torch.ones(2, 3, 4), lambda: torch.arange(3),
    lambda: torch.tensor(True), lambda: torch.ones(2, 3, 4).to_sparse(),
    lambda: torch.ones(2, 3, 4, device="meta"), lambda: torch.ones(2, 3, 4, dtype=torch.complex64),
    lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)]),
    lambda: nn.Linear, lambda: nn.Linear(3, 3), lambda: nn.Sequential(), lambda: nn.Softmax(-1),
    lambda: nn.LSTM(3, 3), lambda: nn.MSELoss(reduction="sum"), lambda: nn.MSELoss,
)  # fmt: skip

WARPS: tuple[Callable[[random.Random, Tensor], Tensor], ...] = (
    lambda rng, t: t[0] if t.dim() else t[None],
    lambda rng, t: t[None],
    lambda rng, t: t.unsqueeze(-1),
    lambda rng, t: t.flatten(),
    lambda rng, t: t.mT if t.dim() > 1 else t,
    lambda rng, t: t.narrow(rng.randrange(t.dim()), 0, 0) if t.dim() else t,
    lambda rng, t: t.narrow(axis := rng.randrange(t.dim()), 0, t.shape[axis] - 1) if t.dim() else t,
    lambda rng, t: torch.cat([t, t], rng.randrange(t.dim())) if t.dim() else t,
    lambda rng, t: t.to(rng.choice((torch.float32, torch.float64, torch.float16, torch.int64))),
    lambda rng, t: t.to(rng.choice((torch.int32, torch.bool, torch.uint8, torch.complex128))),
    lambda rng, t: t.to("meta"),
    lambda rng, t: t.to_sparse() if t.is_contiguous() and t.dim() else t,
    lambda rng, t: t * NAN if t.is_floating_point() else t - 1,
    lambda rng, t: t * INF if t.is_floating_point() else t + 100,
    lambda rng, t: t * 1e200 if t.is_floating_point() else -(2**62) * torch.ones_like(t),
    lambda rng, t: -t,
    lambda rng, t: t.detach().numpy() if t.dtype is not torch.bfloat16 else t.tolist(),
    lambda rng, t: t.tolist(),
    lambda rng, t: nn.Parameter(t.detach()) if t.is_floating_point() else t,
)


def spoil(draw: Draw, call: Call) -> Call:
    """One or two arguments replaced by junk, warped, or dropped."""
    arguments, rng = dict(call.arguments), draw.rng
    names = rng.sample(sorted(arguments), rng.choice((1, 1, 2)))
    for name in names:
        value = arguments[name]
        if isinstance(value, dict) and value and draw.often(0.6):
            key = rng.choice(sorted(value))
            value = dict(value)
            if draw.often(0.2):
                value[rng.choice(("nobody", "", 0))] = value.pop(key)
            else:
                value[key] = _spoilt(draw, value[key])
            arguments[name] = value
        else:
            arguments[name] = _spoilt(draw, value)
        if name == "inner_parameters" and isinstance(arguments[name], nn.Module | type):
            arguments[name] = None  # a predicate that raises is not ours to catch
    return Call(call.name, arguments, tuple(names))


def _spoilt(draw: Draw, value: Any) -> Any:
    if isinstance(value, Tensor) and draw.often(0.7):
        return draw.rng.choice(WARPS)(draw.rng, value)
    return draw.rng.choice(JUNK)()

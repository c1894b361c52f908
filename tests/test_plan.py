"""Plans: what runs, why, and what it costs."""

from __future__ import annotations

import fastmaml as fm
import pytest
from torch import nn


def test_plan_says_what_runs_and_why(net, episode, backend):
    sx, _, qx, _ = episode
    plan = fm.MAML(net, 0.3, 2, backend=backend).plan(sx, qx)
    assert plan.executor == backend
    text = str(plan)
    assert f"{backend}: asked for by name" in text
    assert "triton: not part of this version" in text
    assert "3, each 5 support and 6 query samples, 2 inner steps" in text
    assert "adapts     53 of the 53 numbers" in text
    automatic = fm.MAML(net, 0.3, 2).plan(sx, qx)
    assert "the fastest that runs this call" in str(automatic)


def test_plan_refuses_what_cannot_run(net, episode):
    sx, _, qx, _ = episode
    with pytest.raises(fm.BackendError, match="backend='triton': not part of this version"):
        fm.MAML(net, 0.3, 2, backend="triton").plan(sx, qx)
    half = fm.MAML(net.half(), 0.3, 2).plan(sx.half(), qx.half())
    assert half.executor == "reference"
    assert "native: it computes in float32 or float64" in str(half)


def test_plan_counts_products_and_memory(episode):
    sx, _, qx, _ = episode
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    first, second = 2 * 4 * 5, 2 * 5 * 3  # one product of one sample
    plan = fm.MAML(net, 0.3, 2).plan(sx, qx)
    # y, and the cotangents: of the first layer's weight; of the second layer's x and weight
    inner = 3 * 5 * 2 * (2 * first + 3 * second)
    query = 3 * 6 * (2 * first + 3 * second)
    # y' = xW' (+ x'W); weight: y_bar'x (+ y_bar x'); x: nothing (y_bar'W + y_bar W')
    tangents = 3 * 5 * 2 * (2 * first + 6 * second)
    assert list(plan.arithmetic.values()) == [inner, query, tangents]
    assert plan.trajectory_bytes == 8 * 3 * (25 + 18)
    assert plan.tape_bytes == 8 * 4 * 5 * (4 + 5 + 5 + 3)

    head = fm.MAML(net, 0.3, 2, inner_parameters="2.*", momentum=0.9).plan(sx, qx)
    assert head.arithmetic["inner steps"] == 3 * 5 * 2 * (first + 2 * second)
    # y' = xW'; weights: y_bar'x; x, which the backbone's gradient needs: y_bar'W + y_bar W'
    assert head.arithmetic["Hessian-vector products"] == 3 * 5 * 2 * (first + 4 * second)
    assert head.trajectory_bytes == 2 * 8 * 3 * 18
    assert (
        fm.MAML(net, 0.3, 2, first_order=True).plan(sx, qx).arithmetic["Hessian-vector products"]
        == 0
    )

"""CUDA tensors, where there is a device: the reference executor runs them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import fastmaml as fm
import pytest
import torch
from fastmaml.executors import reference
from oracle import errors, map_tensors, named, oracle
from programs import random_case
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.parametrize("seed", range(24))
def test_reference_agrees_with_autograd(seed: int):
    loop, inputs, cotangents, wanted = random_case(seed)
    outputs = reference.run(
        loop,
        map_tensors(inputs, Tensor.cuda),
        adapted=True,
        cotangents=map_tensors(cotangents, Tensor.cuda),
        wanted=wanted,
    )
    assert all(tensor.is_cuda for tensor in named(loop.program, outputs).values())
    gradients = {key: gradient.cpu() for key, gradient in outputs.gradients.items()}
    outputs = replace(map_tensors(outputs, Tensor.cpu), gradients=gradients)
    found = errors(loop.program, outputs, oracle(loop, inputs, cotangents, wanted))
    assert all(error <= 1e-9 for error in found.values()), found


def test_meta_gradient_is_that_of_the_cpu(model: nn.Module, episode: tuple[Tensor, ...]):
    there = deepcopy(model).cuda()
    maml = fm.MAML(there, lr=0.1, steps=3)
    samples = [tensor.cuda() for tensor in episode]
    assert maml.plan(samples[0], samples[2]).executor == "reference"
    maml(*samples).loss.backward()
    fm.MAML(model, lr=0.1, steps=3)(*episode).loss.backward()
    for mine, theirs in zip(there.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=1e-9, atol=1e-12)


def test_native_refuses_with_its_reason(model: nn.Module, episode: tuple[Tensor, ...]):
    maml = fm.MAML(model.cuda(), lr=0.1, steps=1, backend="native")
    with pytest.raises(fm.BackendError, match="CUDA"):
        maml(*(tensor.cuda() for tensor in episode))

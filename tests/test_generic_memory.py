"""The generic executor keeps parameters, not graphs: its peak memory beside that of torch.func."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import sys, warnings
import torch
import fastmaml as fm
from bench.memory import PeakMemory
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(0)
warnings.simplefilter("ignore")
steps, lr = 20, 0.01
model = nn.Sequential(
    nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 5)
)

def data(tasks):
    for count in (5, 15):
        yield torch.randn(tasks, count, 64)
        yield torch.randint(5, (tasks, count))

def loss(parameters, x, y):
    return F.cross_entropy(functional_call(model, parameters, (x,)), y)

def task_loss(theta, sx, sy, qx, qy):
    phi = theta
    for _ in range(steps):
        gradient = grad(loss)(phi, sx, sy)
        phi = {name: phi[name] - lr * gradient[name] for name in phi}
    return loss(phi, qx, qy)

def recorded(*data):
    losses = vmap(task_loss, in_dims=(None, 0, 0, 0, 0))(dict(model.named_parameters()), *data)
    return losses.mean()

maml = fm.MAML(model, lr, steps, backend="generic")
meta_loss = recorded if sys.argv[1] == "recorded" else lambda *data: maml(*data).loss
meta_loss(*data(1)).backward()  # torch loads what torch.func needs of itself
samples = list(data(128))
memory = PeakMemory(torch.device("cpu"))
memory.start()
meta_loss(*samples).backward()
print(memory.peak())
"""


def peak(which: str) -> int:
    """Bytes that a meta-gradient needs, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, which], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_at_most_a_third_of_a_recorded_loop():
    ours, recorded = peak("generic"), peak("recorded")
    assert ours <= recorded / 3, f"{ours / 2**20:.0f} MiB and {recorded / 2**20:.0f} MiB"

"""The generic executor keeps parameters, not graphs: its peak memory beside that of torch.func.
What a task freed is there for the next one."""

from __future__ import annotations

import platform
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

FAULTS = """
import resource, warnings
import torch
import fastmaml as fm
from torch import nn

torch.set_num_threads(1)
warnings.simplefilter("ignore")
x, y = torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
fm.MAML(nn.Linear(4, 2), 0.1, 1, backend="generic")(x, y, x, y).loss.backward()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(10):
    before = faults()
    blocks = [torch.ones(2**18) for _ in range(12)]  # 12 MiB
    del blocks
print(faults() - before)
"""


def number(script: str, *arguments: str) -> int:
    """What a script prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_at_most_a_third_of_a_recorded_loop():
    ours, recorded = number(SCRIPT, "generic"), number(SCRIPT, "recorded")
    assert ours <= recorded / 3, f"{ours / 2**20:.0f} MiB and {recorded / 2**20:.0f} MiB"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_what_is_freed_after_a_trial_stays_in_the_process():
    assert number(FAULTS) < 1000  # of 3072 pages, of 4 KiB

"""DistributedDataParallel over tasks: several processes compute what one would with all tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)

TESTS = Path(__file__).parent


def two_processes(script: Path) -> str:
    """What two processes of a script print; they must end well, and in time."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_gradients_and_steps_are_those_of_one_process():
    printed = two_processes(TESTS / "data_parallel_worker.py")
    assert [line for line in printed.splitlines() if line.endswith("agrees")] == [
        "MAML agrees",
        "ANIL agrees",
        "MetaSGD agrees",
    ]


def test_the_example_learns():
    lines = two_processes(TESTS.parent / "examples" / "data_parallel.py").splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("iteration")]
    assert len(losses) == 7
    assert losses[-1] < 0.8 * losses[0]
    assert "new tasks" in lines[-1]

"""Ctrl-C ends a long call of the native executor soon, and leaves the library as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from fastmaml.executors import native

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no native executor: {native.unavailable()}"
)

PROGRAM = """
import signal, time
import torch
from torch import nn
from fastmaml import functional

torch.set_num_threads({threads})
torch.manual_seed(0)
model = nn.Linear(16, 16)

def data(tasks):
    x = torch.randn(1, 4, 16).expand(tasks, 4, 16)
    return x, x

def call(tasks, steps, function="meta_loss"):
    x, y = data(tasks)
    if function == "hvp":
        vector = {{name: torch.ones_like(p) for name, p in model.named_parameters()}}
        return functional.hvp(model, x, y, vector, loss="mse")
    if function == "adapt":
        return functional.adapt(model, x, y, lr=1e-3, steps=steps, loss="mse")
    return functional.meta_loss(model, x, y, x, y, lr=1e-3, steps=steps, loss="mse")

def gradient():
    torch.manual_seed(1)
    out = call(70, 30)
    return torch.cat([g.flatten() for g in torch.autograd.grad(out.loss, list(model.parameters()))])

before = gradient()
def raise_now(number, frame):
    signalled.append(time.monotonic())
    raise {error}
signal.signal(signal.SIGALRM, raise_now)
for tasks, steps, function in {calls}:
    signalled = []
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        call(tasks, steps, function)
    except {error}:
        print(function, tasks, steps, "ended after", time.monotonic() - signalled[0])
    else:
        raise SystemExit("the call came to its end")
    assert torch.equal(gradient(), before)

# A handler that does not raise ends nothing.
handled = []
signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
begin = time.monotonic()
while time.monotonic() < begin + 0.5:
    call(2000, 20)
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(handled) >= 3
assert torch.equal(gradient(), before)
"""

CALLS = [
    (60_000, 1000, "meta_loss"),  # many tasks a chunk
    (1, 300_000, "meta_loss"),  # one task, its steps
    (2, 300_000, "meta_loss"),
    (60_000, 1000, "adapt"),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_signal_ends_a_long_call(threads):
    printed = run(PROGRAM.format(threads=threads, calls=CALLS, error="KeyboardInterrupt"))
    delays = [float(line.split()[-1]) for line in printed.splitlines()]
    assert len(delays) == len(CALLS)
    # the signal is handled and raised in the call itself; after that, one step of each lane
    assert max(delays) < 0.5


def test_the_exception_is_the_handlers_own():
    run(PROGRAM.format(threads=2, calls=CALLS[:1], error="TimeoutError"))


def test_ctrl_c_from_outside():
    program = """
import signal
import torch
from torch import nn
from fastmaml import functional
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start jobs with it ignored
model, x = nn.Linear(16, 16), torch.randn(1, 4, 16).expand(60_000, 4, 16)
print("ready", flush=True)
functional.meta_loss(model, x, x, x, x, lr=1e-3, steps=1000, loss="mse")
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        time.sleep(1)  # it runs by now
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert "KeyboardInterrupt" in error
    assert process.returncode != 0


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

"""MAML on several processes: each adapts to tasks of its own, and the meta-gradients are averaged.

    torchrun --nproc-per-node=2 examples/data_parallel.py

A MetaLearner is an ordinary module, so DistributedDataParallel wraps it like any other. The
gradient is that of one process with all the tasks, as long as every process has as many.
"""

from __future__ import annotations

import fastmaml as fm
import torch
import torch.distributed as dist
from fastmaml.tasks import Sinusoid
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TASKS = 32  # of all processes together
ITERATIONS = 300


def main() -> None:
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()

    # Only the parameters of process 0 matter: DistributedDataParallel gives them to all.
    model = nn.Sequential(
        nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1)
    )
    maml = fm.MAML(model, lr=0.02, steps=3, loss="mse")
    parallel = DistributedDataParallel(maml)
    optimizer = torch.optim.Adam(maml.parameters(), lr=3e-3)

    # Every process draws other tasks; and other masks, if the model had dropout.
    tasks = Sinusoid(tasks=TASKS // processes, seed=rank)
    torch.manual_seed(rank)

    for iteration in range(1, ITERATIONS + 1):
        optimizer.zero_grad()
        out = parallel(*tasks.sample())
        out.loss.backward()  # averages the gradients of the processes
        optimizer.step()
        if iteration == 1 or iteration % 50 == 0:
            loss = out.loss.detach().clone()
            dist.all_reduce(loss, op=dist.ReduceOp.SUM)
            if rank == 0:
                print(f"iteration {iteration:4d}  query loss {loss.item() / processes:.3f}")

    # Adapting needs no communication, so it is the module itself that does it.
    episodes = Sinusoid(query=50, seed=1000).sample(100)
    with torch.no_grad():
        adapted = maml.adapt(episodes.support_x, episodes.support_y)
        error = (adapted(episodes.query_x) - episodes.query_y).square().mean()
    if rank == 0:
        print(f"mean squared error on 100 new tasks: {error.item():.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""One of the processes of test_data_parallel.py: gradients and steps as of one process alone."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable

import fastmaml as fm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

EXACT = {"rtol": 1e-12, "atol": 1e-15}
TASKS = 6


class Net(nn.Module):
    """A backbone with buffers, a head, and a parameter that no forward reads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Tanh())
        self.classifier = nn.Linear(7, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x))


ALGORITHMS: dict[str, Callable[[nn.Module], fm.MAML | fm.MetaSGD]] = {
    "MAML": lambda net: fm.MAML(net, lr=0.3, steps=3),
    "ANIL": lambda net: fm.ANIL(net, lr=0.3, steps=3),
    "MetaSGD": lambda net: fm.MetaSGD(net, lr=0.3, steps=2),
}


def check(make: Callable[[nn.Module], nn.Module], *, unused: bool) -> None:
    """Three steps of all processes together are those of one with all tasks."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)  # only process 0's initial parameters count
    net = Net().double()
    if not unused:
        del net.unused
    parallel = DistributedDataParallel(make(net), find_unused_parameters=unused)
    alone = copy.deepcopy(parallel.module)
    # Not Adam: it would blow up the rounding of the bias's gradient, which BatchNorm makes zero.
    optimizers = [
        torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9) for module in (parallel, alone)
    ]
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        x = torch.randn(2, TASKS, 5, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (2, TASKS, 5), generator=generator)
        data = (x[0], y[0], x[1], y[1])
        own = [tensor[rank::processes] for tensor in data]
        for optimizer in optimizers:
            optimizer.zero_grad()
        out = parallel(*own)
        assert isinstance(out, fm.functional.MetaLoss)
        out.loss.backward()
        alone(*data).loss.backward()
        for (name, a), b in zip(alone.named_parameters(), parallel.parameters(), strict=True):
            if a.grad is not None:
                assert a.grad.any(), name
                assert_close(b.grad, a.grad, **EXACT, msg=lambda text, name=name: f"{name}: {text}")
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(alone.parameters(), parallel.parameters(), strict=True):
        assert_close(b, a, **EXACT)
        everywhere = [torch.empty_like(b) for _ in range(processes)]
        dist.all_gather(everywhere, b.detach())
        assert all(torch.equal(other, b) for other in everywhere)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, make in ALGORITHMS.items():
        for unused in (False, True):
            check(make, unused=unused and name != "MetaSGD")
        if dist.get_rank() == 0:
            print(f"{name} agrees", flush=True)
    dist.destroy_process_group()
    # DistributedDataParallel keeps gloo's threads alive beyond the group, and one of them may
    # still hold all_gather's tensors: to drop them while Python ends would be std::terminate.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

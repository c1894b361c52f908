"""What glibc does with the memory that a task frees: the next one is to find it there.

A block of some size is given back to the system when it is freed, and so is the end of the heap
once more than twice the largest such block lies free there; what comes back is zeroed page by page.
Whether the graphs of a task lie at the end depends on where small objects happen to be.
"""

from __future__ import annotations

import ctypes
import sys

import torch

KEPT_BYTES = 62 * 2**20
"""How much may lie free at the end of the heap before the system has it again: nearly the most that
can be had so, since glibc learns nothing of blocks above 32 MiB. The graphs of a task of large
layers take as much."""


def settle() -> None:
    """After a trial, which takes more memory than the calls do that follow: all that lies free goes
    back to the system, and from here on what a task frees stays. Nothing where malloc is not
    glibc's."""
    if sys.platform != "linux":
        return
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        torch.empty(KEPT_BYTES // 2, dtype=torch.uint8)  # freed at once, and never touched
        malloc_trim(0)

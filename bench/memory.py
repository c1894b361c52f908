"""The peak memory of this process: of the CPU what Linux counts, of a GPU what torch counts."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

WHAT = {
    "cpu": "peak resident memory (VmHWM of a process of its own, pages of files left out) during "
    "a call, after the first calls, beyond the level with inputs made, before any call",
    "cuda": "torch.cuda.max_memory_allocated during a call, after the first calls, beyond the "
    "level with inputs made",
}


class PeakMemory:
    """What a call needs beyond what the process held when this was made.

    Workspaces that stay between calls count, since the level is that of before the first call.
    On Linux a process's counters may be some 0.3 MB behind.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cpu":
            _return_free_memory()
            self._level = _held("VmRSS")
        else:
            self._level = torch.cuda.memory_allocated(device)

    def start(self) -> None:
        """Forget the peak so far.

        Raises:
            OSError: this system cannot.
        """
        if self._device.type == "cpu":
            Path("/proc/self/clear_refs").write_text("5")
        else:
            torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """Bytes beyond the level since `start`."""
        if self._device.type == "cpu":
            return max(0, _held("VmHWM") - self._level)
        return torch.cuda.max_memory_allocated(self._device) - self._level


def _held(counter: str) -> int:
    """Bytes of a counter of resident memory, without the pages of files (code, mostly)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    counters = dict(line.split(":", 1) for line in lines)
    return 1024 * (int(counters[counter].split()[0]) - int(counters["RssFile"].split()[0]))


def _return_free_memory() -> None:
    """Or a call could use what was freed before it, and seem to need nothing."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if malloc_trim is not None:
        malloc_trim(0)

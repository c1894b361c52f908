"""What an executor raises."""

from __future__ import annotations


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call; the message says why."""

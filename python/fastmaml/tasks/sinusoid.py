"""Sine regression tasks."""

from __future__ import annotations

import math

import torch

from .episodes import Episodes, TaskSampler, check_count


class Sinusoid(TaskSampler):
    """Regression on y = amplitude * sin(x - phase) (Finn et al. 2017, section 5.1).

    A task draws its amplitude uniformly from 0.1 to 5 and its phase from 0 to pi, and its
    samples x uniformly from -5 to 5. Inputs and targets are [T, shot, 1] and [T, query, 1].

    Args:
        shot, query: support and query samples of a task.
        tasks: how many tasks a meta-batch of the iterator holds.
        amplitude, phase, domain: the ranges (low, high) of amplitude, phase in radians and x.
    """

    def __init__(
        self,
        shot: int = 10,
        query: int = 10,
        *,
        tasks: int = 25,
        seed: int = 0,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        domain: tuple[float, float] = (-5.0, 5.0),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(tasks=tasks, seed=seed)
        self.shot = check_count("shot", shot)
        self.query = check_count("query", query)
        self.amplitude = _check_range("amplitude", amplitude)
        self.phase = _check_range("phase", phase)
        self.domain = _check_range("domain", domain)
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point type, got {dtype}")
        self.dtype = dtype

    def _draw(self, tasks: int) -> Episodes:
        amplitude = self._uniform((tasks, 1, 1), self.amplitude)
        phase = self._uniform((tasks, 1, 1), self.phase)
        x = self._uniform((tasks, self.shot + self.query, 1), self.domain)
        y = amplitude * torch.sin(x - phase)
        parts = (self.shot, self.query)
        (support_x, query_x), (support_y, query_y) = x.split(parts, 1), y.split(parts, 1)
        return Episodes(support_x, support_y, query_x, query_y).to(self.dtype)

    def _uniform(self, shape: tuple[int, ...], bounds: tuple[float, float]) -> torch.Tensor:
        # float64 whatever the dtype, so that one seed means the same tasks in all of them
        low, high = bounds
        unit = torch.rand(shape, dtype=torch.float64, generator=self.generator)
        return low + (high - low) * unit


def _check_range(name: str, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name} must be (low, high), finite, low <= high, got {bounds}")
    return float(low), float(high)

"""Random quantities read column by column from a table of uniform numbers, one row per person (or photo).

Row i of every quantity depends on row i of the table alone, so a batch of any size gives the same people. A table
becomes an iterator over its columns, `iter(table.unbind(1))`, and each function below takes the next column(s) from it.
The values are float64: they are rounded to a fixed grid before anything is drawn, which hides the last bits in which
vectorised trigonometry may differ with the position in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Draws = Iterator[Tensor]


def uniform(draws: Draws, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Numbers (N,) between `low` and `high`."""
    return low + (high - low) * next(draws)


def normal(draws: Draws, mean: float, deviation: float) -> Tensor:
    """Numbers (N,) from a normal distribution, never further than three deviations from the mean."""
    quantile = 0.00135 + 0.9973 * next(draws)
    return mean + deviation * math.sqrt(2) * torch.erfinv(2 * quantile - 1)


def happens(draws: Draws, probability: float) -> Tensor:
    """Truth values (N,)."""
    return next(draws) < probability


def choose(draws: Draws, shares: Sequence[float]) -> Tensor:
    """Indices (N,) into `shares`, drawn in proportion to them."""
    column = next(draws)
    edges = torch.tensor(shares, dtype=column.dtype, device=column.device).cumsum(0)
    return torch.searchsorted(edges / edges[-1], column.contiguous(), right=True).clamp(max=len(shares) - 1)


def within(draws: Draws, ranges: Tensor) -> Tensor:
    """Numbers (N,) between the two columns of `ranges` (N, 2)."""
    return uniform(draws, ranges[:, 0], ranges[:, 1])


def color(draws: Draws) -> Tensor:
    """RGB colours (N, 3) in [0, 1] of any hue, from grey to saturated and from dark to bright."""
    hue, saturation, value = next(draws) * 6, uniform(draws, 0.0, 0.9), uniform(draws, 0.12, 0.95)
    channels = ((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs())
    pure = torch.stack(channels, -1).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * (1 - pure))

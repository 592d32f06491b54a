"""Numbers over seeds: mean and spread, paired intervals, Holm's levels, power, and the verdict on a claim.

A seed is a replicate (label draw, initialisation, augmentation streams) and pairs the arms: the unit of
analysis is the difference of two arms of one seed. All tests are two-sided t tests on these differences.
With fewer than two seeds there is no spread, and what depends on it is None instead of a number.
Effects and intervals carry the unit of the differences that go in.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

ALPHA = 0.05  # of a whole family of claims
POWER = 0.8  # at which an effect counts as detectable
MAX_SEEDS = 10_000  # beyond this "more seeds" is no remedy

REPRODUCED = "reproduced"
SMALLER = "reproduced (smaller)"
REVERSED = "contradicted: reversed"
ABSENT = "contradicted: absent"
UNDECIDED = "undecided"

Interval = tuple[float, float]


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (ddof 1) over seeds; the latter is None for a single seed."""
    values = np.asarray(values, float)
    if not len(values):
        raise ValueError("no seeds: the mean of nothing is no number")
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def named_mean_and_std(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Both as the columns `<name>_mean` and `<name>_std` of a table's row; None where there are no values."""
    mean, std = mean_and_std(values) if len(values) else (None, None)
    return {f"{name}_mean": mean, f"{name}_std": std}


def paired_interval(differences: Sequence[float], alpha: float = ALPHA) -> Interval | None:
    """Two-sided 1 - alpha t interval of the mean of per-seed differences; None for fewer than two."""
    mean, std = mean_and_std(differences)
    return None if std is None else t_interval(mean, std / math.sqrt(len(differences)), len(differences), alpha)


def t_interval(mean: float, error: float, num_seeds: int, alpha: float = ALPHA) -> Interval:
    """Two-sided 1 - alpha t interval of a mean over `num_seeds` with standard error `error`."""
    half = float(stats.t.isf(alpha / 2, num_seeds - 1)) * error
    return mean - half, mean + half


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p value of "the mean difference is zero"; None for fewer than two seeds."""
    mean, std = mean_and_std(differences)
    if std is None:
        return None
    if std == 0:  # the statistic is 0/0 or infinite: equal differences decide by themselves
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / std * math.sqrt(len(differences)), len(differences) - 1))


def holm_levels(p_values: Sequence[float | None], alpha: float = ALPHA) -> list[float]:
    """The level at which Holm's step-down procedure tests each member of a family.

    The smallest of m p values is tested at alpha / m, the next at alpha / (m - 1), and so on; after the first
    that is not rejected the level grows no more. A paired interval at its level thus excludes zero exactly
    where Holm's test rejects. None (not tested) counts as the largest p value and as a member.
    """
    ranks = [1.0 if p is None else p for p in p_values]
    levels, rejected, level = [alpha] * len(ranks), True, alpha
    for rank, member in enumerate(sorted(range(len(ranks)), key=ranks.__getitem__)):
        if rejected:
            level = alpha / (len(ranks) - rank)
        levels[member] = level
        rejected = rejected and ranks[member] <= level
    return levels


def power_of_test(effect: float, std: float, num_seeds: int, alpha: float = ALPHA) -> float:
    """Probability that the two-sided paired t test finds an effect of this size, with the right sign."""
    freedom, shift = num_seeds - 1, abs(effect) / std * math.sqrt(num_seeds)
    return float(stats.nct.sf(stats.t.isf(alpha / 2, freedom), freedom, shift))


def detectable_effect(std: float | None, num_seeds: int, alpha: float = ALPHA) -> float | None:
    """Smallest effect that so many seeds of this spread find with probability POWER; None without a spread."""
    if std is None or num_seeds < 2:
        return None
    if std == 0:
        return 0.0
    largest = 2.0 * (stats.t.isf(alpha / 2, num_seeds - 1) + stats.t.isf(1 - POWER, num_seeds - 1))
    standard = optimize.brentq(
        lambda size: power_of_test(size, math.sqrt(num_seeds), num_seeds, alpha) - POWER, 0.0, largest
    )
    return float(standard * std / math.sqrt(num_seeds))


def seeds_to_detect(effect: float | None, std: float | None, alpha: float = ALPHA) -> int | None:
    """Fewest seeds (at least 2) that find `effect` with probability POWER; None where no number is known."""
    if not effect or std is None:
        return None
    if std == 0:
        return 2
    counts = range(2, MAX_SEEDS + 1)  # power grows with the count: bisect
    place = bisect_left(counts, POWER, key=lambda count: power_of_test(effect, std, count, alpha))
    return counts[place] if place < len(counts) else None


def scale_that_changes(interval: Interval | None, delta: float | None) -> float:
    """How many times larger the scale of an effect must be for another `verdict`, delta being a share of it.

    An open one becomes absent, one that is reproduced becomes smaller; the others stay, and so does any without an
    interval or a delta: infinity.
    """
    farthest = max(map(abs, interval)) if interval else math.nan
    changeable = verdict(interval, delta) in (UNDECIDED, REPRODUCED)
    return farthest / delta if changeable and delta and math.isfinite(farthest) else math.inf


def verdict(interval: Interval | None, delta: float | None) -> str:
    """What an interval says about a claimed positive effect.

    Reproduced: all of it is above zero (smaller: and below `delta`, half of the paper's effect). Reversed: all
    of it is below zero. Absent: it lies within plus or minus `delta`. Anything else, and no interval at all,
    is undecided. Without a `delta` nothing can be called smaller or absent.
    """
    if interval is None or not all(map(math.isfinite, interval)):
        return UNDECIDED
    low, high = interval
    if low > 0:
        return SMALLER if delta is not None and high < delta else REPRODUCED
    if high < 0:
        return REVERSED
    return ABSENT if delta is not None and -delta < low and high < delta else UNDECIDED

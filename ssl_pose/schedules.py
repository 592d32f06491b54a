"""Learning rates by step, as functions of the step alone: so a resumed run needs no history."""

from __future__ import annotations

import math
from collections.abc import Callable

from ssl_pose.config import TrainingConfig

Schedule = Callable[[float], float]  # step, counted from 0 -> learning rate of that step


def constant_rate(training: TrainingConfig) -> Schedule:
    """The burn-in's: learning_rate at every step."""
    return lambda step: training.learning_rate


def run_schedule(training: TrainingConfig, pool_size: int, relative_steps: float = 1.0) -> Schedule:
    """The schedule of a run whose unlabelled pool has `pool_size` persons, as `training.schedule` names it.

    A run of `relative_steps` times as many steps has the same schedule, stretched; the linear warm-up is not.
    """
    if training.schedule == "milestones":
        rate = _fall_at(training.milestone_steps(pool_size), training.learning_rate, training.milestone_factor)
    else:
        rate = _cosine(training.run_steps(pool_size), training.learning_rate, training.final_learning_rate)
    warmup = training.warmup_steps
    return lambda step: min(1.0, (step + 1) / warmup if warmup else 1.0) * rate(step / relative_steps)


def _fall_at(milestones: tuple[int, ...], rate: float, factor: float) -> Schedule:
    """`rate`, times `factor` from each of the `milestones` on (Xie et al. 2021: 0.1 after epochs 20 and 25)."""
    return lambda step: rate * factor ** sum(step >= milestone for milestone in milestones)


def _cosine(num_steps: int, rate: float, low: float) -> Schedule:
    """From `rate` down to its share `low` along half a cosine."""
    return lambda step: rate * (low + (1 - low) * (1 + math.cos(math.pi * (step / num_steps))) / 2)

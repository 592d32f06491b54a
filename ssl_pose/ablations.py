"""Ablations: arms beside the arm that they vary, by group, with what differs, what it changes and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from ssl_pose import statistics
from ssl_pose.config import ArmConfig, Config

EQUAL_COST = 0.02  # share by which passes of equal cost may differ


def ablation_groups(config: Config) -> dict[str, list[str]]:
    """Group: its arms, in the order of the grid."""
    groups: dict[str, list[str]] = {}
    for name, arm in config.arms.items():
        if arm.group:
            groups.setdefault(arm.group, []).append(name)
    return groups


def ablation_table(scores: pd.DataFrame, provenance: pd.DataFrame, config: Config) -> pd.DataFrame:
    """A row an arm of a group: scores, its paired difference from its baseline with a 95 % t interval, its cost.

    `scores` and `provenance` are those of `results.load_scores` and `load_provenance`. `cost` is the run's
    training, in passes of an image through a network, over the baseline's. Intervals are not adjusted for their
    number: these are explorations, and no verdict rests on them.
    """
    wide = {name: scores.pivot(index="seed", columns="arm", values=name) for name in ("AP", "PCK")}
    passes = provenance.groupby("arm").image_passes.mean()
    rows = []
    for group, arms in ablation_groups(config).items():
        for arm in arms:
            baseline = config.arm(arm).baseline
            differences = (wide["AP"][arm] - wide["AP"][baseline]).tolist()
            low, high = statistics.paired_interval(differences) or (None, None)
            row = {"group": group, "arm": arm, "title": config.arm(arm).title,
                   "baseline": config.arm(baseline).title,
                   "what differs": describe_difference(config.arm(arm), config.arm(baseline))}
            for name in ("AP", "PCK"):
                row |= statistics.named_mean_and_std(name, wide[name][arm])
            row |= statistics.named_mean_and_std("difference", differences)
            row |= {"low": low, "high": high, "cost": passes[arm] / passes[baseline], "seeds": len(differences)}
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = ["group", "arm", "title", "baseline", "what differs", "AP_mean", "AP_std", "PCK_mean", "PCK_std",
           "difference_mean", "difference_std", "low", "high", "cost", "seeds"]


def equal_cost_pairs(provenance: pd.DataFrame, config: Config) -> list[tuple[str, str]]:
    """Arms (longer, shorter) of the same labels that train for as many image passes, within 2 %, in unequal steps."""
    passes = provenance.groupby("arm").image_passes.mean()
    arms = sorted(passes.index, key=lambda name: -config.arm(name).relative_steps)

    def alike(one: ArmConfig, other: ArmConfig) -> bool:
        return (one.labels, one.label_count) == (other.labels, other.label_count)

    return [(longer, shorter) for longer, shorter in combinations(arms, 2)
            if config.arm(longer).relative_steps > config.arm(shorter).relative_steps
            and alike(config.arm(longer), config.arm(shorter))
            and abs(passes[longer] / passes[shorter] - 1) <= EQUAL_COST]


def describe_difference(arm: ArmConfig, baseline: ArmConfig) -> str:
    """The options in which two arms differ, as `option: baseline's -> arm's`."""
    pairs = [(name, baseline.method[name], value) for name, value in arm.method.items()]
    return "; ".join(f"{name}: {_short(old)} -> {_short(new)}" for name, old, new in pairs if old != new)


def cost_table(scores: pd.DataFrame, provenance: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: mean AP and PCK, and millions of image passes that training one run takes; the cheapest first."""
    means = scores.groupby("arm", sort=False).agg(title=("title", "first"), AP=("AP", "mean"), PCK=("PCK", "mean"))
    means["passes"] = provenance.groupby("arm").image_passes.mean() / 1e6
    return means.sort_values("passes", kind="stable").reset_index()


def _short(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " + ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)

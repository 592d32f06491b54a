"""Accuracy over the number of labels: what a method gains where, and how many more labels would have done the same.

Arms that differ in `label_count` alone are one curve; an arm with one count is a point, read off the supervised curve
where there is one. Shares of the headroom are those of the level: all labels minus supervised at the same count, mean
over seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ssl_pose import statistics
from ssl_pose.config import ArmConfig, Config

Curves = dict[str, dict[int, str]]  # title: arm by label count, rising
ALL_COUNTS = "all"  # in place of a label count: the mean over them
BASE = "supervised"  # the arm of the grid whose curve the others are measured against
LEVEL_COLUMNS = ["curve", "label_count", "arm", "AP_mean", "AP_std", "of_all_labels", "gain_mean", "low", "high",
                 "equivalent", "equivalent_low", "equivalent_high", "seeds"]
PAIR_COLUMNS = ["better", "worse", "label_count", "difference_mean", "difference_std", "of_headroom", "low", "high",
                "seeds"]


def count_labels(arm: ArmConfig, config: Config) -> int:
    """How many units an arm with few labels has: its own number, or the profile's."""
    return arm.label_count or config.splits.label_count


def label_curves(config: Config) -> Curves:
    """The curves of at least two counts, called by the title at the split's own count where that is in the grid."""
    groups: dict[tuple, dict[int, str]] = {}
    for name, arm in config.arms.items():
        if arm.labels == "few":
            method = tuple(sorted((key, value) for key, value in arm.method.items() if key != "label_count"))
            groups.setdefault(method, {})[count_labels(arm, config)] = name
    curves = [dict(sorted(arms.items())) for arms in groups.values() if len(arms) > 1]
    return {_title(arms, config): arms for arms in curves}


def lone_arms(config: Config) -> Curves:
    """The arms with some labels that are on no curve, as curves of one count."""
    on_curves = {name for arms in label_curves(config).values() for name in arms.values()}
    return {arm.title: {count_labels(arm, config): name} for name, arm in config.arms.items()
            if arm.labels == "few" and name not in on_curves}


def level_table(scores: pd.DataFrame, config: Config) -> pd.DataFrame:
    """A row a (curve, label count), and below a lone arm, where a supervised curve says what it is worth.

    `of_all_labels`: AP as a percentage of that of all labels. `gain`, `low`, `high`: points over supervised training
    with the same labels, paired by seed, with a 95 % t interval. `equivalent`: how many labels supervised training
    needs for the same mean AP, read off its curve, linear in the logarithm of the count; None beyond its ends.
    `equivalent_low` and `equivalent_high`: the same for the ends of the gain's interval, with the curve as it stands.
    """
    wide, curves, base = _by_seed(scores, config)
    ceiling = wide["all_labels"].mean() if "all_labels" in wide else float("nan")
    rows = []
    for title, arms in (curves | (lone_arms(config) if base else {})).items():
        for count, arm in arms.items():
            mean = wide[arm].mean()
            row = {"curve": title, "label_count": count, "arm": arm, "of_all_labels": 100 * mean / ceiling,
                   "seeds": len(wide)} | statistics.named_mean_and_std("AP", wide[arm])
            if count in base and arms is not base:
                gains = (wide[arm] - wide[base[count]]).tolist()
                row["gain_mean"] = float(np.mean(gains))
                row["low"], row["high"] = statistics.paired_interval(gains) or (None, None)
            if base and arms is not base:
                row |= _equivalents(row, wide[list(base.values())].mean().tolist(), base)
            rows.append(row)
    return pd.DataFrame(rows, columns=LEVEL_COLUMNS)


def _equivalents(row: dict[str, Any], curve: Sequence[float], base: dict[int, str]) -> dict[str, float | None]:
    """How many labels the row's AP, and the ends of its gain, are worth on the supervised curve."""
    found = {"equivalent": equivalent_count(row["AP_mean"], list(base), curve)}
    for end in ("low", "high"):
        if row.get(end) is not None:
            shifted = row["AP_mean"] - row["gain_mean"] + row[end]
            found[f"equivalent_{end}"] = equivalent_count(shifted, list(base), curve)
    return found


def equivalent_count(score: float, counts: Sequence[int], scores: Sequence[float]) -> float | None:
    """The label count at which the rising curve through (counts, scores) has `score`; None beyond its ends."""
    rising = np.maximum.accumulate(np.asarray(scores, float))
    if not rising[0] <= score <= rising[-1]:
        return None
    return float(np.exp(np.interp(score, rising, np.log(counts))))


def pair_table(scores: pd.DataFrame, config: Config) -> pd.DataFrame:
    """A row a (pair of curves but for the supervised, label count that both have): paired differences of AP.

    The better of the two over all counts stands first. `of_headroom`, `low` and `high` are percent of the headroom.
    Where a pair has several counts, a last row, of label count `all`, has the mean of these shares within each seed.
    """
    wide, curves, base = _by_seed(scores, config)
    rows = []
    for pair in itertools.combinations([title for title, arms in curves.items() if arms is not base], 2):
        shared = [count for count in curves[pair[0]] if count in curves[pair[1]] and count in base]
        if not shared or "all_labels" not in wide:
            continue
        means = [wide[[curves[title][count] for count in shared]].to_numpy().mean() for title in pair]
        better, worse = pair if means[0] >= means[1] else pair[::-1]
        shares = {}
        for count in shared:
            headroom = (wide["all_labels"] - wide[base[count]]).mean()
            differences = wide[curves[better][count]] - wide[curves[worse][count]]
            shares[count] = 100 * differences / headroom
            rows.append(_pair_row(better, worse, count, shares[count])
                        | statistics.named_mean_and_std("difference", differences))
        if len(shared) > 1:
            rows.append(_pair_row(better, worse, ALL_COUNTS, pd.DataFrame(shares).mean(axis=1)))
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def _pair_row(better: str, worse: str, count: int | str, shares: pd.Series) -> dict[str, Any]:
    """`shares`: of the headroom, a seed each, percent."""
    low, high = statistics.paired_interval(shares) or (None, None)
    return {"better": better, "worse": worse, "label_count": count, "of_headroom": shares.mean(), "low": low,
            "high": high, "seeds": len(shares)}


def _by_seed(scores: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, Curves, dict[int, str]]:
    """AP, a row a seed and a column an arm; the curves; and that of supervised training, empty if there is none."""
    curves = label_curves(config)
    base = next((arms for arms in curves.values() if BASE in arms.values()), {})
    return scores.pivot(index="seed", columns="arm", values="AP"), curves, base


def _title(arms: dict[int, str], config: Config) -> str:
    own = arms.get(config.splits.label_count, next(iter(arms.values())))
    return config.arm(own).title

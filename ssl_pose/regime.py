"""How near a profile comes to the regime of the paper's Table 2: few labels for a task that all of them would solve."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ssl_pose import paper, statistics
from ssl_pose.claims import FROZEN_ARM
from ssl_pose.config import Config
from ssl_pose.label_counts import equivalent_count, label_curves

FEWER = 0.33  # a share of all labels' AP below that of the protocol's fewest labels, of which no number is printed
COLUMNS = ["quantity", "paper", "ours_mean", "ours_std", "seeds"]


def regime_table(
    scores: pd.DataFrame, quality: pd.DataFrame, provenance: pd.DataFrame, config: Config
) -> pd.DataFrame:
    """A row a quantity that the paper's setting has too, ours over seeds; only those whose arms are in the grid.

    `scores`, `quality`, `provenance`: of `results.load_scores`, `load_pseudo_quality` and `load_provenance`.
    """
    wide = scores.pivot(index="seed", columns="arm", values="AP").astype(float)
    rows = []
    if {"supervised", "all_labels"} <= set(wide):
        rows.append(("supervised / all labels, % of AP", 100 * paper.SUPERVISED_MAP / paper.ALL_LABELS_MAP,
                     100 * wide["supervised"] / wide["all_labels"]))
    single = quality[(quality.arm == FROZEN_ARM) & (quality["mode"] == "none")]
    if len(single):
        title = config.arm(FROZEN_ARM).title
        rows.append((f"PCK of a single view's pseudo-heatmaps, {title}", paper.TABLE_1["none"], single.pck))
    runs = provenance[provenance.arm == FROZEN_ARM]
    if len(runs):
        passes = runs.steps * config.training.unlabeled_batch / runs.num_unlabeled
        rows.append(("passes over the unlabelled people", paper.POOL_PASSES, passes))
    table = [{"quantity": quantity, "paper": round(theirs, 1)} | statistics.named_mean_and_std("ours", ours)
             | {"seeds": len(ours)} for quantity, theirs, ours in rows]
    return pd.DataFrame([*table, *_label_counts(wide, config)], columns=COLUMNS)


def _label_counts(wide: pd.DataFrame, config: Config) -> Iterator[dict]:
    """A row a (supervised curve, label count of the protocol, and one of fewer): where the curve of mean AP is at the
    same share of all labels, linear in the logarithm of the count; without a number beyond its ends. `wide` is AP by
    seed and arm."""
    shares = {FEWER: None} | {score / paper.ALL_LABELS_MAP: count for count, score in paper.SUPERVISED_MAPS.items()}
    if "all_labels" not in wide:
        return
    for title, arms in label_curves(config).items():
        if config.arm(next(iter(arms.values()))).framework != "supervised":
            continue
        means = wide[list(arms.values())].mean().tolist()
        for share, count in shares.items():
            ours = equivalent_count(share * wide["all_labels"].mean(), list(arms), means)
            quantity = f"labelled {config.splits.unit}s at which “{title}” has {100 * share:.0f} % of all labels' AP"
            yield {"quantity": quantity, "paper": count, "ours_mean": ours, "seeds": len(wide)}

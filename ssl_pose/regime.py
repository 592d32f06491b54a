"""How near a profile comes to the regime of the paper's Table 2: few labels for a task that all of them would solve."""

from __future__ import annotations

import pandas as pd

from ssl_pose import paper, statistics
from ssl_pose.claims import FROZEN_ARM
from ssl_pose.config import Config

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
    return pd.DataFrame(
        [{"quantity": quantity, "paper": round(theirs, 1)} | statistics.named_mean_and_std("ours", ours)
         | {"seeds": len(ours)} for quantity, theirs, ours in rows], columns=COLUMNS)

"""How good pseudo-labels are, recomputed from the table of `results.load_pseudo_labels`; NumPy and pandas only.

A joint is correct if its peak lies within PCK_THRESHOLD of the person's reference length from the hidden
label. Only labelled joints are in the table. Both label networks of a run are pooled: they predict the same
joints, so that a share over both is the mean of the two. Shares are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ssl_pose.results import MODES

PCK_THRESHOLD = 0.2  # of the reference length; the paper does not state its own
RUN = ["arm", "seed"]
SMALLEST_PEAK = 1e-3  # a quotient's divisor
SIGNS = ["uncertainty", "over_peak", "low_peak"]  # of a wrong peak
SELECTION = ["own_0", "own_1", "pck_chosen", "pck_rejected", "chosen_closer", "pck_targets", "pck_dual"]


def is_correct(labels: pd.DataFrame, mode: str) -> pd.Series:
    return labels[f"error_{mode}"] <= PCK_THRESHOLD


def is_kept(labels: pd.DataFrame, mode: str, confidence_threshold: float | pd.Series) -> pd.Series:
    """Whether a joint's peak is at or above the threshold."""
    return labels[f"confidence_{mode}"] >= confidence_threshold


def is_right(labels: pd.DataFrame, mode: str, confidence_threshold: float) -> pd.Series:
    """Whether a joint is correct and kept."""
    return is_correct(labels, mode) & is_kept(labels, mode, confidence_threshold)


def pck_readings(labels: pd.DataFrame, confidence_threshold: float) -> pd.DataFrame:
    """Table 1 from the raw table: one row a (run, mode) with both readings of the PCK.

    `pck` counts the peak of every joint. `pck_above_threshold` counts a joint under the threshold as
    wrong; a maximum only raises peaks, so this reading favours it by construction. `kept` is the share of
    joints at or above the threshold.
    """
    rows = []
    for (arm, seed), run in labels.groupby(RUN, sort=False):
        for mode in MODES:
            shares = {"pck": is_correct(run, mode), "pck_above_threshold": is_right(run, mode, confidence_threshold),
                      "kept": is_kept(run, mode, confidence_threshold)}
            rows.append({"arm": arm, "seed": seed, "mode": mode} | _percent(shares))
    return pd.DataFrame(rows, columns=[*RUN, "mode", "pck", "pck_above_threshold", "kept"])


def before_and_after(labels: pd.DataFrame, mode: str, confidence_threshold: float) -> pd.DataFrame:
    """What thresholding does to the labels of each run: the PCK of all, of the kept and of the dropped.

    Peaks are the decoded ones. Refinement redraws a kept joint at the centre of its cell, and so adds what lies within
    a cell to its error: `pck_refined` of metrics.json counts that.
    """
    rows = []
    for (arm, seed), run in labels.groupby(RUN, sort=False):
        correct, kept = is_correct(run, mode), is_kept(run, mode, confidence_threshold)
        shares = {"kept": kept, "pck_all": correct, "pck_kept": correct[kept], "pck_dropped": correct[~kept]}
        rows.append({"arm": arm, "seed": seed} | _percent(shares))
    return pd.DataFrame(rows, columns=[*RUN, "kept", "pck_all", "pck_kept", "pck_dropped"])


def coverage_and_precision(labels: pd.DataFrame, mode: str, thresholds: Sequence[float]) -> pd.DataFrame:
    """One row a (run, threshold): the share of joints kept, and the share of these that are correct."""
    rows = []
    for (arm, seed), run in labels.groupby(RUN, sort=False):
        correct = is_correct(run, mode)
        for threshold in thresholds:
            kept = is_kept(run, mode, threshold)
            shares = _percent({"coverage": kept, "precision": correct[kept]})
            rows.append({"arm": arm, "seed": seed, "mode": mode, "threshold": float(threshold)} | shares)
    return pd.DataFrame(rows, columns=[*RUN, "mode", "threshold", "coverage", "precision"])


def precision_at_coverage(labels: pd.DataFrame, mode: str, shares: Sequence[float]) -> pd.DataFrame:
    """One row a run: in percent, how many of the joints with the highest peaks are correct, by the share of them kept.

    At equal coverage ensembles compare whatever the heights of their peaks are: a threshold keeps more of a maximum.
    """
    rows = []
    for (arm, seed), run in labels.groupby(RUN, sort=False):
        correct = is_correct(run.sort_values(f"confidence_{mode}", ascending=False, kind="stable"), mode)
        kept = {f"right_of_{round(100 * share)}": correct[: round(share * len(run))] for share in shares}
        rows.append({"arm": arm, "seed": seed, "mode": mode} | _percent(kept))
    return pd.DataFrame(rows, columns=[*RUN, "mode", *(f"right_of_{round(100 * share)}" for share in shares)])


def selection_by_margin(labels: pd.DataFrame, mode: str, margins: Sequence[float],
                        guard_threshold: float | pd.Series = 0.0, relative: bool = False) -> pd.DataFrame:
    """One row a (run of two students, margin Delta): lines 23-24 of Algorithm 1 replayed (`cross`).

    `own_0`, `own_1`: how often a student's target is its own map, being the more certain by Delta. Where
    either is, the joint is decided: both students learn from the more certain map (`pck_chosen`) and not from
    the other (`pck_rejected`); `chosen_closer` is how often the chosen peak is strictly closer to the label,
    among the decided joints on which the two errors differ. Elsewhere each learns from the other, as plain
    dual students do everywhere. `pck_targets` and `pck_dual` are the PCK of all targets with and without
    selection. A peak under `guard_threshold`, one for all or one a row of `labels`, counts as wholly uncertain.
    `relative`: the uncertainty is that over the height of the peak.
    """
    pairs = student_pairs(labels, mode, guard_threshold, relative)
    rows = [
        {"arm": arm, "seed": seed, "margin": float(margin)} | _selection(run, float(margin))
        for (arm, seed), run in pairs.groupby(RUN, sort=False)
        for margin in margins
    ]
    return pd.DataFrame(rows, columns=[*RUN, "margin", *SELECTION])


def student_pairs(
    labels: pd.DataFrame, mode: str, guard_threshold: float | pd.Series = 0.0, relative: bool = False
) -> pd.DataFrame:
    """One row a joint of a run with two students: error_n and uncertainty_n of the students n = 0 and 1."""
    blank = ~is_kept(labels, mode, guard_threshold)
    uncertainty = relative_uncertainty(labels, mode) if relative else labels.uncertainty
    values = labels[[*RUN, "network", "person", "joint"]].assign(
        error=labels[f"error_{mode}"], uncertainty=uncertainty.mask(blank, np.inf)
    )
    students = [values[values.network == network].drop(columns="network") for network in (0, 1)]
    return students[0].merge(students[1], on=[*RUN, "person", "joint"], suffixes=("_0", "_1"))


def relative_uncertainty(labels: pd.DataFrame, mode: str) -> pd.Series:
    """Uncertainty over the height of the peak: high peaks vary more in absolute terms, right or wrong."""
    return labels.uncertainty / labels[f"confidence_{mode}"].clip(lower=SMALLEST_PEAK)


def rank_correlation(labels: pd.DataFrame, mode: str) -> pd.DataFrame:
    """One row a run: Spearman's correlation of what might tell a wrong peak with the error of that peak.

    `uncertainty` is the paper's, `over_peak` the same over the height of the peak, `low_peak` the height
    alone, negated.
    """
    rows = []
    for (arm, seed), run in labels.groupby(RUN, sort=False):
        known = run[np.isfinite(run.uncertainty)]
        signs = {"uncertainty": known.uncertainty, "over_peak": relative_uncertainty(known, mode),
                 "low_peak": -known[f"confidence_{mode}"]}
        error = known[f"error_{mode}"]
        rows.append({"arm": arm, "seed": seed, "joints": len(known)}
                    | {name: _spearman(values, error) for name, values in signs.items()})
    return pd.DataFrame(rows, columns=[*RUN, *SIGNS, "joints"])


def _spearman(first: pd.Series, second: pd.Series) -> float:
    """Spearman's correlation; NaN where either is constant."""
    varied = first.nunique() > 1 and second.nunique() > 1
    return float(stats.spearmanr(first, second).statistic) if varied else np.nan


def error_by_uncertainty(labels: pd.DataFrame, mode: str, num_bins: int = 8) -> pd.DataFrame:
    """One row a (run, bin of equally many joints): mean uncertainty, and the share of wrong peaks."""
    known = labels[np.isfinite(labels.uncertainty)].assign(wrong=100.0 * ~is_correct(labels, mode))
    rank = known.groupby(RUN, sort=False).uncertainty.rank(method="first", pct=True)
    known = known.assign(bin=np.ceil(rank * num_bins).astype(int))
    return known.groupby([*RUN, "bin"], sort=False)[["uncertainty", "wrong"]].mean().reset_index()


def _selection(run: pd.DataFrame, margin: float) -> dict[str, float]:
    errors, uncertainty = (run[[f"{name}_0", f"{name}_1"]].to_numpy() for name in ("error", "uncertainty"))
    own = uncertainty + margin < uncertainty[:, ::-1]  # (N, 2)
    decided, correct = own.any(1), errors <= PCK_THRESHOLD
    chosen, rejected = errors[own], errors[:, ::-1][own]  # one of each per decided joint
    targets = np.where(decided, (correct & own).any(1), correct.mean(1))
    return _percent({
        "own_0": own[:, 0], "own_1": own[:, 1],
        "pck_chosen": chosen <= PCK_THRESHOLD, "pck_rejected": rejected <= PCK_THRESHOLD,
        "chosen_closer": (chosen < rejected)[chosen != rejected],
        "pck_targets": targets, "pck_dual": correct.mean(1),
    })


def _percent(shares: dict[str, Sequence]) -> dict[str, float]:
    """Means in percent; the share of nothing is NaN."""
    return {name: 100.0 * float(np.mean(values)) if len(values) else np.nan for name, values in shares.items()}

"""The ledger: each claim of the paper, what the runs say about it, and a verdict.

An effect is the mean over seeds of a paired difference ("better minus worse", percentage points), divided by
the headroom, times 100:
- of an AP: all-labels minus supervised, mean over seeds. Paper: 67.1 - 31.5 (Xie et al., ICCV 2021).
- of a pseudo-heatmap PCK: 100 minus the PCK of a single view, mean over seeds: the errors that an ensemble
  could mend. The supplement gives no other scale. Paper: 100 - 63.5.
The headroom is taken as known: the intervals hold the spread of the differences, not that of the scale.

`delta`, under which an effect counts as absent, is half of the paper's effect on the same scale. For the
whole method over Dual + T&R the paper's text that we could read has no number: the smallest effect of
Table 2 (T&R on Dual) stands in. Checks of our own set-up have none: they can be reproduced or reversed.

The primary claims are one family for Holm's levels, the checks are another. Table 1 is read on the networks
of `dual_student`, which were trained without any ensemble and so favour none.

Beside the t interval stands a two-way one at the same level (resampling.py), for which a bootstrap draws the seeds and
the photos anew: those of the test set, for a PCK of pseudo-heatmaps those of the pool. Verdicts rest on the t interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_pose import paper, statistics
from ssl_pose.config import Config
from ssl_pose.files import write_text
from ssl_pose.label_analysis import is_right
from ssl_pose.matching import match_people, persons_of
from ssl_pose.resampling import NUM_DRAWS, draw_weights, mean_ap, two_way_interval, weighted_share
from ssl_pose.results import (
    grid,
    load_persons,
    load_predictions,
    load_pseudo_labels,
    load_pseudo_quality,
    load_scores,
    read_json,
)

CONFIRMING_SEEDS = 8  # with fewer, verdicts explore
FROZEN_ARM = "dual_student"  # whose networks Table 1 is read on
READINGS = {  # of Table 1's PCK: the field of metrics.json, and what it counts
    "pck": "peak of every joint",
    "pck_above_threshold": "joints under the threshold are wrong",
}
OTHER_READINGS = {  # without a verdict: shown beside them
    "pck_refined": "refined labels of the joints that are kept",
    "peer_accuracy": "as the field's training scripts count",
}
PRIMARY, CHECK = "primary", "check"
ENTRY = ["id", "title", "family", "source", "measure", "paper", "seeds", "ours", "difference", "difference_std",
         "per_seed", "headroom", "effect", "interval", "level", "delta", "detectable", "seeds_needed", "verdict",
         "two_way"]  # of the ledger
AP_HEADROOM = paper.ALL_LABELS_MAP - paper.SUPERVISED_MAP
PCK_HEADROOM = 100.0 - paper.TABLE_1["none"]
Resampled = dict[tuple[str, str], dict[int, NDArray]]  # (measure, arm or mode): seed: a score for each draw (B,)


@dataclass(frozen=True)
class Claim:
    """`better` is claimed to exceed `worse`: two arms (measure "AP") or two modes of an ensemble."""

    id: str
    title: str
    source: str
    measure: Literal["AP", "pck", "pck_above_threshold"]
    better: str
    worse: str
    paper: float | None  # the paper's effect, percentage points; None: not printed
    delta: float | None  # percent of the headroom
    family: Literal["primary", "check"] = PRIMARY
    topic: Literal["framework", "ensemble", "refinement", "selection"] = "framework"  # each has a notebook


def primary_claims(config: Config) -> list[Claim]:
    """The paper's claims whose arms stand in this profile."""
    return [claim for claim in [*_table_1_claims(), *_table_2_claims()] if _has_arms(claim, config)]


def check_claims(config: Config) -> list[Claim]:
    """What must hold for the benchmark to be one: labels help, and so does every semi-supervised arm."""
    learning = [name for name, arm in config.arms.items()
                if arm.uses_pool and not arm.label_count]  # with the labels of `supervised`
    below = [*learning, *(["supervised"] if "supervised" in config.arms else [])]
    pairs = [(name, "supervised") for name in learning] + [("all_labels", name) for name in below]
    claims = [
        Claim(f"{better}_over_{worse}", f"{_title(config, better)} > {_title(config, worse)}", "check",
              "AP", better, worse, paper=None, delta=None, family=CHECK)
        for better, worse in pairs
    ]
    return [claim for claim in claims if _has_arms(claim, config)]


def build_ledger(results: Path, config: Config) -> dict[str, list[dict[str, Any]]]:
    """{"claims": [...]}, one entry a claim, from the metrics of all runs of the profile.

    `ours` holds the two means in percent, `difference` their difference in points, `effect`, `interval` and
    `detectable` are percent of the headroom; `seeds_needed` would find an effect of `delta` (or, without one,
    of our own size) with probability 0.8. What a single seed cannot give is None.
    """
    claims = [*primary_claims(config), *check_claims(config)]
    resampled = _resampled_scores(results, config, claims)
    entries = judge_claims(results, config, claims)
    return {"claims": [entry | {"two_way": _two_way(claim, entry, resampled)}
                       for claim, entry in zip(claims, entries, strict=True)]}


def judge_claims(results: Path, config: Config, claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The ledger's entries of `claims`, among them every member of a family, but for the two-way interval."""
    scores = load_scores(results, config)
    pseudo = load_pseudo_quality(results, config, [FROZEN_ARM])
    samples = {claim.id: _paired_scores(claim, scores, pseudo) for claim in claims}
    levels = _family_levels(claims, samples)
    return [_judge(claim, samples[claim.id], _headroom(claim, scores, pseudo), levels[claim.id]) for claim in claims]


def verdict_lines(results: Path, config: Config, topic: str) -> list[str]:
    """The ledger's answer to each claim of `topic`, a line of Markdown; none where their arms are not in the grid."""
    claims = primary_claims(config)
    return [_verdict_line(entry) for claim, entry in zip(claims, judge_claims(results, config, claims), strict=True)
            if claim.topic == topic]


def _verdict_line(entry: dict[str, Any]) -> str:
    line = f"- **{entry['title']}**: *{entry['verdict']}*"
    if entry["seeds"] < CONFIRMING_SEEDS:
        line += f" ({entry['seeds']} seed(s) explore, the verdict is not the evidence's)"
    if entry["effect"] is None:
        return f"{line}; {entry['difference']:+.2f} points; no headroom is known, all labels minus supervised training."
    line += f"; {entry['effect']:+.1f} % of the headroom"
    if entry["interval"]:
        line += ", interval [{:.1f}, {:.1f}] at Holm's level".format(*entry["interval"])
    return f"{line}; an effect within ±{entry['delta']:.1f} % counts as absent."


def write_ledger(ledger: dict[str, Any], path: Path) -> Path:
    return write_text(json.dumps(ledger, indent=1, allow_nan=False) + "\n", path)


def read_ledger(path: Path) -> pd.DataFrame:
    """The ledger's entries, one row a claim."""
    return pd.DataFrame(read_json(path)["claims"], columns=ENTRY)


def _table_1_claims() -> list[Claim]:
    claims = []
    for measure, reading in READINGS.items():
        for better, worse, title in (("maximum", "average", "Maximum > average of views"),
                                     ("average", "none", "Average of views > single view")):
            effect = paper.TABLE_1[better] - paper.TABLE_1[worse]
            claims.append(Claim(
                f"{better}_over_{worse}_{measure}", f"{title} ({reading})",
                "supplement, Table 1", measure, better, worse, effect, 50.0 * effect / PCK_HEADROOM, topic="ensemble",
            ))
    return claims


def _table_2_claims() -> list[Claim]:
    paper_gap = paper.TABLE_2["dual_student"] - paper.TABLE_2["teacher_student"]
    literal = Claim("dual_student_over_teacher_student_literal", "Dual-Student > Teacher-Student by Unbiased Teacher's "
                    "recipe", "supplement, Table 2", "AP", "dual_student", "teacher_student_literal", paper_gap,
                    50.0 * paper_gap / AP_HEADROOM)
    pairs = [
        ("dual_student", "teacher_student", "Dual-Student > Teacher-Student", "framework"),
        ("teacher_student_refine", "teacher_student", "T&R helps Teacher-Student", "refinement"),
        ("dual_student_refine", "dual_student", "T&R helps Dual-Student", "refinement"),
    ]
    claims = []
    for better, worse, title, topic in pairs:
        effect = paper.TABLE_2[better] - paper.TABLE_2[worse]
        claims.append(Claim(f"{better}_over_{worse}", title, "supplement, Table 2", "AP", better, worse,
                            effect, 50.0 * effect / AP_HEADROOM, topic=topic))
    whole = Claim("full_over_dual_student_refine", "Whole method > Dual-Student + T&R", "Algorithm 1",
                  "AP", "full", "dual_student_refine", None, claims[-1].delta, topic="selection")
    return [claims[0], literal, *claims[1:], whole]


def _has_arms(claim: Claim, config: Config) -> bool:
    needed = {FROZEN_ARM} if claim.measure != "AP" else {claim.better, claim.worse}
    return needed <= set(config.arms)


def _title(config: Config, arm: str) -> str:
    return config.arms[arm].title if arm in config.arms else arm


def _paired_scores(claim: Claim, scores: pd.DataFrame, pseudo: pd.DataFrame) -> pd.DataFrame:
    """The claim's two measures, a row a seed: columns `better` and `worse`, percent."""
    table, key = (scores, "arm") if claim.measure == "AP" else (pseudo, "mode")
    wide = table.pivot(index="seed", columns=key, values=claim.measure)
    return pd.DataFrame({"better": wide[claim.better], "worse": wide[claim.worse]}).astype(float)


def _headroom(claim: Claim, scores: pd.DataFrame, pseudo: pd.DataFrame) -> float | None:
    """The scale of a claim's effect, percentage points; None if there is none (or nothing left to gain)."""
    if claim.measure == "AP":
        means = scores.groupby("arm").AP.mean()
        headroom = means.get("all_labels", math.nan) - means.get("supervised", math.nan)
    else:
        headroom = 100.0 - pseudo[pseudo["mode"] == "none"][claim.measure].mean()
    return float(headroom) if headroom > 0 else None


def _family_levels(claims: Sequence[Claim], samples: dict[str, pd.DataFrame]) -> dict[str, float]:
    levels = {}
    for family in (PRIMARY, CHECK):
        members = [claim.id for claim in claims if claim.family == family]
        p_values = [statistics.paired_p_value(_differences(samples[member])) for member in members]
        levels |= dict(zip(members, statistics.holm_levels(p_values), strict=True))
    return levels


def _differences(sample: pd.DataFrame) -> list[float]:
    return (sample.better - sample.worse).tolist()


def _resampled_scores(results: Path, config: Config, claims: Sequence[Claim]) -> Resampled:
    """What every claim compares, for each draw of photos; all of a measure meet the same draws. Empty for one seed."""
    if len(config.seeds) < 2:
        return {}
    arms = {arm for claim in claims if claim.measure == "AP" for arm in (claim.better, claim.worse)}
    modes = {(claim.measure, mode) for claim in claims if claim.measure != "AP" for mode in (claim.better, claim.worse)}
    return (_resampled_ap(results, config, arms) if arms else {}) | (
        _resampled_pck(results, config, modes) if modes else {})


def _resampled_ap(results: Path, config: Config, arms: set[str]) -> Resampled:
    persons = persons_of(load_persons(results))
    photos = draw_weights(len(np.unique(persons.image_id)), NUM_DRAWS, np.random.default_rng(0))
    found: Resampled = {}
    for arm, seed in grid(config, sorted(arms)):
        reported = load_predictions(results, config, arm, seed)
        matches = [match_people(persons, part) for part in reported]
        found.setdefault(("AP", arm), {})[seed] = mean_ap(matches, photos)
    return found


def _resampled_pck(results: Path, config: Config, modes: set[tuple[str, str]]) -> Resampled:
    labels = load_pseudo_labels(results, config, [FROZEN_ARM])
    photos, labels["photo"] = np.unique(labels.image_id, return_inverse=True)
    weights = draw_weights(len(photos), NUM_DRAWS, np.random.default_rng(0)).astype(float)
    found: Resampled = {}
    for seed, run in labels.groupby("seed"):
        joints = np.bincount(run.photo, minlength=len(photos))
        for measure, mode in sorted(modes):
            threshold = config.arm(FROZEN_ARM).confidence_threshold if measure == "pck_above_threshold" else 0.0
            hits = np.bincount(run.photo, is_right(run, mode, threshold), minlength=len(photos))
            found.setdefault((measure, mode), {})[seed] = weighted_share(hits, joints, weights)
    return found


def _two_way(claim: Claim, entry: dict[str, Any], resampled: Resampled) -> list[float] | None:
    """The two-way interval in percent of the headroom; None for one seed, or without headroom."""
    if not resampled or not entry["headroom"]:
        return None
    better, worse = (resampled[claim.measure, name] for name in (claim.better, claim.worse))
    bounds = two_way_interval(entry["per_seed"], better, worse, entry["level"])
    return [_share(bound, entry["headroom"]) for bound in bounds] if bounds else None


def _judge(claim: Claim, sample: pd.DataFrame, headroom: float | None, level: float) -> dict[str, Any]:
    differences = _differences(sample)
    mean, std = statistics.mean_and_std(differences)
    bounds = statistics.paired_interval(differences, level)
    interval = [_share(bound, headroom) for bound in bounds] if bounds and headroom else None
    effect, spread = _share(mean, headroom), _share(std, headroom)
    detectable = statistics.detectable_effect(std, len(differences), level)
    return {
        "id": claim.id, "title": claim.title, "family": claim.family, "source": claim.source,
        "measure": claim.measure, "paper": _rounded(claim.paper), "seeds": len(differences),
        "ours": {"better": float(sample.better.mean()), "worse": float(sample.worse.mean())},
        "difference": mean, "difference_std": std, "per_seed": differences, "headroom": headroom,
        "effect": effect, "interval": interval, "level": level, "delta": claim.delta,
        "detectable": _share(detectable, headroom),
        "seeds_needed": statistics.seeds_to_detect(claim.delta or effect, spread, level),
        "verdict": statistics.verdict(interval, claim.delta),
    }


def _share(points: float | None, headroom: float | None) -> float | None:
    """Percentage points as percent of the headroom."""
    return 100.0 * points / headroom if headroom and points is not None else None


def _rounded(points: float | None) -> float | None:
    return None if points is None else round(points, 2)

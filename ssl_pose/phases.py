"""The phase diagram: in which settings two of the paper's claims hold, and how well that was predicted.

A cell is a claim in one setting: label count and length of the arms, and the EMA horizon (Dual-Student against
Teacher-Student, both plain, by AP) or the strength of the views (maximum against average on the plain dual students'
pseudo-heatmaps, by a reading of the PCK). A claim holds in a cell where the mean difference over the seeds is above 0.
Predictions are the probabilities that the profile's `predictions` gives, by the cell's name. It has no spaces: DVC
would wrap a long name in dvc.lock, and could not read it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ssl_pose import statistics
from ssl_pose.config import ArmConfig, Config
from ssl_pose.label_counts import count_labels
from ssl_pose.results import load_scores, read_json, run_file

READINGS = ("pck", "pck_above_threshold")
HOLDS, REVERSED, OPEN = "holds", "reversed", "open"  # by whether the 95 % interval excludes zero
COLUMNS = ["claim", "label_count", "steps", "setting", "value", "cell", "difference_mean", "difference_std", "low",
           "high", "state", "prediction", "seeds"]


def phase_table(results: Path, config: Config) -> pd.DataFrame:
    """A row a cell: the paired difference over seeds with its 95 % t interval, its state, and the prediction."""
    rows = []
    for row, differences in [*_framework_cells(results, config), *_ensemble_cells(results, config)]:
        low, high = statistics.paired_interval(differences) or (None, None)
        claim = row["claim"].replace(" by ", "/").replace(" ", "")
        cell = f"{claim}/labels={row['label_count']}/steps={row['steps']:g}/{row['setting']}={row['value']:g}"
        state = OPEN if low is None or low <= 0 <= high else HOLDS if low > 0 else REVERSED
        rows.append(row | statistics.named_mean_and_std("difference", differences) | {
            "cell": cell, "low": low, "high": high, "state": state, "prediction": config.predictions.get(cell),
            "seeds": len(differences)})
    return pd.DataFrame(rows, columns=COLUMNS)


def score_predictions(cells: pd.DataFrame) -> pd.DataFrame:
    """By claim and over all predicted cells: how many, the share that was on the right side of one half (percent),
    and the Brier score, the mean squared error of the probability (0 is perfect, 0.25 is a coin's)."""
    known = cells[cells.prediction.notna()]
    parts = [*known.groupby("claim", sort=False), ("all", known)]
    rows = []
    for claim, part in parts:
        held, said = (part.difference_mean > 0).to_numpy(float), part.prediction.to_numpy(float)
        if len(part):
            right = np.where(said == 0.5, 0.5, (said > 0.5) == (held == 1))
            rows.append({"claim": claim, "cells": len(part), "held": 100 * held.mean(), "right": 100 * right.mean(),
                         "brier": float(np.mean((said - held) ** 2))})
    return pd.DataFrame(rows, columns=["claim", "cells", "held", "right", "brier"])


def _framework_cells(results: Path, config: Config) -> Iterator[tuple[dict, list[float]]]:
    wide = load_scores(results, config).pivot(index="seed", columns="arm", values="AP")
    for dual, body in _plain(config, "dual_student"):
        for other, teacher in _plain(config, "teacher_student"):
            same = {"framework": body.framework, "label_source": body.label_source, "ema_horizon": body.ema_horizon}
            if teacher.method | same == body.method:
                row = {"claim": "dual > teacher_student", "label_count": count_labels(body, config),
                       "steps": body.relative_steps, "setting": "horizon", "value": teacher.ema_horizon}
                yield row, (wide[dual] - wide[other]).tolist()


def _ensemble_cells(results: Path, config: Config) -> Iterator[tuple[dict, list[float]]]:
    for arm, body in _plain(config, "dual_student"):
        records = [read_json(run_file(results, arm, seed, "metrics.json")) for seed in config.seeds]
        by_strength = [{1.0: record["pseudo"]} | {float(strength): scores for strength, scores
                                                  in record.get("pseudo_by_strength", {}).items()}
                       for record in records]
        for strength in sorted(by_strength[0]):
            for reading in READINGS:
                row = {"claim": f"maximum > average by {reading}", "label_count": count_labels(body, config),
                       "steps": body.relative_steps, "setting": "strength", "value": strength}
                yield row, [run[strength]["maximum"][reading] - run[strength]["average"][reading]
                            for run in by_strength]


def _plain(config: Config, framework: str) -> Iterator[tuple[str, ArmConfig]]:
    """The arms of a framework that, after burn-in, learn soft heatmaps of one view on one plain strong view.

    A teacher follows its student; two students teach each other, whose EMA horizon changes nothing and is no setting.
    Of several in one setting, such as trials of a weight, the first stands for it.
    """
    follows = framework == "teacher_student"
    settings = set()
    for name, arm in config.arms.items():
        plain = (arm.target, arm.num_views, arm.selection, arm.strong_paths) == ("soft", 0, "off", ("plain",))
        setting = (count_labels(arm, config), arm.relative_steps, follows and arm.ema_horizon)
        plain = plain and arm.burn_in and arm.uses_ema == follows
        if arm.framework == framework and plain and setting not in settings:
            settings.add(setting)
            yield name, arm

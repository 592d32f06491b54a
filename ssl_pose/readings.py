"""The same runs read in other ways: other decoders, sizes of people, single joints, and how honest confidences are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ssl_pose.config import Config
from ssl_pose.matching import persons_of
from ssl_pose.metrics import correct_keypoints
from ssl_pose.predictions import dequantize
from ssl_pose.results import grid, load_persons, load_predictions, read_json, run_file
from ssl_pose.scoring import HEADLINE_THRESHOLD, mean_of_known, score_coco

NUM_BINS = 10
THIRDS = ("smallest", "middle", "largest")  # of the people


def load_decoding(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a (run, decoder): AP without flip test (`plain`), with it (`flip`), and of the true heatmaps."""
    rows = []
    for arm, seed in grid(config, arms):
        metrics = read_json(run_file(results, arm, seed, "metrics.json"))
        rows += [{"arm": arm, "seed": seed, "decoder": decoder} | scores
                 for decoder, scores in metrics["decoding"].items()]
    return pd.DataFrame(rows)


def load_reported(
    results: Path, config: Config, names: Iterable[str], arms: Iterable[str] | None = None
) -> pd.DataFrame:
    """One row a run: the scores `names`, such as APM, as means over its reported networks; None where undefined."""
    rows = []
    for arm, seed in grid(config, arms):
        networks = read_json(run_file(results, arm, seed, "metrics.json"))["networks"]
        reported = [networks[str(number)] for number in config.arm(arm).reported_networks]
        values = {name: [scores[name] for scores in reported] for name in names}
        rows.append({"arm": arm, "seed": seed} | {name: mean_of_known(found) for name, found in values.items()})
    return pd.DataFrame(rows)


def load_thirds(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a run: AP of the `smallest`, `middle` and `largest` third of the people by area, each as if alone.

    COCO's sizes are fixed in px, and a test set may have next to nobody of one; these have equally many people.
    """
    persons = persons_of(load_persons(results))
    parts = np.array_split(np.argsort(persons.area, kind="stable"), len(THIRDS))
    thirds = [(name, people, persons.subset(people)) for name, people in zip(THIRDS, parts, strict=True)]
    rows = []
    for arm, seed in grid(config, arms):
        reported = load_predictions(results, config, arm, seed)
        rows.append({"arm": arm, "seed": seed} | {
            name: mean_of_known([score_coco(third, dequantize(part.keypoints[people]), part.score[people])["AP"]
                                 for part in reported])
            for name, people, third in thirds
        })
    return pd.DataFrame(rows)


def calibration_error(bins: pd.DataFrame) -> pd.Series:
    """Mean gap between confidence and the share that is right over the bins of `load_reliability`, points, an arm."""
    gap = (100.0 * bins.confidence - bins.correct).abs()
    return gap.groupby(bins.arm, sort=False).mean()


def load_per_joint(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a (run, joint): PCK of its reported networks."""
    rows = []
    for arm, seed in grid(config, arms):
        networks = read_json(run_file(results, arm, seed, "metrics.json"))["networks"]
        reported = [networks[str(number)]["pck_per_joint"] for number in config.arm(arm).reported_networks]
        means = {joint: mean_of_known([scores[joint] for scores in reported]) for joint in reported[0]}
        rows += [{"arm": arm, "seed": seed, "joint": joint, "PCK": mean} for joint, mean in means.items()]
    return pd.DataFrame(rows)


def load_reliability(results: Path, config: Config, arms: Iterable[str]) -> pd.DataFrame:
    """One row a (run, bin): annotated joints in bins of equally many by confidence; how high, and how often right.

    `confidence` is the mean height of the peaks, `correct` the share within the PCK's threshold, in percent.
    """
    table = load_persons(results)
    persons, length = persons_of(table), table.reference_length.to_numpy()
    annotated, frames = persons.visibility > 0, []
    for arm, seed in grid(config, arms):
        reported = load_predictions(results, config, arm, seed)
        right = [correct_keypoints(dequantize(part.keypoints), persons.keypoints, persons.visibility, length,
                                   HEADLINE_THRESHOLD)[annotated] for part in reported]
        joints = pd.DataFrame({"confidence": np.concatenate([part.confidence[annotated] for part in reported]),
                               "correct": 100.0 * np.concatenate(right)}).astype(float)
        rank = joints.confidence.rank(method="first", pct=True)
        bins = joints.groupby(np.ceil(rank * NUM_BINS).astype(int)).mean().rename_axis("bin").reset_index()
        frames.append(bins.assign(arm=arm, seed=seed))
    return pd.concat(frames, ignore_index=True)

"""[I/O] Where wrong joints lie: on the person's other side, on another person, or elsewhere.

These are the inversions, swaps, and the rest of Ronchi and Perona (ICCV 2017), by the PCK's distance in place of
their OKS. A network that cannot tell a joint's sides apart shows as one that is on the other side nearly as often as
on the right one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_pose.config import Config
from ssl_pose.crops import CropSet
from ssl_pose.matching import persons_of
from ssl_pose.metrics import correct_keypoints
from ssl_pose.predictions import dequantize
from ssl_pose.results import grid, load_persons, load_predictions
from ssl_pose.scoring import HEADLINE_THRESHOLD, canvas_to_photo
from ssl_pose.skeleton import FLIP_PAIRS, FLIP_PERMUTATION, KEYPOINT_NAMES

PLACES = ("right", "other side", "other person", "elsewhere")  # of a predicted joint
MIXED_UP = 0.5  # as often on the other side as this share of how often right: the sides of the pair are mixed up


def load_mistakes(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a (run, reported network, joint): percent of the annotated joints in each of PLACES."""
    table = load_persons(results)
    persons, length = persons_of(table), table.reference_length.to_numpy()
    annotated, frames = persons.visibility > 0, []
    for arm, seed in grid(config, arms):
        for part in load_predictions(results, config, arm, seed):
            places = find_places(dequantize(part.keypoints), persons, length)
            shares = {name: 100.0 * (places[name] & annotated).sum(0) / np.maximum(annotated.sum(0), 1)
                      for name in PLACES}
            frames.append(pd.DataFrame(shares).assign(arm=arm, seed=seed, network=part.network, joint=KEYPOINT_NAMES))
    return pd.concat(frames, ignore_index=True)


def find_places(points: NDArray, persons: CropSet, length: NDArray) -> dict[str, NDArray[np.bool_]]:
    """Which of PLACES each of the `points` (N, K, 2), canvas px, is at: Bool (N, K) that exclude each other.

    `length` (N,) is the persons' reference length, canvas px. A joint without a label is never right.
    """
    other = np.array(FLIP_PERMUTATION)
    right = correct_keypoints(points, persons.keypoints, persons.visibility, length, HEADLINE_THRESHOLD)
    side = ~right & (other != np.arange(len(other))) & correct_keypoints(
        points, persons.keypoints[:, other], persons.visibility[:, other], length, HEADLINE_THRESHOLD)
    person = ~right & ~side & _at_others(points, persons, length)
    return dict(zip(PLACES, (right, side, person, ~(right | side | person)), strict=True))


def count_mixed_up(mistakes: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: of its `networks`, how many `mixed_up` some pair of sides (MIXED_UP), and which `pairs`."""
    sides = {KEYPOINT_NAMES[index]: KEYPOINT_NAMES[pair[0]].removeprefix("left_")
             for pair in FLIP_PAIRS for index in pair}
    means = mistakes.assign(pair=mistakes.joint.map(sides)).dropna(subset="pair")
    means = means.groupby(["arm", "seed", "network", "pair"], sort=False)[["right", "other side"]].mean().reset_index()
    means["mixed_up"] = means["other side"] >= MIXED_UP * means.right
    rows = []
    for arm, found in means.groupby("arm", sort=False):
        runs = found.groupby(["seed", "network"], sort=False).mixed_up.any()
        rows.append({"arm": arm, "networks": len(runs), "mixed_up": int(runs.sum()),
                     "pairs": ", ".join(found.pair[found.mixed_up].unique())})
    return pd.DataFrame(rows, columns=["arm", "networks", "mixed_up", "pairs"])


def _at_others(points: NDArray, persons: CropSet, length: NDArray) -> NDArray[np.bool_]:
    """Bool (N, K): within reach of the same joint of another person of the photo."""
    found, true = (canvas_to_photo(places, persons.crop_matrix) for places in (points, persons.keypoints))
    reach = HEADLINE_THRESHOLD * length / persons.crop_matrix[:, 0, 0]  # photo px
    near = np.zeros(persons.visibility.shape, bool)
    order = np.argsort(persons.image_id, kind="stable")
    photo, most = persons.image_id[order], np.unique(persons.image_id, return_counts=True)[1].max(initial=0)
    for gap in range(1, most):  # people of a photo stand together: each meets the one that many places further on
        same = photo[:-gap] == photo[gap:]
        first, second = order[:-gap][same], order[gap:][same]
        for one, other in ((first, second), (second, first)):
            distance = np.linalg.norm(found[one] - true[other], axis=-1)
            near[one] |= (distance <= reach[one, None]) & (persons.visibility[other] > 0)
    return near

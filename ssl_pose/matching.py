"""Which predictions found which people, from the committed tables of persons and predictions alone."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from ssl_pose.crops import CropSet
from ssl_pose.predictions import Predictions, dequantize
from ssl_pose.scoring import coco_results, ground_truth
from ssl_pose.skeleton import NUM_KEYPOINTS


@dataclass(frozen=True)
class Matches:
    """D predictions of one network, best first, against the people of I photos, at T OKS thresholds."""

    photo: NDArray[np.int64]  # (D,) index of the prediction's photo
    correct: NDArray[np.bool_]  # (T, D) whether it found somebody
    people: NDArray[np.int64]  # (I,) people of each photo


def persons_of(table: pd.DataFrame) -> CropSet:
    """The validation persons of data/val_persons.parquet as crops without pixels."""
    matrix = np.tile(np.eye(3), (len(table), 1, 1))
    for row in range(2):
        for column in range(3):
            matrix[:, row, column] = table[f"m{row}{column}"]
    points = [dequantize(_joints(table, axis)) for axis in "xy"]
    count = len(table)
    return CropSet(
        crops=np.zeros((count, 1, 1, 3), np.uint8), keypoints=np.stack(points, -1),
        visibility=_joints(table, "v").astype(np.uint8), crop_matrix=matrix, image_id=table.image_id.to_numpy(),
        annotation_id=table.annotation_id.to_numpy(), area=table.area.to_numpy(float),
        box_xywh=table[["box_x", "box_y", "box_w", "box_h"]].to_numpy(float), mean_color=np.zeros(3, np.float32),
        canvas_size=(1, 1), input_size=(1, 1), annotations_sha256="", content_sha256="",
    )


def match_people(persons: CropSet, predictions: Predictions) -> Matches:
    """COCOeval's greedy matching of one network's predictions, one a person, over all areas."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = ground_truth(persons)
        found = coco_results(persons, dequantize(predictions.keypoints), predictions.score)
        evaluation = COCOeval(truth, truth.loadRes(found), "keypoints")
        evaluation.evaluate()
    photos = evaluation.evalImgs[: len(evaluation.params.imgIds)]  # the first of three areas is all of them
    score = np.concatenate([photo["dtScores"] for photo in photos])
    order = np.argsort(-score, kind="mergesort")  # as COCOeval sorts
    number = np.repeat(np.arange(len(photos)), [len(photo["dtScores"]) for photo in photos])
    correct = np.concatenate([photo["dtMatches"] > 0 for photo in photos], axis=1)
    people = np.array([np.count_nonzero(photo["gtIgnore"] == 0) for photo in photos])
    return Matches(number[order], correct[:, order], people)


def _joints(table: pd.DataFrame, prefix: str) -> NDArray:
    return np.stack([table[f"{prefix}_{joint}"].to_numpy() for joint in range(NUM_KEYPOINTS)], -1)

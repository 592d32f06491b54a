"""Scores of predicted persons against their annotations: OKS AP and AR by pycocotools, PCK.

Every person is found: crops are cut from ground-truth boxes, so there is one prediction for each annotated
person and no suppression of doubles. A prediction's score is the mean confidence of its 17 keypoints (the
published peers take the mean over those above 0.2). Persons that the selection of `coco.py` leaves out are no
part of the truth, neither as hits nor as regions to ignore. AP, AR and PCK are percent; what is not defined
(no large person, no annotated ear) is None.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssl_pose.crops import CropSet
from ssl_pose.metrics import box_length, pck, pck_per_joint, torso_length
from ssl_pose.predictions import Predictions, dequantize, quantize
from ssl_pose.skeleton import KEYPOINT_NAMES, NUM_KEYPOINTS

HEADLINE_THRESHOLD = 0.2  # of the PCK that tables show
SUMMARY = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")  # COCOeval's order
PERSON = 1  # COCO's category


def score_network(
    crops: CropSet, predictions: Predictions, thresholds: Sequence[float], reference: str
) -> dict[str, object]:
    """AP and AR of COCO, PCK at each of `thresholds` and per joint, of one network on N persons."""
    keypoints = dequantize(predictions.keypoints)
    true = dequantize(quantize(crops.keypoints))
    length = reference_lengths(crops, reference)
    shares = pck_per_joint(keypoints, true, crops.visibility, length, HEADLINE_THRESHOLD)
    return {
        **score_coco(crops, keypoints, predictions.score),
        "pck": {
            str(threshold): percent(pck(keypoints, true, crops.visibility, length, threshold))
            for threshold in sorted({*thresholds, HEADLINE_THRESHOLD})
        },
        "pck_per_joint": dict(zip(KEYPOINT_NAMES, map(percent, shares), strict=True)),
    }


def score_coco(crops: CropSet, keypoints: NDArray, score: NDArray) -> dict[str, float | None]:
    """COCO's ten numbers (SUMMARY) for keypoints (N, 17, 2) in canvas px with person scores (N,)."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and its table
        truth = ground_truth(crops)
        evaluation = COCOeval(truth, truth.loadRes(coco_results(crops, keypoints, score)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: percent(value) if value >= 0 else None
        for name, value in zip(SUMMARY, evaluation.stats.tolist(), strict=True)
    }


def coco_results(crops: CropSet, keypoints: NDArray, score: NDArray) -> list[dict]:
    """Keypoints (N, 17, 2) in canvas px with scores (N,) as pycocotools reads results, in photo px."""
    rows = _flat(crops, keypoints, np.ones(keypoints.shape[:2]))
    return [
        {"image_id": image, "category_id": PERSON, "keypoints": row, "score": value}
        for image, row, value in zip(crops.image_id.tolist(), rows, score.tolist(), strict=True)
    ]


def ground_truth(crops: CropSet) -> COCO:
    """The annotations of the N persons as a COCO object in memory; ids count from 1, since 0 means unmatched.

    Points are quantised as the stored table of persons has them, so that scores from either are the same.
    """
    keypoints = _flat(crops, dequantize(quantize(crops.keypoints)), crops.visibility)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in np.unique(crops.image_id).tolist()],
        "categories": [{"id": PERSON, "name": "person"}],
        "annotations": [
            {"id": row + 1, "image_id": image, "category_id": PERSON, "iscrowd": 0, "area": area, "bbox": box,
             "keypoints": points, "num_keypoints": count}
            for row, (image, area, box, points, count) in enumerate(zip(
                crops.image_id.tolist(), crops.area.tolist(), crops.box_xywh.tolist(), keypoints,
                (crops.visibility > 0).sum(1).tolist(), strict=True
            ))
        ],
    }
    truth.createIndex()
    return truth


def canvas_to_photo(points: NDArray, crop_matrix: NDArray) -> NDArray[np.float64]:
    """Points (N, K, 2) in canvas px, as photo px, by the inverse of `crop_matrix` (N, 3, 3)."""
    inverse = np.linalg.inv(crop_matrix)
    return np.einsum("nij,nkj->nki", inverse[:, :2, :2], points) + inverse[:, None, :2, 2]


def reference_lengths(crops: CropSet, reference: str) -> NDArray[np.float32]:
    """PCK's reference lengths (N,) in canvas px: 'torso' (else from the box), or 'box' for every person."""
    zoom = crops.crop_matrix[:, :1, 0]  # canvas px per photo px, the same along both axes
    box = crops.box_xywh * zoom  # only its extent is used
    length = box_length(box) if reference == "box" else torso_length(crops.keypoints, crops.visibility, box)
    return length.astype(np.float32)


def percent(share: float) -> float | None:
    """A share as percent; None where it is not a number."""
    return None if math.isnan(share) else 100.0 * float(share)


def mean_of_known(scores: Sequence[float | None]) -> float | None:
    """The mean of the scores that are defined; None where none is."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def _flat(crops: CropSet, points: NDArray, flags: NDArray) -> list[list[float]]:
    """Points (N, 17, 2) in canvas px and flags (N, 17) as COCO's x, y, v triples in photo px, N lists of 51."""
    triples = np.concatenate([canvas_to_photo(points, crops.crop_matrix), flags[..., None]], -1)
    return triples.reshape(len(points), 3 * NUM_KEYPOINTS).tolist()

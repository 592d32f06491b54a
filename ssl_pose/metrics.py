"""Distances between predicted and true keypoints as scores: OKS and PCK, arrays in, numbers out.

Predictions and truth are (N, K, 2) in one frame, any frame, with areas and reference lengths of that frame.
`visibility` is COCO's: 0 not annotated, 1 hidden, 2 seen; 1 and 2 both count. Scores are shares in [0, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssl_pose.skeleton import OKS_SIGMAS, TORSO_DIAGONALS

BOX_TO_TORSO = 0.4  # a standing person's torso over the diagonal of their box, about


def oks(predicted: NDArray, true: NDArray, visibility: NDArray, area: NDArray) -> NDArray:
    """Object keypoint similarity (N,) of persons of `area` (N,) px^2; NaN where no keypoint is annotated.

    The mean over annotated keypoints of exp(-d^2 / (2 area (2 sigma_k)^2)), as pycocotools computes it.
    """
    labeled = visibility > 0
    squared_distance = np.square(np.asarray(predicted, np.float64) - true).sum(-1)  # (N, K)
    spread = np.square(2 * np.array(OKS_SIGMAS)) * 2 * (np.asarray(area, np.float64)[:, None] + np.spacing(1))
    similarity = np.where(labeled, np.exp(-squared_distance / spread), 0.0)
    with np.errstate(invalid="ignore"):
        return similarity.sum(1) / labeled.sum(1)


def torso_length(true: NDArray, visibility: NDArray, box_xywh: NDArray) -> NDArray:
    """Reference lengths (N,) for PCK: the mean over those shoulder-to-opposite-hip distances annotated.

    Persons with neither get the `box_length` of their boxes `box_xywh` (N, 4), in the keypoints' frame.
    """
    shoulder, hip = np.array(TORSO_DIAGONALS).T
    labeled = (visibility[:, shoulder] > 0) & (visibility[:, hip] > 0)  # (N, 2)
    length = np.linalg.norm(np.asarray(true, np.float64)[:, shoulder] - true[:, hip], axis=-1)
    mean = (length * labeled).sum(1) / np.maximum(labeled.sum(1), 1)
    return np.where(mean > 0, mean, box_length(box_xywh))


def box_length(box_xywh: NDArray) -> NDArray:
    """Reference lengths (N,) for PCK from boxes (N, 4) alone: 0.4 times their diagonals."""
    return BOX_TO_TORSO * np.linalg.norm(np.asarray(box_xywh, np.float64)[:, 2:], axis=-1)


def correct_keypoints(
    predicted: NDArray,
    true: NDArray,
    visibility: NDArray,
    reference_length: NDArray,
    threshold: float,
    confidence: NDArray | None = None,
    confidence_threshold: float = 0.0,
) -> NDArray:
    """Bool (N, K): annotated, and predicted within `threshold` times the person's `reference_length` (N,).

    With `confidence` (N, K), a keypoint below `confidence_threshold` is wrong wherever it lies; so is one
    that is not finite.
    """
    distance = np.linalg.norm(np.asarray(predicted, np.float64) - true, axis=-1)
    correct = (visibility > 0) & (distance <= threshold * np.asarray(reference_length)[:, None])
    return correct if confidence is None else correct & (confidence >= confidence_threshold)


def pck(
    predicted: NDArray,
    true: NDArray,
    visibility: NDArray,
    reference_length: NDArray,
    threshold: float,
    confidence: NDArray | None = None,
    confidence_threshold: float = 0.0,
) -> float:
    """Share of all annotated keypoints that `correct_keypoints` accepts; NaN where none is annotated."""
    correct = correct_keypoints(
        predicted, true, visibility, reference_length, threshold, confidence, confidence_threshold
    )
    return _share(correct.sum(), (visibility > 0).sum()).item()


def pck_per_joint(
    predicted: NDArray, true: NDArray, visibility: NDArray, reference_length: NDArray, threshold: float
) -> NDArray:
    """Share (K,) of each joint's annotated keypoints that are correct; NaN for a joint never annotated."""
    correct = correct_keypoints(predicted, true, visibility, reference_length, threshold)
    return _share(correct.sum(0), (visibility > 0).sum(0))


def peer_accuracy(predicted: NDArray, true: NDArray, visibility: NDArray, size: tuple[int, int]) -> float:
    """The PCK that the field's training scripts print, defects and all: a mean over joints, NaN without any.

    Cells (N, K, 2) of the highest peaks in heatmaps of `size` (h, w), against those of the true heatmaps. As
    published (`accuracy(thr=0.5)` of SimpleBaseline and its forks): x is divided by h / 10 and y by w / 10, which
    are exchanged; a joint whose true cell lies at 0 or 1 along an axis is skipped; joints count the same.
    """
    scale = np.array(size, float) / 10
    distance = np.linalg.norm(np.asarray(predicted, float) / scale - np.asarray(true, float) / scale, axis=-1)
    counted = (visibility > 0) & (np.asarray(true) > 1).all(-1)
    shares = _share(((distance < 0.5) & counted).sum(0), counted.sum(0))
    return float(np.nanmean(shares)) if counted.any() else float("nan")


def _share(part: NDArray, whole: NDArray) -> NDArray:
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole)

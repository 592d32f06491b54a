"""From one pose per box to a photo's detections: rescored by the keypoints, doubles suppressed by OKS.

As SimpleBaseline does it (Xiao et al. 2018, human-pose-estimation.pytorch): a person's score is that of the box times
the mean confidence of the keypoints above 0.2, and of two persons whose OKS is above 0.9 the lower is dropped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssl_pose.metrics import oks

MIN_CONFIDENCE = 0.2  # of a keypoint that enters the score
MAX_OKS = 0.9  # of two different persons


def rescore(
    box_score: NDArray, confidence: NDArray, min_confidence: float = MIN_CONFIDENCE
) -> NDArray[np.float64]:
    """Scores (N,): of boxes (N,), times the mean of the confidences (N, K) above `min_confidence`; 0 without any."""
    sure = confidence > min_confidence
    total = np.where(sure, confidence, 0.0).sum(1, dtype=np.float64)
    return np.asarray(box_score, np.float64) * total / np.maximum(sure.sum(1), 1)


def suppress_oks(
    keypoints: NDArray, score: NDArray, area: NDArray, max_oks: float = MAX_OKS
) -> NDArray[np.int64]:
    """Indices of the persons of one photo that stay, best first.

    Of keypoints (N, K, 2), scores (N,) and areas (N,) in px^2; the OKS of two persons is over all K keypoints, with
    the mean of their areas. A person stays unless its OKS with a better one that stays is above `max_oks`.
    """
    order = np.argsort(-np.asarray(score), kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        everywhere = np.ones((len(rest), keypoints.shape[1]), np.uint8)
        similarity = oks(keypoints[rest], keypoints[best], everywhere, (area[rest] + area[best]) / 2)
        order = rest[similarity <= max_oks]
    return np.array(kept, np.int64)


def suppress_by_photo(
    image_id: NDArray, keypoints: NDArray, score: NDArray, area: NDArray, max_oks: float = MAX_OKS
) -> NDArray[np.int64]:
    """Indices, in rising order, of the persons (N,) that stay when each photo is suppressed by itself."""
    order = np.argsort(image_id, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(image_id[order])) + 1)
    kept = [rows[suppress_oks(keypoints[rows], score[rows], area[rows], max_oks)] for rows in groups if len(rows)]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)

"""Poses drawn on a whole photo, pixel for pixel."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw

from ssl_pose.pictures import side_color
from ssl_pose.skeleton import LIMBS

MIN_CONFIDENCE = 0.2  # of a joint that is drawn
THIN = 1 / 220  # of a person's size, the width of a limb


def draw_people(
    photo: Image.Image, keypoints: np.ndarray, confidence: np.ndarray, min_confidence: float = MIN_CONFIDENCE
) -> Image.Image:
    """A copy of `photo` with the limbs of poses (P, K, 2) px whose both ends have the confidence (P, K).

    Blue limbs are the person's left, orange ones their right, green ones go across.
    """
    drawn = photo.copy()
    canvas = ImageDraw.Draw(drawn)
    for points, sure in zip(keypoints, confidence >= min_confidence, strict=True):
        if not sure.any():
            continue
        extent = np.ptp(points[sure], axis=0).max()
        width = max(2, round(extent * THIN * 2.5))
        for limb in LIMBS:
            if sure[list(limb)].all():
                ends = [tuple(points[joint] + 0.5) for joint in limb]  # Pillow counts from the corner
                canvas.line(ends, fill=_color(limb), width=width)
        for x, y in points[sure] + 0.5:
            canvas.ellipse([x - width, y - width, x + width, y + width], fill="white", outline="black")
    return drawn


def _color(limb: tuple[int, int]) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in to_rgb(side_color(limb)))

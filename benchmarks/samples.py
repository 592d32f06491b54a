"""Persons to measure with: noise has the cost of photos."""

from __future__ import annotations

import numpy as np

from ssl_pose.config import Config
from ssl_pose.crops import CropSet
from ssl_pose.photos import canvas_size_for


def random_crops(config: Config, count: int) -> CropSet:
    """`count` persons of noise with keypoints all over the canvas, in the sizes of `config`."""
    random = np.random.default_rng(0)
    height, width = canvas_size_for(config.data.input_size, config.data.canvas_scale)
    ids = np.arange(count)
    return CropSet(
        crops=random.integers(0, 256, (count, height, width, 3), np.uint8),
        keypoints=random.uniform([0, 0], [width, height], (count, 17, 2)).astype(np.float32),
        visibility=np.full((count, 17), 2, np.uint8), crop_matrix=np.tile(np.eye(3), (count, 1, 1)),
        image_id=ids, annotation_id=ids, area=np.full(count, 0.5 * height * width),
        box_xywh=np.tile([0.0, 0.0, width, height], (count, 1)), mean_color=np.full(3, 0.5, np.float32),
        canvas_size=(height, width), input_size=config.data.input_size, annotations_sha256="", content_sha256="",
    )

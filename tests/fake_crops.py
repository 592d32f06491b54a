"""Packed crops made in memory: every keypoint is a bright dot of its own colour on a noisy canvas."""

import hashlib
import json
from pathlib import Path

import numpy as np

from ssl_pose.crops import PERSON_ARRAYS, SCHEMA, CropSet

INPUT_SIZE = (48, 32)
CANVAS_SIZE = (72, 48)


def make_crops(count: int = 24, seed: int = 0) -> CropSet:
    """`count` persons, two on each image, with keypoints all over the input window."""
    random = np.random.default_rng(seed)
    height, width = CANVAS_SIZE
    keypoints = random.uniform([12, 16], [width - 13, height - 17], (count, 17, 2)).astype(np.float32)
    colors = np.random.default_rng(1).integers(60, 255, (17, 3))
    crops = random.integers(0, 60, (count, height, width, 3)).astype(np.uint8)
    for person in range(count):
        for (x, y), color in zip(keypoints[person].round().astype(int), colors, strict=True):
            crops[person, y - 1 : y + 2, x - 1 : x + 2] = color
    ids = np.arange(count)
    return CropSet(
        crops=crops, keypoints=keypoints, visibility=np.full((count, 17), 2, np.uint8),
        crop_matrix=np.tile(np.eye(3), (count, 1, 1)), image_id=100 + ids // 2, annotation_id=1000 + ids,
        area=np.full(count, 900.0), box_xywh=np.tile([8.0, 12.0, 32.0, 48.0], (count, 1)),
        mean_color=np.full(3, 0.3, np.float32), canvas_size=CANVAS_SIZE, input_size=INPUT_SIZE,
        annotations_sha256="a" * 64, content_sha256="b" * 64,
    )


def pack(crops: CropSet, folder: Path) -> Path:
    """`crops` written to `folder` in the packed format."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "crops.npy", crops.crops)
    arrays = {name: getattr(crops, name).astype(dtype) for name, (_, dtype) in PERSON_ARRAYS.items()}
    np.savez(folder / "persons.npz", **arrays)
    manifest = {
        "schema": SCHEMA, "num_persons": len(crops), "input_size": crops.input_size, "canvas_size": crops.canvas_size,
        "mean_color": crops.mean_color.tolist(), "annotations_sha256": crops.annotations_sha256,
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                   for name in ("crops.npy", "persons.npz")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder

"""Views and targets a second at 256x192: ours against the conventional path, written here as the reference.

The conventional path is that of the field's dataset classes: per sample one JPEG decoded, one cv2.warpAffine, one
Gaussian a joint in NumPy. The workers of a DataLoader do this side by side; what they add, collating and handing
over, is left out in its favour. Goals: at least 3 times it, decoding included, per core; at most 5 % of the training
step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch.nn import functional

from benchmarks.samples import random_crops
from benchmarks.step import build_case, on_a_cpu, whole_step
from benchmarks.timing import time_alternately
from ssl_pose.batches import Pool, draw_labeled, draw_unlabeled, open_pool
from ssl_pose.config import Config
from ssl_pose.profiles import open_profile

PHOTO = (480, 640)  # height, width: COCO's most frequent size
BATCH = 32
ROUNDS = 5
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def photo(random: np.random.Generator) -> np.ndarray:
    """Colours that vary smoothly, with a little noise: about as many bytes in JPEG as a real photo has."""
    coarse = random.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, PHOTO[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return (smooth + random.integers(-12, 13, (*PHOTO, 3))).clip(0, 255).astype(np.uint8)


def conventional_sample(image: np.ndarray, keypoints: np.ndarray, random: np.random.Generator) -> tuple:
    """One view (3, 256, 192) and its heatmaps (17, 64, 48), as a dataset class makes them."""
    angle, scale = random.normal(0, 30), random.uniform(0.75, 1.25)
    matrix = cv2.getRotationMatrix2D((320, 240), angle, scale * 256 / 480)
    matrix[:, 2] += (96 - 320, 128 - 240)
    view = cv2.warpAffine(image, matrix, (192, 256), flags=cv2.INTER_LINEAR)
    view = ((view.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    points = (keypoints @ matrix[:, :2].T + matrix[:, 2]) / 4
    heatmaps = np.zeros((17, 64, 48), np.float32)
    y, x = np.mgrid[0:64, 0:48]
    for joint, (column, row) in enumerate(points):
        heatmaps[joint] = np.exp(-((x - column) ** 2 + (y - row) ** 2) / 8)
    return view, heatmaps


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Samples a second of the three paths, and the input's share of the whole method's step."""
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    photos = [photo(random) for _ in range(4)]
    encoded = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1] for image in photos]
    points = random.uniform((0, 0), PHOTO[::-1], (17, 2))
    config = open_profile("coco_partial_1k").config
    config = replace(config, training=replace(config.training, labeled_batch=BATCH))
    pool, rows = open_pool(random_crops(config, 64), device), torch.arange(64)
    seconds = time_alternately({
        "conventional, with decoding": lambda: [
            conventional_sample(cv2.imdecode(encoded[i % 4], cv2.IMREAD_COLOR), points, random) for i in range(BATCH)],
        "conventional, photos in memory": lambda: [
            conventional_sample(photos[i % 4], points, random) for i in range(BATCH)],
        "ours": lambda: draw_labeled(pool, rows, config, 0, "bench", 0),
        "ours, bilinear sampling alone": sampling_alone(pool, config),
    }, ROUNDS, device)
    table = [{"path": name, "samples/s": BATCH / value} for name, value in seconds.items()]
    shares = {name: share_of_step(open_profile(name).config, device) for name in ("default", "coco_partial_1k")}
    table += [{"path": f"share of a step of {name}, whole method, K 4", "share": share}
              for name, share in shares.items()]
    ours = seconds["ours"]
    return table, {"ours over conventional with decoding": ours / seconds["conventional, with decoding"],
                   "ours over conventional in memory": ours / seconds["conventional, photos in memory"],
                   **{f"share of a step of {name}": share for name, share in shares.items()}}


def sampling_alone(pool: Pool, config: Config) -> Callable[[], object]:
    """grid_sample of as many views, one at a time, from a canvas that is float already: the floor of our path."""
    size = config.data.input_size
    canvas = pool.gather(torch.tensor([0])).float().contiguous()
    matrix = torch.eye(2, 3, device=pool.device)[None] * 0.8
    grid = functional.affine_grid(matrix, (1, 3, *size), align_corners=False)
    return lambda: [functional.grid_sample(canvas, grid, align_corners=False) for _ in range(BATCH)]


def share_of_step(config: Config, device: torch.device) -> float:
    """Seconds of drawing both batches over those of the whole step."""
    config = on_a_cpu(config) if device.type == "cpu" else config
    case = build_case(config, "whole method", 4, device)
    rows = torch.arange(len(case.pool.keypoints))

    def draw() -> None:
        draw_labeled(case.pool, rows, case.config, 0, "bench", 0)
        draw_unlabeled(case.pool, rows, case.arm, case.config, 0, 0)

    rounds = ROUNDS if config.model.architecture == "unet" else 3
    seconds = time_alternately({"whole": whole_step(case), "input": draw}, rounds, device)
    return seconds["input"] / seconds["whole"]

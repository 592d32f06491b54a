"""[I/O] Poses of people in photos: networks with the conventions they were trained with, one pose for each box.

Photos are read and cut by threads while the networks predict, so that memory holds a few photos whatever their
number. Points are photo px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ssl_pose.augment import normalize_images
from ssl_pose.coco import PersonRecords
from ssl_pose.config import ModelConfig
from ssl_pose.evaluation import predict_reference
from ssl_pose.heatmap import decode_heatmaps, heatmap_to_image_points
from ssl_pose.photos import FILL_COLOR, crop_matrices, cut_person, read_photo
from ssl_pose.scoring import canvas_to_photo
from ssl_pose.skeleton import NUM_KEYPOINTS

AHEAD = 4  # photos a thread that are cut before they are needed


@dataclass(frozen=True)
class PoseModel:
    """One or two networks, in eval mode on one device, and how their inputs are made."""

    networks: Sequence[nn.Module]
    model: ModelConfig
    input_size: tuple[int, int]  # height, width, px
    box_padding: float
    fill_color: tuple[int, int, int] = FILL_COLOR  # beyond the photo
    color_order: str = "rgb"  # of the input's channels; ImageNet's mean and std are always in the order r, g, b
    precision: str = "fp32"

    @property
    def device(self) -> torch.device:
        return next(self.networks[0].parameters()).device


@dataclass(frozen=True)
class Poses:
    """What one network, or the mean of two, says of N persons."""

    keypoints: NDArray[np.float64]  # (N, K, 2) photo px
    confidence: NDArray[np.float32]  # (N, K)


def predict_photo(model: PoseModel, photo: Image.Image, boxes: NDArray, decoder: str = "dark",
                  flip_test: bool = True) -> Poses:
    """The poses in an RGB photo of the persons in `boxes` (N, 4), x y width height; the mean of two networks."""
    if not len(boxes):
        return Poses(np.zeros((0, NUM_KEYPOINTS, 2)), np.zeros((0, NUM_KEYPOINTS), np.float32))
    crops, matrices = _cut(model, photo, np.asarray(boxes, np.float64))
    return _predict(model, crops, matrices, decoder, flip_test)[-1]


def predict_persons(
    model: PoseModel, directory: str | Path, persons: PersonRecords, decoder: str, flip_test: bool,
    batch_size: int = 64, num_threads: int = 4, progress: Callable[[int, int], None] | None = None,
) -> list[Poses]:
    """The poses of N persons of a COCO directory: of each network, then of the mean of two."""
    parts: list[list[Poses]] = []
    done = 0
    for crops, matrices in _batches(model, Path(directory), persons, batch_size, num_threads):
        parts.append(_predict(model, crops, matrices, decoder, flip_test))
        done += len(crops)
        if progress:
            progress(done, len(persons))
    return [
        Poses(np.concatenate([part.keypoints for part in column]), np.concatenate([part.confidence for part in column]))
        for column in zip(*parts, strict=True)
    ]


def _batches(
    model: PoseModel, directory: Path, persons: PersonRecords, batch_size: int, num_threads: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray]]:
    """Crops (B, H, W, 3) and their matrices (B, 3, 3), person by person, `batch_size` at a time."""
    starts = np.flatnonzero(np.r_[True, persons.image_id[1:] != persons.image_id[:-1]])
    groups = np.split(np.arange(len(persons)), starts[1:])

    def cut(rows: NDArray) -> tuple[NDArray, NDArray]:
        size = tuple(persons.photo_size[rows[0]].tolist())
        return _cut(model, read_photo(directory / persons.file_name[rows[0]], size), persons.box_xywh[rows])

    waiting: list[tuple[NDArray, NDArray]] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for crops, matrices in _map_ahead(pool, cut, groups, num_threads * AHEAD):
            waiting += zip(crops, matrices, strict=True)
            while len(waiting) >= batch_size:
                yield tuple(map(np.stack, zip(*waiting[:batch_size], strict=True)))
                waiting = waiting[batch_size:]
    if waiting:
        yield tuple(map(np.stack, zip(*waiting, strict=True)))


def _map_ahead(pool: ThreadPoolExecutor, work: Callable, items: Sequence, ahead: int) -> Iterator:
    """`work` of each item, in order, with at most `ahead` results that nobody has taken yet."""
    rest = iter(items)
    pending = [pool.submit(work, item) for item in islice(rest, ahead)]
    while pending:
        result = pending.pop(0).result()
        pending += [pool.submit(work, item) for item in islice(rest, 1)]
        yield result


def _cut(model: PoseModel, photo: Image.Image, boxes: NDArray) -> tuple[NDArray[np.uint8], NDArray]:
    matrices = crop_matrices(boxes, model.input_size, model.input_size, model.box_padding)
    crops = [cut_person(photo, matrix, model.input_size, model.fill_color) for matrix in matrices]
    return np.stack(crops), matrices


@torch.inference_mode()
def _predict(
    model: PoseModel, crops: NDArray[np.uint8], matrices: NDArray, decoder: str, flip_test: bool
) -> list[Poses]:
    """Poses of crops (B, H, W, 3): of each network, then of the mean of two networks' heatmaps."""
    pixels = torch.from_numpy(crops).to(model.device).permute(0, 3, 1, 2)
    if model.color_order == "bgr":
        pixels = pixels.flip(1)
    images = normalize_images(pixels.float() / 255)
    heatmaps = [predict_reference(network, images, model.model, model.precision, flip_test)
                for network in model.networks]
    heatmaps += [torch.stack(heatmaps).mean(0)] if len(heatmaps) > 1 else []
    return [_decode(maps, matrices, model.model, decoder) for maps in heatmaps]


def _decode(heatmaps: Tensor, matrices: NDArray, model: ModelConfig, decoder: str) -> Poses:
    cells, confidence = decode_heatmaps(heatmaps, decoder, model.heatmap_sigma)
    points = heatmap_to_image_points(cells, model.heatmap_stride, model.heatmap_alignment)
    return Poses(canvas_to_photo(points.double().cpu().numpy(), matrices), confidence.cpu().numpy())

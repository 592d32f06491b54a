"""Predictions of a trained run on held-out persons, its headline scores, and the examples that figures show.

Every network of the run predicts, and so does the mean of two networks' heatmaps, numbered 2. Keypoints are in
canvas px. The headline of a run is the mean over two students (or over the EMA copies that teach them), the EMA
teacher of a teacher-student run, or the only network.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_pose.augment import identity_views
from ssl_pose.batches import Pool, open_pool, render_crops
from ssl_pose.config import ArmConfig, Config, ModelConfig
from ssl_pose.crops import CropSet, canvas_to_reference
from ssl_pose.files import write_bytes
from ssl_pose.geometry import (
    about,
    invert_affine,
    reflection,
    to_heatmap_matrix,
    transform_points,
    view_center,
    warp_heatmaps,
    warp_images,
)
from ssl_pose.heatmap import decode_heatmaps, heatmap_to_image_points
from ssl_pose.metrics import oks
from ssl_pose.model import load_networks, predict_heatmaps
from ssl_pose.predictions import Predictions, dequantize, quantize
from ssl_pose.pseudo_label import ensemble_heatmaps
from ssl_pose.pseudo_quality import PoolSample, draw_pool_views, take_views, view_heatmaps
from ssl_pose.scoring import HEADLINE_THRESHOLD, mean_of_known
from ssl_pose.training import choose_device

MEAN_OF_NETWORKS = 2  # its number among the networks of a run
FIGURE_1_JOINT = 16  # the right ankle
MIN_ANNOTATED = 9  # keypoints of a person shown as best or worst, where there are such persons
Networks = Sequence[nn.Module]
Reading = tuple[str, bool]  # decoder, and whether with flip test


def load_run(path: Path, config: Config) -> list[nn.Module]:
    """The networks of a run in eval mode, on the device and with the threads that the profile names.

    Students; after a teacher-student run's student its teacher; of two students with EMA copies that teach, the
    copies alone.
    """
    device = choose_device(config.training.device)
    if device.type == "cpu":
        torch.set_num_threads(config.training.num_threads)
    return load_networks(path, config.model, device)


def predict_keypoints(networks: Networks, crops: CropSet, config: Config) -> list[Predictions]:
    """Predictions of each network, and of the mean of their heatmaps if there are two, for N persons."""
    own = (config.evaluation.decoder, config.evaluation.flip_test)
    return predict_readings(networks, crops, config, [own])[own]


@torch.no_grad()
def predict_readings(
    networks: Networks, crops: CropSet, config: Config, readings: Sequence[Reading]
) -> dict[Reading, list[Predictions]]:
    """`predict_keypoints` by several decoders, with or without flip test, from the same heatmaps."""
    pool = open_pool(crops, next(networks[0].parameters()).device, config.training.crops_on_device)
    parts: dict[Reading, list] = {reading: [] for reading in readings}
    for rows in torch.arange(len(crops)).split(config.evaluation.batch_size):
        images = reference_images(pool, rows, config)
        for flip_test in sorted({flip for _, flip in readings}):
            heatmaps = [predict_reference(network, images, config.model, config.training.precision, flip_test)
                        for network in networks]
            heatmaps += [torch.stack(heatmaps).mean(0)] if len(networks) > 1 else []
            for reading in readings:
                if reading[1] == flip_test:
                    parts[reading].append([decode_to_canvas(maps, pool.to_reference, config.model, reading[0])
                                           for maps in heatmaps])
    return {reading: [_join(number, columns) for number, columns in enumerate(zip(*batches, strict=True))]
            for reading, batches in parts.items()}


def reference_images(pool: Pool, rows: Tensor, config: Config) -> Tensor:
    """Un-augmented network inputs (B, 3, H, W) of the crops at `rows` (B,)."""
    return render_crops(pool, pool.gather(rows), identity_views(len(rows), pool.device), config)


def predict_reference(
    network: nn.Module, images: Tensor, model: ModelConfig, precision: str, flip_test: bool
) -> Tensor:
    """Heatmaps (B, K, h, w) of images (B, 3, H, W), with `flip_test` averaged with those of their mirror images.

    The mirror is undone by its matrix, which is exact in both heatmap alignments; a flip of the array is so in
    one only.
    """
    heatmaps = predict_heatmaps(network, images, precision)
    if not flip_test:
        return heatmaps
    flip = torch.ones(len(images), dtype=torch.bool, device=images.device)
    mirror = about(reflection(flip), view_center(tuple(images.shape[-2:]), images.device))
    matrix = to_heatmap_matrix(mirror, model.heatmap_stride, model.heatmap_alignment)
    mirrored = predict_heatmaps(network, images.flip(-1), precision)
    return (heatmaps + warp_heatmaps(mirrored, matrix, tuple(heatmaps.shape[-2:]), flip)) / 2


def headline(networks: dict[str, dict], arm: ArmConfig) -> dict[str, float | None]:
    """AP, AR and PCK of a run: means over its reported networks; AP_ensemble of the mean heatmaps, or None."""
    reported = [networks[str(number)] for number in arm.reported_networks]
    both = networks.get(str(MEAN_OF_NETWORKS))
    return {
        "AP": mean_of_known([scores["AP"] for scores in reported]),
        "AR": mean_of_known([scores["AR"] for scores in reported]),
        "pck": mean_of_known([scores["pck"][str(HEADLINE_THRESHOLD)] for scores in reported]),
        "AP_ensemble": both["AP"] if both else None,
    }


def validation_examples(crops: CropSet, predictions: Predictions, count: int) -> dict[str, NDArray]:
    """The half of `count` persons with the highest OKS and the half with the lowest, best first.

    Crops are (E, H, W, 3) uint8 in the reference frame, keypoints (E, K, 2) reference px.
    """
    predicted = dequantize(predictions.keypoints)
    zoom = crops.crop_matrix[:, 0, 0]
    similarity = oks(predicted, crops.keypoints, crops.visibility, crops.area * zoom**2)
    annotated = (crops.visibility > 0).sum(1)
    shown = np.flatnonzero(annotated >= min(MIN_ANNOTATED, annotated.max(initial=0)))
    order = shown[np.argsort(-similarity[shown], kind="stable")]
    num_worst = min(count, len(order)) // 2
    rows = np.concatenate([order[: min(count, len(order)) - num_worst], order[len(order) - num_worst :]])
    offset = canvas_to_reference(crops.canvas_size, crops.input_size)[:2, 2].numpy()
    return {
        "crops": _reference_pixels(crops, rows),
        "persons": rows,
        "true_keypoints": crops.keypoints[rows] + offset,
        "predicted_keypoints": (predicted[rows] + offset).astype(np.float32),
        "visibility": crops.visibility[rows],
        "oks": similarity[rows],
    }


@torch.no_grad()
def pool_examples(
    network: nn.Module, crops: CropSet, sample: PoolSample, config: Config, arm: ArmConfig, seed: int, count: int
) -> dict[str, NDArray]:
    """The first `count` persons of the sample with an annotated right ankle, and `network`'s heatmaps of it.

    Images (P, H, W, 3) uint8; single views (P, V, h, w), average and maximum (P, h, w) float16 in the reference
    frame; the hidden label (P, 2) in cells.
    """
    shown = np.flatnonzero(sample.visibility[:, FIGURE_1_JOINT])[:count]
    views = take_views(draw_pool_views(config, len(sample.person), seed), torch.from_numpy(shown))
    rows = sample.person[shown]
    pool = open_pool(crops.subset(rows), next(network.parameters()).device, config.training.crops_on_device)
    aligned, valid = view_heatmaps(network, pool, torch.arange(len(rows)), views, config, arm)
    aligned = aligned[:, :, FIGURE_1_JOINT : FIGURE_1_JOINT + 1]  # (V, P, 1, h, w)
    stored = {mode: ensemble_heatmaps(aligned, valid, mode)[:, 0] for mode in ("average", "maximum")}
    stored["single_views"] = (aligned * valid)[:, :, 0].transpose(0, 1)
    return {
        "pseudo_images": _reference_pixels(crops, rows),
        **{name: maps.cpu().numpy().astype(np.float16) for name, maps in stored.items()},
        "true_pseudo_keypoint": dequantize(sample.keypoints[shown, FIGURE_1_JOINT]).astype(np.float32),
    }


def write_examples(path: Path, arrays: dict[str, NDArray]) -> None:
    """Writes arrays by name to `path`, an .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(buffer.getvalue(), path)


def decode_to_canvas(
    heatmaps: Tensor, to_reference: Tensor, model: ModelConfig, decoder: str
) -> tuple[NDArray, NDArray]:
    """Keypoints (B, K, 2) in q64 canvas px and confidences (B, K) in float16 of heatmaps (B, K, h, w).

    `to_reference` (3, 3) maps canvas px to reference px.
    """
    cells, confidence = decode_heatmaps(heatmaps, decoder, model.heatmap_sigma)
    points = heatmap_to_image_points(cells, model.heatmap_stride, model.heatmap_alignment)
    to_canvas = invert_affine(to_reference[None]).expand(len(points), 3, 3)
    confidence = confidence.nan_to_num(nan=0.0).cpu().numpy().astype(np.float16)
    return quantize(transform_points(to_canvas, points).cpu().numpy()), confidence


def _join(number: int, columns: Sequence[tuple[NDArray, NDArray]]) -> Predictions:
    keypoints, confidence = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Predictions(number, keypoints, confidence, confidence.mean(1, dtype=np.float32))


def _reference_pixels(crops: CropSet, rows: NDArray) -> NDArray[np.uint8]:
    """The un-augmented inputs (B, H, W, 3) of the crops at `rows`, as stored pixels."""
    pixels = torch.from_numpy(np.ascontiguousarray(crops.crops[rows])).permute(0, 3, 1, 2)
    matrix = canvas_to_reference(crops.canvas_size, crops.input_size).expand(len(rows), 3, 3)
    images = warp_images(pixels, matrix, crops.input_size)
    return images.round().byte().permute(0, 2, 3, 1).contiguous().numpy()

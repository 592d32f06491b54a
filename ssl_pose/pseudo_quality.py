"""How good the pseudo-heatmaps of frozen networks are on persons of the unlabelled pool, whose labels are hidden.

The sample and its views depend on the seed and the labels alone, so that all arms of a seed with the same labels are
judged on the same persons seen through the same views: one weak view and `evaluation.num_views` more of the multi-view
family, whatever number the arm was trained with. Three pseudo-heatmaps are made of each: of the weak view alone
('none'), the average and the maximum of all. Coordinates are heatmap cells of the reference frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_pose.augment import Views, join_views, sample_views
from ssl_pose.batches import Pool, open_pool, render_crops
from ssl_pose.coco import DataError
from ssl_pose.config import ArmConfig, Config
from ssl_pose.crops import CropSet, canvas_to_reference
from ssl_pose.geometry import to_heatmap_matrix, transform_points
from ssl_pose.heatmap import argmax_keypoints, decode_heatmaps, image_to_heatmap_points
from ssl_pose.metrics import pck, peer_accuracy
from ssl_pose.model import predict_heatmaps
from ssl_pose.peaks import peak_structure
from ssl_pose.predictions import MODES, dequantize, quantize, thousandths, write_parquet
from ssl_pose.pseudo_label import align_to_reference, ensemble_heatmaps, estimate_uncertainty
from ssl_pose.scoring import HEADLINE_THRESHOLD, percent, reference_lengths
from ssl_pose.seeding import make_generator

READINGS = ("pck", "pck_above_threshold", "pck_refined", "peer_accuracy")  # of Table 1


@dataclass(frozen=True)
class PoolSample:
    """P persons of the pool and their hidden labels."""

    person: NDArray[np.int64]  # (P,) rows of the crops
    image_id: NDArray[np.int64]  # (P,) of their photos
    keypoints: NDArray[np.int32]  # (P, K, 2) q64 cells
    visibility: NDArray[np.uint8]  # (P, K)
    reference_length: NDArray[np.float32]  # (P,) cells


@dataclass(frozen=True)
class PoolPredictions:
    """What one network's pseudo-heatmaps say of the P persons of a sample, by mode."""

    network: int
    keypoints: dict[str, NDArray[np.int32]]  # (P, K, 2) q64 cells
    cells: dict[str, NDArray[np.int16]]  # (P, K, 2) of the highest cell, where a refined label lies
    confidence: dict[str, NDArray[np.float16]]  # (P, K)
    second_peak: dict[str, NDArray[np.float16]]  # (P, K) over the first
    num_peaks: dict[str, NDArray[np.int16]]  # (P, K) of at least half the first
    uncertainty: NDArray[np.float16]  # (P, K), over all views


def sample_pool(crops: CropSet, labeled: NDArray[np.bool_], config: Config, seed: int) -> PoolSample:
    """`evaluation.num_pseudo_persons` persons without labels (all, if there are fewer), drawn by a hash of their ids.

    `labeled` (N,) marks who may not be drawn. Persons come in the order of the crops. Raises `DataError` where nobody
    is without labels.
    """
    candidates = np.flatnonzero(~labeled)
    if not len(candidates):
        raise DataError("every person is labelled, so no pseudo-label can be judged; lower splits.label_count")
    keys = [hashlib.sha256(f"{seed}:pool:{crops.annotation_id[row]}".encode()).digest() for row in candidates]
    drawn = sorted(range(len(candidates)), key=keys.__getitem__)[: config.evaluation.num_pseudo_persons]
    person = np.sort(candidates[drawn])
    stride, alignment = config.model.heatmap_stride, config.model.heatmap_alignment
    to_reference = canvas_to_reference(crops.canvas_size, crops.input_size).expand(len(person), 3, 3)
    points = transform_points(to_reference, torch.from_numpy(crops.keypoints[person]))
    length = reference_lengths(crops, config.evaluation.pck_reference)[person] / stride
    return PoolSample(
        person=person,
        image_id=crops.image_id[person],
        keypoints=quantize(image_to_heatmap_points(points, stride, alignment).numpy()),
        visibility=crops.visibility[person],
        reference_length=length.astype(np.float32),
    )


def judged_persons(
    train: CropSet, val: CropSet, labeled: NDArray[np.bool_]
) -> tuple[CropSet, NDArray[np.bool_]]:
    """The persons on whom pseudo-labels are judged, and a mask of those who may not be drawn.

    They are those of the pool whose labels are hidden. Where nobody of the pool was ever annotated, as in
    COCO-Full, they are the validation persons, whom training has not seen either.
    """
    hidden = ~labeled & (train.visibility > 0).any(1)
    if hidden.any() or labeled.all():
        return train, ~hidden
    return val, np.zeros(len(val), bool)


def draw_pool_views(config: Config, num_persons: int, seed: int, strength: float = 1.0) -> list[Views]:
    """The V views of each person, weak first; drawn on the CPU, so that every device sees the same.

    `strength` multiplies the widths of the extra views.
    """
    families = [("weak", config.views.weak)]
    families += [(f"view{k}", config.views.multi.scaled(strength)) for k in range(config.evaluation.num_views)]
    return [
        sample_views(family, num_persons, config.data.input_size, make_generator(seed, "pool_quality", name))
        for name, family in families
    ]


@torch.no_grad()
def predict_pool(
    network: nn.Module, number: int, crops: CropSet, sample: PoolSample, config: Config, arm: ArmConfig, seed: int,
    strength: float = 1.0,
) -> PoolPredictions:
    """The peaks of the three pseudo-heatmaps of each sampled person, and the uncertainty over all views."""
    device = next(network.parameters()).device
    pool = open_pool(crops.subset(sample.person), device, config.training.crops_on_device)
    views = draw_pool_views(config, len(sample.person), seed, strength)
    batch = max(1, config.evaluation.batch_size // len(views))
    parts: dict[str, list[_Peaks]] = {mode: [] for mode in MODES}
    uncertainties = []
    for part in torch.arange(len(sample.person)).split(batch):
        aligned, valid = view_heatmaps(network, pool, part, take_views(views, part), config, arm)
        uncertainties.append(estimate_uncertainty(aligned, valid))
        for mode in MODES:
            parts[mode].append(_read_peaks(ensemble_heatmaps(aligned, valid, mode), config))
    peaks = {mode: _Peaks(*map(torch.cat, zip(*parts[mode], strict=True))) for mode in MODES}
    return PoolPredictions(
        network=number,
        keypoints={mode: quantize(found.points.cpu().numpy()) for mode, found in peaks.items()},
        cells={mode: found.cells.short().cpu().numpy() for mode, found in peaks.items()},
        confidence={mode: _half(found.confidence) for mode, found in peaks.items()},
        second_peak={mode: _half(found.second) for mode, found in peaks.items()},
        num_peaks={mode: found.number.short().cpu().numpy() for mode, found in peaks.items()},
        uncertainty=_half(torch.cat(uncertainties)),
    )


class _Peaks(NamedTuple):
    """What one mode's pseudo-heatmaps (B, K, h, w) say."""

    points: Tensor  # (B, K, 2) decoded
    cells: Tensor  # (B, K, 2) the highest cell
    confidence: Tensor  # (B, K)
    second: Tensor  # (B, K)
    number: Tensor  # (B, K)


def _read_peaks(heatmaps: Tensor, config: Config) -> _Peaks:
    points, confidence = decode_heatmaps(heatmaps, config.evaluation.decoder, config.model.heatmap_sigma)
    cells, _ = argmax_keypoints(heatmaps)
    return _Peaks(points, cells, confidence.nan_to_num(nan=0.0),
                  *peak_structure(heatmaps.nan_to_num(nan=0.0), config.model.heatmap_sigma))


def view_heatmaps(
    network: nn.Module, pool: Pool, rows: Tensor, views: Sequence[Views], config: Config, arm: ArmConfig
) -> tuple[Tensor, Tensor]:
    """Heatmaps (V, B, K, h, w) of the views of the crops at `rows` (B,), in the reference frame, and where they are
    valid."""
    stride = config.model.heatmap_stride
    views = [Views(*(getattr(view, f.name).to(pool.device) for f in fields(view))) for view in views]
    canvases = pool.gather(rows)
    images = render_crops(pool, canvases, join_views(views), config)
    heatmaps = predict_heatmaps(network, images, config.training.precision).unflatten(0, (len(views), len(rows)))
    matrix = torch.stack([to_heatmap_matrix(v.matrix, stride, config.model.heatmap_alignment) for v in views])
    aligned, valid = align_to_reference(heatmaps, matrix, torch.stack([view.flip for view in views]))
    return aligned, torch.ones_like(valid) if arm.view_fill == "zero" else valid


def take_views(views: Sequence[Views], index: Tensor) -> list[Views]:
    """The views of the persons at `index` (B,)."""
    return [view.rows(index) for view in views]


def score_pool(
    predictions: Sequence[PoolPredictions], sample: PoolSample, confidence_threshold: float, size: tuple[int, int]
) -> dict[str, dict[str, float | None]]:
    """By mode, in percent over all annotated joints and label networks (each counts the same).

    Readings of the PCK: `pck` counts the peak of every joint; `pck_above_threshold` a peak under the threshold as
    wrong; `pck_refined` the refined labels, which lie at the centres of cells, of the joints that the threshold
    keeps; `peer_accuracy` as the field's training scripts count, in heatmaps of `size` (h, w). `kept` is the share
    of peaks at or above the threshold. Not percentages: `mean_confidence` is a height, `second_peak` the mean of
    the second peak over the first, `num_peaks` how many reach half of the first.
    """
    return {mode: _score_mode(predictions, sample, mode, confidence_threshold, size) for mode in MODES}


def score_selection(
    predictions: Sequence[PoolPredictions], sample: PoolSample, arm: ArmConfig
) -> dict[str, list[float | None]] | None:
    """How often (percent of annotated joints) each of two students would learn from its own map, or the other's.

    Own where it is more certain by `uncertainty_margin` (selection 'cross'). With `uncertainty_guard`, a joint
    under the threshold is wholly uncertain, as in training. None for a run with one label network.
    """
    if len(predictions) != 2:
        return None
    labeled = sample.visibility > 0
    uncertainty = []
    for part in predictions:
        blank = part.confidence[arm.ensemble].astype(float) < arm.confidence_threshold
        uncertainty.append(np.where(blank & arm.uncertainty_guard, np.inf, part.uncertainty.astype(float)))
    pairs = zip(uncertainty, reversed(uncertainty), strict=True)
    own = [percent(_mean((mine + arm.uncertainty_margin < other)[labeled])) for mine, other in pairs]
    return {"own_share": own, "cross_share": [None if share is None else 100.0 - share for share in own]}


def write_pool(path: Path, predictions: Sequence[PoolPredictions], sample: PoolSample) -> None:
    """One row a (label network, person, annotated joint), and the peak of each mode in thousandths.

    `error_<mode>` is its distance from the hidden label in reference lengths, rounded up, `confidence_<mode>` its
    height, rounded down.
    """
    row, joint = np.nonzero(sample.visibility)
    joints = {"image_id": sample.image_id[row], "person": sample.person[row].astype(np.int32),
              "joint": joint.astype(np.int8)}
    parts = [
        {"network": np.full(len(row), part.network, np.int8), **joints, **_peak_columns(part, sample, row, joint)}
        for part in predictions
    ]
    write_parquet(path, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _peak_columns(part: PoolPredictions, sample: PoolSample, row: NDArray, joint: NDArray) -> dict[str, NDArray]:
    columns = {}
    for mode in MODES:
        offset = dequantize(part.keypoints[mode] - sample.keypoints)[row, joint]
        error = np.hypot(*offset.T) / sample.reference_length[row]
        columns[f"error_{mode}"] = thousandths(error, up=True)
        columns[f"confidence_{mode}"] = thousandths(part.confidence[mode][row, joint], up=False)
    return columns | {"uncertainty": part.uncertainty[row, joint]}


def _score_mode(
    predictions: Sequence[PoolPredictions], sample: PoolSample, mode: str, threshold: float, size: tuple[int, int]
) -> dict[str, float | None]:
    true, length = dequantize(sample.keypoints), sample.reference_length
    labeled = sample.visibility > 0
    readings: dict[str, list[float]] = {name: [] for name in READINGS}
    for part in predictions:
        confidence, cells = part.confidence[mode].astype(float), part.cells[mode]
        found = dequantize(part.keypoints[mode])
        judged = (sample.visibility, length, HEADLINE_THRESHOLD)
        kept = sample.visibility * (confidence >= threshold)
        readings["pck"].append(pck(found, true, *judged))
        readings["pck_above_threshold"].append(pck(found, true, *judged, confidence, threshold))
        readings["pck_refined"].append(pck(cells, true, kept, *judged[1:]))
        readings["peer_accuracy"].append(peer_accuracy(cells, np.rint(true), sample.visibility, size))
    heights = np.concatenate([part.confidence[mode][labeled].astype(float) for part in predictions])
    return {
        **{name: percent(_mean(values)) for name, values in readings.items()},
        "kept": percent(_mean(heights >= threshold)),
        "mean_confidence": _mean(heights) if len(heights) else None,
        "second_peak": _mean_of([part.second_peak[mode][labeled] for part in predictions]),
        "num_peaks": _mean_of([part.num_peaks[mode][labeled] for part in predictions]),
    }


def _mean_of(parts: Sequence[NDArray]) -> float | None:
    values = np.concatenate(parts).astype(float)
    return _mean(values) if len(values) else None


def _mean(values: Sequence | NDArray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _half(values: Tensor) -> NDArray[np.float16]:
    return values.cpu().numpy().astype(np.float16)

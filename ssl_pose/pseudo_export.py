"""[I/O] Pseudo-labels of a pool as a COCO file, with confidence and uncertainty per joint, to look at or to train on.

Each unlabelled person is seen un-augmented and in as many further views as the arm trains with, or as evaluation takes
where it trains with none: one view alone has no uncertainty. The arm's own rules follow: its ensemble, its threshold,
and, of two students, the more certain one per joint. The file is written person by person, so that memory does not
grow with the pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_pose.augment import Views, identity_views, sample_views
from ssl_pose.batches import Pool, open_pool
from ssl_pose.coco import PERSON_CATEGORY, DataError, PersonRecords
from ssl_pose.config import ArmConfig, Config
from ssl_pose.crops import CropSet
from ssl_pose.evaluation import Networks, decode_to_canvas
from ssl_pose.files import new_file
from ssl_pose.predictions import dequantize
from ssl_pose.pseudo_label import ensemble_heatmaps, estimate_uncertainty
from ssl_pose.pseudo_quality import view_heatmaps
from ssl_pose.scoring import canvas_to_photo
from ssl_pose.seeding import make_generator
from ssl_pose.skeleton import KEYPOINT_NAMES, LIMBS

CHUNK = 64  # persons whose views come from one stream
CATEGORY = {"id": PERSON_CATEGORY, "name": "person", "keypoints": list(KEYPOINT_NAMES),
            "skeleton": [[first + 1, second + 1] for first, second in LIMBS]}


def export_pseudo_labels(
    networks: Networks, persons: PersonRecords, crops: CropSet, labeled: NDArray[np.bool_], config: Config,
    arm: ArmConfig, seed: int, path: Path,
) -> dict[str, int]:
    """Writes the pseudo-labels of the persons whom `labeled` (N,) does not mark to `path`; returns their counts.

    `networks` are those that make the arm's labels, `persons` the records that the crops were cut for. An annotation
    has COCO's fields, with visibility 2 where a joint is kept and 0 elsewhere; `score` is the mean confidence of
    kept joints. Per joint stand `keypoint_confidence`, `keypoint_uncertainty` (null: no two views saw it, or it is
    under the threshold that the arm's guard asks for) and `keypoint_network`. An image has COCO's fields, and the
    `folder` that its `file_name` lies in. The file appears whole or not at all.
    """
    if (persons.annotations_sha256 != crops.annotations_sha256
            or not np.array_equal(persons.annotation_id, crops.annotation_id)):
        raise DataError("the packed crops are not those of this COCO directory: run the data stage again")
    rows = np.flatnonzero(~labeled)
    if not len(rows):
        raise DataError("every person is labelled: there is no pool; lower splits.label_count")
    counts = {"persons": len(rows), "joints": len(rows) * len(KEYPOINT_NAMES), "kept": 0}
    about = {"description": "Pseudo-labels made by networks: not annotated by anybody", "profile": config.profile,
             "arm": arm.title, "seed": seed, "confidence_threshold": _lowest(arm)}
    with new_file(path) as partial, partial.open("w") as file:
        file.write(f'{{"info": {json.dumps(about)},\n"categories": [{json.dumps(CATEGORY)}],\n"images": [\n')
        _write_list(file, _images(persons, rows))
        file.write('\n],\n"annotations": [\n')
        counts["kept"] = _write_list(file, _annotations(networks, persons, crops, rows, config, arm, seed))
        file.write("\n]}\n")
    return counts


def _write_list(file: TextIO, entries: Iterable[dict[str, Any]]) -> int:
    """Writes the entries of a JSON list, one a line; returns the sum of their `num_keypoints`."""
    kept, separator = 0, ""
    for entry in entries:
        file.write(separator + json.dumps(entry, allow_nan=False))
        kept, separator = kept + entry.get("num_keypoints", 0), ",\n"
    return kept


def _images(persons: PersonRecords, rows: NDArray) -> Iterator[dict[str, Any]]:
    _, first = np.unique(persons.image_id[rows], return_index=True)
    for row in rows[np.sort(first)]:
        height, width = persons.photo_size[row].tolist()
        folder, _, name = persons.file_name[row].partition("/")
        yield {"id": int(persons.image_id[row]), "file_name": name, "folder": folder, "height": height, "width": width}


def _annotations(
    networks: Networks, persons: PersonRecords, crops: CropSet, rows: NDArray, config: Config, arm: ArmConfig,
    seed: int,
) -> Iterator[dict[str, Any]]:
    device = next(networks[0].parameters()).device
    pool = open_pool(crops, device, "never")  # each row is read once
    for number, start in enumerate(range(0, len(rows), CHUNK)):
        chunk = rows[start : start + CHUNK]
        views = draw_views(config, arm, len(chunk), seed, number)
        points, confidence, uncertainty, network = label_persons(
            networks, pool, torch.from_numpy(chunk), views, config, arm)
        points = canvas_to_photo(points, crops.crop_matrix[chunk])
        for place, row in enumerate(chunk):
            kept = confidence[place] >= _lowest(arm)
            seen = np.concatenate([points[place].round(2) * kept[:, None], 2 * kept[:, None]], 1)
            yield {
                "id": int(persons.annotation_id[row]), "image_id": int(persons.image_id[row]),
                "category_id": PERSON_CATEGORY, "iscrowd": 0, "area": float(persons.area[row]),
                "bbox": persons.box_xywh[row].tolist(), "num_keypoints": int(kept.sum()),
                "keypoints": [float(number) if column < 2 else int(number)
                              for joint in seen for column, number in enumerate(joint)],
                "score": float(confidence[place][kept].mean().round(4)) if kept.any() else 0.0,
                "keypoint_confidence": confidence[place].round(4).tolist(),
                "keypoint_uncertainty": [round(u, 4) if np.isfinite(u) else None for u in uncertainty[place].tolist()],
                "keypoint_network": network[place].tolist(),
            }


def _lowest(arm: ArmConfig) -> float:
    """The confidence from which on the arm keeps a joint."""
    return arm.confidence_threshold if arm.thresholds else 0.0


def draw_views(config: Config, arm: ArmConfig, count: int, seed: int, chunk: int) -> list[Views]:
    """The un-augmented view of `count` persons and K further ones, from streams named by the chunk."""
    views = [identity_views(count, torch.device("cpu"))]
    for number in range(arm.num_views or config.evaluation.num_views):
        generator = make_generator(seed, "pseudo_export", f"view{number}", chunk)
        views.append(sample_views(config.views.multi, count, config.data.input_size, generator))
    return views


@torch.no_grad()
def label_persons(
    networks: Networks, pool: Pool, rows: Tensor, views: list[Views], config: Config, arm: ArmConfig
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Canvas points (B, K, 2), confidence, uncertainty and the number of the network (B, K) that is more certain."""
    found = []
    for network in networks:
        aligned, valid = view_heatmaps(network, pool, rows, views, config, arm)
        joined = ensemble_heatmaps(aligned, valid, arm.ensemble)
        points, confidence = decode_to_canvas(joined, pool.to_reference, config.model, config.evaluation.decoder)
        uncertainty = estimate_uncertainty(aligned, valid).cpu().numpy().astype(float)
        if arm.uncertainty_guard:
            uncertainty[confidence < arm.confidence_threshold] = np.inf
        found.append((dequantize(points), confidence.astype(float), uncertainty))
    points, confidence, uncertainty = (np.stack(parts) for parts in zip(*found, strict=True))
    best = np.lexsort((-confidence, uncertainty), axis=0)[0]  # of equally certain ones the higher peak
    first, second = np.indices(best.shape)
    chosen = (best, first, second)
    return points[chosen], confidence[chosen], uncertainty[chosen], best

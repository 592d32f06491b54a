"""Which persons are labelled: drawn by a hash, the first ones, or those of a file; exported and read back as JSON.

`hash` labels the n units whose sha256 of "<seed>:<id>" is smallest. It needs no file, is the same on every
machine, and nests: the n smallest are among the m > n smallest. `first` is the published peer's rule: the
first n of the file. `file` imports a split: JSON with `annotation_ids`, else `image_ids`, of which a split that was
exported here is one. A unit is an image with all its persons (then no photo is in both streams) or a person.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_pose.coco import DataError, hash_file
from ssl_pose.config import MethodConfig, SplitsConfig, brief, fingerprint
from ssl_pose.crops import CropSet
from ssl_pose.files import write_text

PROTOCOL = ("the label_count units of smallest sha256('<seed>:<id>') (hash), the first of the file (first), or those "
            "of a split file (file); label_count 0: all that are annotated")


def draw_labels(
    crops: CropSet, label_count: int, seed: int, method: str = "hash", unit: str = "image", file: str = ""
) -> np.ndarray:
    """Labelled mask (N,) of packed persons: `label_count` units of those annotated; all of them for 0.

    Persons without a keypoint, whom a detector found, are never labelled. `file` is the split of method file,
    relative to the current folder, with {seed} for the seed.
    """
    annotated = (crops.visibility > 0).any(1)
    if method == "file":
        return _import_split(Path(file.replace("{seed}", str(seed))), crops, annotated, label_count, unit)
    if not label_count:
        return annotated
    labeled = np.zeros_like(annotated)
    image_id, annotation_id = crops.image_id[annotated], crops.annotation_id[annotated]
    labeled[annotated] = split_labels(image_id, annotation_id, label_count, seed, method, unit)
    return labeled


def split_labels(
    image_id: np.ndarray,
    annotation_id: np.ndarray,
    label_count: int,
    seed: int,
    method: Literal["hash", "first"] = "hash",
    unit: Literal["image", "person"] = "image",
) -> np.ndarray:
    """Labelled mask (N,) of N persons with ids (N,), `label_count` units; only `hash` uses the seed."""
    ids = {"image": image_id, "person": annotation_id}[unit]
    units = list(dict.fromkeys(ids.tolist()))  # in the order of the file
    if label_count < 1:
        raise DataError(f"splits.label_count must be at least 1, got {label_count}: none would be labelled")
    if label_count > len(units):
        raise DataError(f"splits.label_count is {label_count}, but there are only {len(units)} {unit}s; lower it "
                        "or give more data")
    if method == "hash":
        units.sort(key=lambda identity: hashlib.sha256(f"{seed}:{identity}".encode()).digest())
    elif method != "first":
        raise DataError(f"splits.method must be hash or first, got {method!r}")
    return np.isin(ids, units[:label_count])


def unit_ids(crops: CropSet, unit: str) -> np.ndarray:
    """The id (N,) of each person's unit: of its photo for 'image', its own for 'person'."""
    return {"image": crops.image_id, "person": crops.annotation_id}[unit]


def arm_labels(
    arm: MethodConfig, labeled: np.ndarray, crops: CropSet, splits: SplitsConfig, seed: int
) -> np.ndarray:
    """Labelled mask (N,) of an arm: `labeled`, the seed's split, or the split of its own `label_count`."""
    if not arm.label_count:
        return labeled
    return draw_labels(crops, arm.label_count, seed, splits.method, splits.unit, splits.file)


def split_fingerprint(crops: CropSet, splits: SplitsConfig) -> str:
    """Hash of what shapes a seed's split: the people, by their crops, and the numbers."""
    return fingerprint(crops.content_sha256, splits)


def make_split(path: str | Path, crops: CropSet, rule: SplitsConfig, seed: int) -> np.ndarray:
    """The labelled mask (N,) of `seed` over the packed training persons, drawn by `rule` and written to `path`."""
    labeled = draw_labels(crops, rule.label_count, seed, rule.method, rule.unit, rule.file)
    count = len(np.unique(unit_ids(crops, rule.unit)[labeled]))
    write_split(path, crops, labeled, label_count=count, seed=seed, method=rule.method, unit=rule.unit)
    return labeled


def write_split(
    path: str | Path, crops: CropSet, labeled: np.ndarray,
    *, label_count: int, seed: int, method: str, unit: str,
) -> None:
    """The split as JSON: how it was drawn, ids of the labelled persons and the annotation file's sha256."""
    annotation_ids = crops.annotation_id[labeled]
    split = {
        "protocol": PROTOCOL, "method": method, "unit": unit, "label_count": label_count, "seed": seed,
        "annotations_sha256": crops.annotations_sha256,
        "image_ids": np.unique(crops.image_id[labeled]).tolist(), "annotation_ids": annotation_ids.tolist(),
    }
    write_text(json.dumps(split) + "\n", Path(path))


def read_split(path: str | Path, crops: CropSet) -> np.ndarray:
    """Labelled mask (N,) from a split's JSON; raises `DataError` where it was not made for these `crops`."""
    path = Path(path)
    try:
        split = json.loads(path.read_bytes())
        sha256, stated = split["annotations_sha256"], set(split["image_ids"])
        annotation_ids = np.array(split["annotation_ids"], dtype=np.int64)
    except FileNotFoundError:
        raise DataError(f"no split file {path}; run the splits stage") from None
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is truncated or no split ({brief(error)}); run the splits stage again") from None
    if sha256 != crops.annotations_sha256:
        raise DataError(f"{path} was made for other annotations (their sha256 differs); run the splits stage "
                        "again")
    missing = np.setdiff1d(annotation_ids, crops.annotation_id)
    labeled = np.isin(crops.annotation_id, annotation_ids)
    if len(missing) or not labeled.any() or set(crops.image_id[labeled].tolist()) != stated:
        raise DataError(f"{path} does not fit the packed crops: {len(missing)} of its {len(annotation_ids)} "
                        "persons are not among them, or image_ids differ; run the splits stage again")
    return labeled


def fingerprint_splits(file: str, seeds: Sequence[int], folder: Path) -> dict[str, str]:
    """The sha256 of the imported split of each seed, by file name; nothing where none is imported."""
    paths = {folder / file.replace("{seed}", str(seed)) for seed in seeds} if file else set()
    for path in sorted(paths):
        if not path.is_file():
            raise DataError(f"no split file {path}, which splits.file names")
    return {path.name: hash_file(path) for path in sorted(paths)}


def _import_split(path: Path, crops: CropSet, annotated: np.ndarray, label_count: int, unit: str) -> np.ndarray:
    """Labelled mask (N,) of the persons, or else of the images, that a file from outside names."""
    try:
        split = json.loads(path.read_bytes())
        key = "annotation_ids" if "annotation_ids" in split else "image_ids"
        named = np.array(split[key], dtype=np.int64)
        sha256 = split.get("annotations_sha256", crops.annotations_sha256)
    except FileNotFoundError:
        raise DataError(f"no split file {path}, which splits.file names") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is no split ({brief(error)}); expected JSON with a list annotation_ids or "
                        "image_ids") from None
    if sha256 != crops.annotations_sha256:
        raise DataError(f"{path} was made for other annotations: their sha256 differs")
    ids = {"annotation_ids": crops.annotation_id, "image_ids": crops.image_id}[key]
    labeled = annotated & np.isin(ids, named)
    missing = np.setdiff1d(named, ids[annotated])
    if len(missing):
        raise DataError(f"{path}: {len(missing)} of its {len(named)} {key} are not among the annotated persons, "
                        f"the first of them {missing[0]}; raise data.max_train_persons or correct the file")
    count = len(np.unique(unit_ids(crops, unit)[labeled]))
    if count != label_count:
        raise DataError(f"{path} labels {count} {unit}s, splits.label_count says {label_count}; make them agree")
    return labeled

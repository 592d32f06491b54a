"""COCO directories in, person records out; predictions out as COCO results JSON.

A COCO directory holds `annotations/person_keypoints_<split>.json` and the photos of the split in `<split>/`.
Annotated keypoints (x, y) are taken as pixel centres, without a shift. Boxes measure from the photo's corner,
as COCO's do: [0, 0, width, height] is the whole photo. Photos are read as stored: COCO annotates the stored
pixels, so an EXIF orientation is not applied.

The standard selection keeps a person who is no crowd, has a keypoint with v > 0 and an annotated area > 0;
what each rule dropped is counted. A kept person whose box is empty or misses the photo is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ssl_pose.config import brief
from ssl_pose.files import write_text
from ssl_pose.skeleton import NUM_KEYPOINTS

SPLITS = ("train2017", "val2017")
UNLABELED = "unlabeled2017"
UNLABELED_INFO = f"annotations/image_info_{UNLABELED}.json"  # the list of its photos
PERSON_CATEGORY = 1
REPAIR = "correct or remove the annotation"


class DataError(ValueError):
    """A line for the user: which file or annotation is wrong, and what to do about it."""


@dataclass(frozen=True)
class PersonRecords:
    """N persons: by image in the order of the file's `images`, then in that of its `annotations`.

    This is the order in which the published peer counts its first n persons.
    """

    image_id: np.ndarray  # (N,) int64
    annotation_id: np.ndarray  # (N,) int64
    file_name: tuple[str, ...]  # N names, relative to the COCO directory
    photo_size: np.ndarray  # (N, 2) int64, height and width, px
    keypoints: np.ndarray  # (N, 17, 2) float64, photo px; meaningless where visibility is 0
    visibility: np.ndarray  # (N, 17) uint8: 0 not labelled, 1 hidden, 2 seen
    box_xywh: np.ndarray  # (N, 4) float64, clipped to the photo, px
    area: np.ndarray  # (N,) float64, of the person's mask, px^2
    counts: dict[str, int]  # annotations in the file, dropped by each rule, persons kept
    annotations_sha256: str  # of the file that the persons come from
    score: np.ndarray  # (N,) float64, of the box: 1 where it is annotated, the detector's where it is detected

    ARRAYS = ("image_id", "annotation_id", "photo_size", "keypoints", "visibility", "box_xywh", "area", "score")

    def __len__(self) -> int:
        return len(self.image_id)

    def take(self, rows: np.ndarray) -> PersonRecords:
        """The persons at the indices `rows`; what the file held and what was dropped stay as they were counted."""
        arrays = {name: getattr(self, name)[rows] for name in self.ARRAYS}
        return replace(self, **arrays, file_name=tuple(self.file_name[row] for row in rows))


def load_persons(directory: str | Path, split: str = "train2017") -> PersonRecords:
    """The persons of one split by the standard selection; every broken input raises `DataError`."""
    directory = Path(directory)
    path = annotation_path(directory, split)
    data, sha256 = read_annotations(path)
    images = index_images(data["images"], path.name)
    persons, counts = _select_persons(data, path.name)
    ids = [person["id"] for person in persons]
    image_id = _integers(persons, "image_id", path.name)
    for identity, image in zip(ids, image_id.tolist(), strict=True):
        if image not in images:
            raise DataError(f"{path.name}: annotation {identity}: image_id {image} is not among the images; "
                            "remove the annotation or list its image")
    rank = {image: position for position, image in enumerate(images)}
    order = np.argsort([rank[image] for image in image_id.tolist()], kind="stable")
    persons, image_id = [persons[i] for i in order], image_id[order]
    listed = [images[image] for image in image_id.tolist()]
    file_name = tuple(f"{split}/{image['file_name']}" for image in listed)
    require_photos(directory, file_name)
    photo_size = np.array([(image["height"], image["width"]) for image in listed])
    keypoints = _numbers(persons, "keypoints", 3 * NUM_KEYPOINTS, path.name).reshape(-1, NUM_KEYPOINTS, 3)
    return PersonRecords(
        image_id=image_id, annotation_id=_integers(persons, "id", path.name), file_name=file_name,
        photo_size=photo_size, keypoints=keypoints[..., :2], visibility=keypoints[..., 2].astype(np.uint8),
        box_xywh=clip_boxes(persons, photo_size, path.name),
        area=np.array([person["area"] for person in persons], dtype=np.float64), counts=counts,
        annotations_sha256=sha256, score=np.ones(len(persons)),
    )


def annotation_path(directory: str | Path, split: str) -> Path:
    """The annotation file of `split`; raises `DataError` where the directory has none."""
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"no COCO directory {directory}; give the folder that holds annotations/, {split}/")
    path = directory / "annotations" / f"person_keypoints_{split}.json"
    if not path.is_file():
        raise DataError(f"no annotation file {path}; a COCO directory holds annotations/{path.name}")
    return path


def write_results(path: str | Path, image_id: np.ndarray, keypoints: np.ndarray, score: np.ndarray) -> None:
    """COCO results JSON of N persons: keypoints (N, 17, 2) in photo px, score (N,) of each person."""
    if not (len(image_id) == len(keypoints) == len(score)) or keypoints.shape[1:] != (NUM_KEYPOINTS, 2):
        raise DataError(f"each person needs an image_id, a score and {NUM_KEYPOINTS} points, got "
                        f"{len(image_id)} image_ids, {len(score)} scores and points {keypoints.shape}")
    if not (np.isfinite(keypoints).all() and np.isfinite(score).all()):
        raise DataError("results hold a keypoint or score that is not finite; look for NaN in the heatmaps")
    triples = np.concatenate([np.round(keypoints, 3), np.ones_like(keypoints[..., :1])], axis=-1)
    rows = triples.reshape(-1, 3 * NUM_KEYPOINTS).tolist()
    results = [
        {"image_id": int(image), "category_id": PERSON_CATEGORY, "keypoints": row, "score": float(value)}
        for image, row, value in zip(image_id, rows, score, strict=True)
    ]
    write_text(json.dumps(results), Path(path))


def hash_file(path: str | Path) -> str:
    """sha256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_annotations(
    path: Path, lists: Sequence[str] = ("images", "annotations", "categories")
) -> tuple[dict[str, list[dict]], str]:
    """The JSON with its `lists` checked, and its sha256; masks, most of COCO's bytes, are dropped while it is read."""

    data = read_json(path)
    for key in lists:
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} is no COCO annotation file: it has no list {key!r} of objects")
    if "categories" in lists and not any(entry.get("id") == PERSON_CATEGORY for entry in data["categories"]):
        raise DataError(f"{path}: categories has none with id {PERSON_CATEGORY}, COCO's id of a person")
    return data, hash_file(path)


def read_json(path: Path) -> Any:
    """The JSON in `path`, without its masks."""

    def drop_mask(entry: dict) -> dict:
        entry.pop("segmentation", None)
        return entry

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=drop_mask)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no complete JSON ({error}); fetch the file again") from None


def index_images(images: list[dict], file: str) -> dict[int, dict]:
    """Image entries by id, in the file's order, with name and size checked."""
    for image_id, image in zip(_integers(images, "id", file), images, strict=True):
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(f"{file}: image {image_id}: file_name must be a text, got {brief(name)}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{file}: image {image_id}: file_name {brief(name)} leaves the photo folder; "
                            "give it relative to that folder, without '..'")
        for key in ("width", "height"):
            side = image.get(key)
            if type(side) is not int or side < 1:
                raise DataError(f"{file}: image {image_id}: {key} must be a number of px, got {brief(side)}")
    _refuse_duplicates([image["id"] for image in images], "image", file)
    return {image["id"]: image for image in images}


def _select_persons(data: dict[str, list[dict]], file: str) -> tuple[list[dict], dict[str, int]]:
    """Annotations kept by the standard selection, and how many each rule dropped."""
    annotations = data["annotations"]
    _integers(annotations, "id", file)
    _refuse_duplicates([annotation["id"] for annotation in annotations], "annotation", file)
    persons = [entry for entry in annotations if entry.get("category_id") == PERSON_CATEGORY]
    single = [entry for entry in persons if not entry.get("iscrowd", 0)]
    visibility = _numbers(single, "keypoints", 3 * NUM_KEYPOINTS, file)[:, 2::3]
    for row, joint in np.argwhere(~np.isin(visibility, (0, 1, 2)))[:1]:
        raise DataError(f"{file}: annotation {single[row]['id']}: visibility of keypoint {joint} is "
                        f"{visibility[row, joint]:g}, not 0, 1 or 2; {REPAIR}")
    posed = [entry for entry, seen in zip(single, visibility.any(axis=1), strict=True) if seen]
    for entry in posed:
        if type(entry.get("area")) not in (int, float) or not math.isfinite(entry["area"]):
            raise DataError(f"{file}: annotation {entry['id']}: area must be a finite number, "
                            f"got {brief(entry.get('area'))}; {REPAIR}")
    kept = [entry for entry in posed if entry["area"] > 0]
    counts = {"annotations": len(annotations), "other_category": len(annotations) - len(persons),
              "crowd": len(persons) - len(single), "no_keypoints": len(single) - len(posed),
              "no_area": len(posed) - len(kept), "persons": len(kept)}
    if not kept:
        raise DataError(f"{file}: no person with keypoints is left of {counts}; is it a keypoint file?")
    return kept, counts


def clip_boxes(persons: list[dict], photo_size: np.ndarray, file: str) -> np.ndarray:
    """Boxes (N, 4) as x, y, w, h clipped to photos of size (N, 2); an empty or outlying box is an error."""
    boxes = _numbers(persons, "bbox", 4, file)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    limit = photo_size[:, ::-1]  # (N, 2) width, height
    clipped_low, clipped_high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    for row in np.flatnonzero((clipped_high <= clipped_low).any(axis=1))[:1]:
        empty = (boxes[row, 2:] <= 0).any()
        why = "has no area" if empty else "lies outside its photo of {} x {} px".format(*limit[row])
        raise DataError(f"{file}: annotation {persons[row]['id']}: bbox {boxes[row].tolist()} {why}; "
                        f"{REPAIR}")
    return np.concatenate([clipped_low, clipped_high - clipped_low], axis=1)


def require_photos(directory: Path, file_names: Iterable[str]) -> None:
    for name in dict.fromkeys(file_names):
        if not (directory / name).is_file():
            raise DataError(f"missing photo {directory / name}; fetch it, or remove its annotations")


def _integers(entries: list[dict], key: str, file: str) -> np.ndarray:
    """The 64-bit integers (N,) under `key`."""
    values = [entry.get(key) for entry in entries]
    for position, value in enumerate(values):
        if type(value) is not int or abs(value) >= 2**63:
            raise DataError(f"{file}: {key} of entry {position} must be an integer, got {brief(value)}")
    return np.array(values, dtype=np.int64)


def _numbers(annotations: list[dict], key: str, length: int, file: str) -> np.ndarray:
    """The finite numbers (N, length) under `key`."""
    rows = [annotation.get(key) for annotation in annotations]
    for annotation, row in zip(annotations, rows, strict=True):
        if not isinstance(row, list) or len(row) != length or not {*map(type, row)} <= {int, float}:
            found = f"{len(row)} values" if isinstance(row, list) and len(row) != length else brief(row)
            raise DataError(f"{file}: annotation {annotation['id']}: {key} must be {length} numbers, "
                            f"got {found}; {REPAIR}")
    values = np.array(rows, dtype=np.float64).reshape(-1, length)
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1))[:1]:
        raise DataError(f"{file}: annotation {annotations[row]['id']}: {key} holds a number that is "
                        f"not finite; {REPAIR}")
    return values


def _refuse_duplicates(ids: list[int], kind: str, file: str) -> None:
    values, counts = np.unique(np.array(ids, dtype=np.int64), return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{file}: {kind} id {values[counts > 1][0]} occurs more than once; give it a new id")

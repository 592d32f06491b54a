"""Who is packed: the annotated persons of a split, and persons that a detector found in photos without labels.

A detections file is a COCO results file of boxes: a JSON list of
`{"image_id": 9, "category_id": 1, "bbox": [x, y, width, height], "score": 0.98}`, boxes in px from the photo's
corner. A detected person has no keypoints (visibility 0), the area of its box, and a negative id, -1 for the first
box of the file; its photos are those of `image_info_<split>.json` or `person_keypoints_<split>.json`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ssl_pose.coco import (
    PERSON_CATEGORY,
    UNLABELED,
    DataError,
    PersonRecords,
    clip_boxes,
    hash_file,
    index_images,
    load_persons,
    read_annotations,
    read_json,
    require_photos,
)
from ssl_pose.config import DataConfig
from ssl_pose.skeleton import NUM_KEYPOINTS

FORMAT = ('a JSON list of {"image_id": 9, "category_id": 1, "bbox": [x, y, width, height], "score": 0.98}, boxes in '
          "px, as COCO's results files of boxes")


def training_persons(directory: str | Path, data: DataConfig) -> PersonRecords:
    """The persons of train2017, then, where `data.unlabeled_photos` says so, those detected in unlabeled2017.

    `data.max_train_persons` limits each of the two.
    """
    persons = first_persons(load_persons(directory, "train2017"), data.max_train_persons)
    if not data.unlabeled_photos:
        return persons
    detected = load_detections(directory, UNLABELED, Path(directory, data.detections), data.detection_score)
    return join_persons(persons, first_persons(detected, data.max_train_persons))


def first_persons(persons: PersonRecords, limit: int) -> PersonRecords:
    """The first `limit` persons; all for 0."""
    return persons.take(np.arange(min(limit, len(persons)))) if limit else persons


def load_detections(directory: str | Path, split: str, path: Path, min_score: float) -> PersonRecords:
    """The persons whose boxes in the detections file `path` score at least `min_score`, by image as in `images`.

    Raises `DataError` for a file of another format, a box of an unknown photo, and where nobody is left.
    """
    directory = Path(directory)
    detections, score = _read_detections(path)
    images = _photos_of(directory, split)
    unknown = next((row["image_id"] for row in detections if row["image_id"] not in images), None)
    if unknown is not None:
        raise DataError(f"{path.name}: image_id {unknown} is no photo of {split}; give the detections of {split}")
    rank = {image: position for position, image in enumerate(images)}
    rows = np.array([rank[row["image_id"]] for row in detections])
    order = np.argsort(rows, kind="stable")
    order = order[score[order] >= min_score]
    if not len(order):
        raise DataError(f"{path.name}: no box scores at least {min_score}; lower data.detection_score")
    kept = [detections[row] for row in order]
    listed = [images[row["image_id"]] for row in kept]
    folder = "test2017" if split == "test-dev2017" else split  # COCO's test-dev is a part of its test photos
    file_name = tuple(f"{folder}/{image['file_name']}" for image in listed)
    require_photos(directory, file_name)
    photo_size = np.array([(image["height"], image["width"]) for image in listed])
    boxes = clip_boxes(kept, photo_size, path.name)
    return PersonRecords(
        image_id=np.array([row["image_id"] for row in kept]), annotation_id=-1 - order, file_name=file_name,
        photo_size=photo_size, keypoints=np.zeros((len(kept), NUM_KEYPOINTS, 2)),
        visibility=np.zeros((len(kept), NUM_KEYPOINTS), np.uint8), box_xywh=boxes, area=boxes[:, 2] * boxes[:, 3],
        counts={"detections": len(detections), "low_score": len(detections) - len(kept), "persons": len(kept)},
        annotations_sha256=hash_file(path), score=score[order],
    )


def join_persons(first: PersonRecords, second: PersonRecords) -> PersonRecords:
    """Both, one after the other; no photo may be in both."""
    if common := set(first.image_id.tolist()) & set(second.image_id.tolist()):
        raise DataError(f"image id {min(common)} is in both sets of photos; give each photo an id of its own")
    both = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in PersonRecords.ARRAYS}
    sha256 = hashlib.sha256((first.annotations_sha256 + second.annotations_sha256).encode()).hexdigest()
    counts = {**first.counts, **{f"detected_{name}": count for name, count in second.counts.items()}}
    return PersonRecords(**both, file_name=first.file_name + second.file_name, counts=counts,
                         annotations_sha256=sha256)


def _read_detections(path: Path) -> tuple[list[dict], np.ndarray]:
    """Entries of persons, each with an id for messages, and their scores (N,)."""
    if not path.is_file():
        raise DataError(f"no detections file {path}; photos without labels need boxes of their persons: {FORMAT}")
    entries = read_json(path)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} holds no detections; expected {FORMAT}")
    persons = [{**entry, "id": place} for place, entry in enumerate(entries)
               if entry.get("category_id") == PERSON_CATEGORY]
    for entry in persons:
        image, score = entry.get("image_id"), entry.get("score")
        if type(image) is not int or type(score) not in (int, float) or not abs(score) <= 1e300:
            raise DataError(f"{path.name}: entry {entry['id']} has no image_id or score; expected {FORMAT}")
    if not persons:
        raise DataError(f"{path.name}: no entry has category_id {PERSON_CATEGORY}; expected {FORMAT}")
    return persons, np.array([entry["score"] for entry in persons], dtype=np.float64)


def _photos_of(directory: Path, split: str) -> dict[int, dict]:
    """Image entries of `split` by id."""
    names = [f"image_info_{split}.json", f"person_keypoints_{split}.json"]
    for path in (directory / "annotations" / name for name in names):
        if path.is_file():
            return index_images(read_annotations(path, lists=("images",))[0]["images"], path.name)
    raise DataError(f"no list of the photos of {split}: annotations/ holds neither {names[0]} nor {names[1]}")

"""[I/O] A folder of photos with labels for some of them, as a COCO directory for semi-supervised training.

Labels are COCO's JSON (`images`, `annotations` of persons with keypoints), with file names inside the folder. Photos
with labels are shared out to train2017 and val2017 by a hash of their names; all others are unlabeled2017, where a
boxes file says who is where, or each is taken as one person's. Photos are linked, not copied.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ssl_pose.coco import PERSON_CATEGORY, UNLABELED, DataError, hash_file, index_images, read_annotations
from ssl_pose.files import new_directory, write_json, write_text
from ssl_pose.own_photos import list_photos, open_upright, read_boxes, turns_unseen

DETECTIONS = f"annotations/person_detections_{UNLABELED}.json"
MARK = "own_data.json"  # what was made, by which a folder is known as one that may be replaced


def build_directory(
    photos: Path, labels: Path, output: Path, boxes_file: Path | None = None, val_share: float = 0.2
) -> dict[str, int]:
    """Makes the COCO directory `output` and returns the number of photos of each split.

    Raises `DataError` where a labelled photo is missing, or too few are labelled to hold some back, and where `output`
    holds anything that this function did not make: it is replaced as a whole.
    """
    if not 0 < val_share < 1:
        raise DataError(f"the share of photos that are held back must lie between 0 and 1, got {val_share}")
    _require_replaceable(output, [photos, labels, boxes_file] if boxes_file else [photos, labels])
    files = {path.name: path.resolve() for path in list_photos([photos])}
    _refuse_turned([path for path in files.values() if turns_unseen(path)])
    boxes = read_boxes(boxes_file, files.keys()) if boxes_file else {}
    data, _ = read_annotations(labels)
    images = index_images(data["images"], labels.name)
    posed = {entry.get("image_id") for entry in data["annotations"] if entry.get("num_keypoints", 1)}
    labeled = [image for identity, image in images.items() if identity in posed]
    for image in labeled:
        if image["file_name"] not in files:
            raise DataError(f"{labels.name}: labelled photo {image['file_name']!r} is not in {photos}")
    splits = _share_out(labeled, val_share)
    rest = sorted(files.keys() - {image["file_name"] for image in labeled})
    first = max(images, default=0) + 1
    with new_directory(output) as root:
        for split, chosen in splits.items():
            _link(root / split, [image["file_name"] for image in chosen], files)
            kept = {image["id"] for image in chosen}
            annotations = [entry for entry in data["annotations"] if entry.get("image_id") in kept]
            write_json({**data, "images": chosen, "annotations": annotations},
                       root / "annotations" / f"person_keypoints_{split}.json")
        _link(root / UNLABELED, rest, files)
        entries = [_describe(files[name], name, first + place) for place, name in enumerate(rest)]
        write_json({"images": entries}, root / "annotations" / f"image_info_{UNLABELED}.json")
        write_json(_detections(entries, boxes), root / DETECTIONS)
        write_text(_list_made(root), root / MARK)
    return {split: len(chosen) for split, chosen in splits.items()} | {UNLABELED: len(rest)}


def _require_replaceable(output: Path, given: list[Path]) -> None:
    """Raises `DataError` where replacing `output` would lose what was `given`, or what is not of our making."""
    for path in given:
        if path.resolve().is_relative_to(output.resolve()):
            raise DataError(f"{path} lies in {output}, which would be made anew; name another folder for the result")
    if output.exists() and any(output.iterdir()) and not _made_here(output):
        raise DataError(f"{output} holds something else than what own-data made; name another folder, or remove it")


def _made_here(folder: Path) -> bool:
    """Whether all of `folder` is as `build_directory` left it."""
    mark = folder / MARK
    return mark.is_file() and mark.read_text(errors="replace") == _list_made(folder)


def _list_made(folder: Path) -> str:
    """JSON: the sha256 of each file in `folder` that is no link, by name."""
    paths = sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names)
    files = {path.relative_to(folder).as_posix(): hash_file(path)
             for path in paths if not path.is_symlink() and path != folder / MARK}
    return json.dumps(files, indent=1) + "\n"


def _refuse_turned(photos: list[Path]) -> None:
    """Raises `DataError` for photos that training would read in another frame than the one they are looked at in."""
    if photos:
        raise DataError(f"photos are turned by an EXIF orientation that their size does not show ({len(photos)}, the "
                        f"first {photos[0]}), so training would read them as stored; save them upright, without it")


def _share_out(labeled: list[dict], val_share: float) -> dict[str, list[dict]]:
    """Labelled images by split: those of smallest hash are held back, so that more photos change no earlier choice."""
    count = round(val_share * len(labeled))
    if not 0 < count < len(labeled):
        raise DataError(f"{len(labeled)} photos are labelled, of which {count} would be held back to be scored on; "
                        "label more, or give another share")
    ordered = sorted(labeled, key=lambda image: hashlib.sha256(image["file_name"].encode()).digest())
    held = {image["id"] for image in ordered[:count]}
    return {"train2017": [image for image in labeled if image["id"] not in held],
            "val2017": [image for image in labeled if image["id"] in held]}


def _link(folder: Path, names: list[str], files: dict[str, Path]) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(files[name])


def _describe(path: Path, name: str, identity: int) -> dict[str, Any]:
    photo = open_upright(path)
    return {"id": identity, "file_name": name, "width": photo.width, "height": photo.height}


def _detections(images: list[dict], boxes: dict[str, Any]) -> list[dict]:
    """COCO results JSON of `boxes` by file name; of a photo that they do not name, the whole of it."""
    return [
        {"image_id": image["id"], "category_id": PERSON_CATEGORY, "bbox": box, "score": 1.0}
        for image in images for box in boxes.get(image["file_name"], [[0, 0, image["width"], image["height"]]])
    ]

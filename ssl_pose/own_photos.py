"""[I/O] Poses on one's own photos: read as they are looked at, one pose a box, drawn and written as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ssl_pose.coco import DataError, read_json
from ssl_pose.files import new_file, write_json
from ssl_pose.inference import PoseModel, predict_photo
from ssl_pose.overlays import draw_people
from ssl_pose.photos import to_rgb

PHOTO_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
BOXES_FORMAT = 'a JSON object such as {"photo.jpg": [[x, y, width, height], ...]}, px from the photo\'s corner'


def draw_photos(
    model: PoseModel, photos: Iterable[Path], output: Path, boxes_file: Path | None = None, decoder: str = "dark"
) -> list[Path]:
    """Writes each photo with its poses to `output`, and `poses.json`; returns the pictures.

    `boxes_file` says who is where, by file name; a photo that it does not name, or every one without it, is taken
    as one person's, and one with an empty list as nobody's. `photos` are files, or folders of them.
    """
    paths = list_photos(photos)
    boxes = read_boxes(boxes_file, {path.name for path in paths}) if boxes_file else {}
    output.mkdir(parents=True, exist_ok=True)
    pictures, found = [], {}
    for path in paths:
        photo = open_upright(path)
        whole = [[0, 0, photo.width, photo.height]]
        poses = predict_photo(model, photo, np.array(boxes.get(path.name, whole), float), decoder)
        pictures.append(output / f"{path.name}.poses.png")
        with new_file(pictures[-1]) as partial:
            draw_people(photo, poses.keypoints, poses.confidence).save(partial, format="png")
        found[path.name] = [
            {"keypoints": points.round(2).tolist(), "confidence": sure.astype(float).round(4).tolist()}
            for points, sure in zip(poses.keypoints, poses.confidence, strict=True)
        ]
    write_json(found, output / "poses.json")
    return pictures


def list_photos(places: Iterable[Path]) -> list[Path]:
    """The photos at `places`, in order: files as they are named, folders by the names in them."""
    paths: list[Path] = []
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else []
        paths += [path for path in inside if path.suffix.lower() in PHOTO_ENDINGS] or [place]
    count = Counter(path.name for path in paths)
    if twice := next((name for name in count if count[name] > 1), None):
        raise DataError(f"two photos are called {twice}; rename one, since results go by name")
    return paths


def open_upright(path: Path) -> Image.Image:
    """A photo as RGB, turned as its EXIF orientation says."""
    with _open(path) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def turns_unseen(path: Path) -> bool:
    """Whether a photo's EXIF orientation changes it but not its size, by which `read_photo` knows a turned one."""
    with _open(path) as image:
        orientation, square = image.getexif().get(ExifTags.Base.Orientation), image.width == image.height
    return orientation in (2, 3, 4) or (square and orientation in (5, 6, 7, 8))


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"no photo {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no 8-bit photo that can be read ({error}); replace or remove it") from None


def read_boxes(path: Path, photos: Set[str]) -> dict[str, Any]:
    """Boxes by file name; `DataError` for a file of another format, or one that names what is none of the `photos`."""
    try:
        boxes = read_json(path)
    except FileNotFoundError:
        raise DataError(f"no boxes file {path}; expected {BOXES_FORMAT}") from None
    if not isinstance(boxes, dict):
        raise DataError(f"{path} holds no boxes by photo; expected {BOXES_FORMAT}")
    for name, rows in boxes.items():
        if not _are_boxes(rows):
            raise DataError(f"{path}: {name}: {json.dumps(rows)[:80]} are no boxes; expected {BOXES_FORMAT}")
    if unknown := boxes.keys() - photos:
        raise DataError(f"{path}: {min(unknown)!r} is none of the photos; name each as its file is called")
    return boxes


def _are_boxes(rows: Any) -> bool:
    """Whether `rows` lists boxes of some area; an empty list says that nobody is in the photo."""
    try:
        values = np.array(rows, np.float64)
    except (ValueError, TypeError, OverflowError):
        return False
    if values.ndim != 2 or values.shape[1] != 4:
        return rows == []
    return bool(np.isfinite(values).all() and (values[:, 2:] > 0).all())

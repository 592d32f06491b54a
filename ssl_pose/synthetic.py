"""[I/O] The embedded benchmark: rendered people, written as a COCO directory. docs/dataset_card.md describes it.

    annotations/person_keypoints_{train,val}2017.json    train2017/*.jpg    val2017/*.jpg

Photo i of a split depends on (seed, split, i) alone: not on the number of photos, of processes, or of photos rendered
at a time. The directory appears whole or not at all.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from ssl_pose.files import new_directory, write_text
from ssl_pose.lifeline import end_with_parent
from ssl_pose.scene import MAX_PEOPLE, People, draw_photo, render_photos
from ssl_pose.skeleton import KEYPOINT_NAMES, LIMBS

SPLITS = ("train2017", "val2017")
DESCRIPTION = "ssl_pose embedded benchmark"
PHOTOS_AT_A_TIME = {"cpu": 8, "cuda": 64}  # the smaller batch stays in a core's cache
JPEG_QUALITY = 90
FEWEST_VISIBLE = 3  # a person with fewer visible keypoints is annotated, but its keypoints are not labelled
MOST_PHOTOS = 1_000_000  # per split; the ids of both splits are kept apart


class BenchmarkError(ValueError):
    """A line for the user: which argument is wrong, and what would be right."""


class Recipe(NamedTuple):
    """What every photo of a benchmark has in common."""

    photo_size: tuple[int, int]
    persons_per_photo: float
    seed: int
    device: str


def write_benchmark(
    directory: str | Path,
    num_train_photos: int,
    num_val_photos: int,
    photo_size: tuple[int, int],
    persons_per_photo: float,
    seed: int,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
    num_workers: int = 1,
) -> dict[str, dict[str, int]]:
    """Write the benchmark as a COCO directory and count, per split, photos, persons and labelled persons.

    `photo_size` is (height, width) in px, `persons_per_photo` the mean number of people. `progress(done, total)` is
    told the number of photos after every batch. An older benchmark in `directory` is replaced.

    Raises BenchmarkError for sizes that cannot be rendered, and for a directory that holds anything else.
    """
    directory = Path(directory)
    _check_arguments(directory, (num_train_photos, num_val_photos), photo_size, persons_per_photo, num_workers)
    recipe = Recipe(tuple(photo_size), float(persons_per_photo), int(seed), str(device))
    with new_directory(directory) as root:
        return _write_splits(root, (num_train_photos, num_val_photos), recipe, progress, num_workers)


def _check_arguments(
    directory: Path, num_photos: tuple[int, int], photo_size: tuple[int, int], persons: float, num_workers: int
) -> None:
    if not all(1 <= count <= MOST_PHOTOS for count in num_photos):
        raise BenchmarkError(f"numbers of photos must lie in 1..{MOST_PHOTOS}, got {num_photos}")
    if min(photo_size) < 32:
        raise BenchmarkError(f"photo_size must be at least 32 px on both sides, got {tuple(photo_size)}")
    if not 1 <= persons <= MAX_PEOPLE / 2:
        raise BenchmarkError(f"persons_per_photo must lie in 1..{MAX_PEOPLE // 2}, got {persons}")
    if num_workers < 1:
        raise BenchmarkError(f"num_workers must be at least 1, got {num_workers}")
    if directory.exists() and any(directory.iterdir()) and not _is_benchmark(directory):
        raise BenchmarkError(f"{directory} holds something else than this benchmark: remove it, or name another")


def _is_benchmark(directory: Path) -> bool:
    try:
        content = json.loads((directory / "annotations" / "person_keypoints_val2017.json").read_text())
        return content["info"]["description"] == DESCRIPTION
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_splits(
    root: Path,
    num_photos: tuple[int, int],
    recipe: Recipe,
    progress: Callable[[int, int], None] | None,
    num_workers: int,
) -> dict[str, dict[str, int]]:
    entries = {split: ([], []) for split in SPLITS}  # of the lists `images` and `annotations`
    done = 0
    for folder in ("annotations", *SPLITS):
        (root / folder).mkdir()
    batches = _split_batches(num_photos, PHOTOS_AT_A_TIME[torch.device(recipe.device).type])
    results = _map(partial(_write_photos, root, recipe), batches, num_workers)
    for (split, indices), result in zip(batches, results, strict=True):
        for entry, more in zip(entries[split], result, strict=True):
            entry.extend(more)
        done += len(indices)
        if progress is not None:
            progress(done, sum(num_photos))
    for split in SPLITS:
        _write_annotations(root / "annotations" / f"person_keypoints_{split}.json", recipe, *entries[split])
    return {split: _count(*entries[split]) for split in SPLITS}


def _split_batches(num_photos: tuple[int, int], size: int) -> list[tuple[str, range]]:
    """Photos that are rendered together: a split, and indices within it."""
    return [
        (split, range(first, min(first + size, count)))
        for split, count in zip(SPLITS, num_photos, strict=True)
        for first in range(0, count, size)
    ]


def _count(images: list[dict], annotations: list[dict]) -> dict[str, int]:
    labeled = sum(annotation["num_keypoints"] > 0 for annotation in annotations)
    return {"photos": len(images), "persons": len(annotations), "labeled_persons": labeled}


def _map(function: Callable, items: list, num_workers: int) -> Iterator:
    """The function's results in order, from this process or from several new ones."""
    if num_workers == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _start_worker) as pool:
        yield from pool.map(function, items)


def _start_worker() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _write_photos(root: Path, recipe: Recipe, batch: tuple[str, range]) -> tuple[list[dict], list[dict]]:
    """Render and save photos of one split; their entries in `images` and `annotations`."""
    name, indices = batch
    split = SPLITS.index(name)
    draws = [
        draw_photo(recipe.seed, split, index, recipe.photo_size, recipe.persons_per_photo) for index in indices
    ]
    photos, people = render_photos(draws, recipe.photo_size, recipe.device)
    people = People(*(column.cpu() for column in people))
    images = [_describe_photo(split, index, recipe.photo_size) for index in indices]
    for image, pixels in zip(images, photos.cpu().numpy(), strict=True):
        Image.fromarray(pixels).save(root / name / image["file_name"], quality=JPEG_QUALITY)
    annotations = [
        _annotate_person(people, person, images[photo]["id"], number, recipe.photo_size)
        for photo in range(len(images))
        for number, person in enumerate((people.photo == photo).nonzero()[:, 0].tolist())
        if people.area[person] > 0
    ]
    return images, annotations


def _describe_photo(split: int, index: int, photo_size: tuple[int, int]) -> dict:
    image_id = split * MOST_PHOTOS + index + 1
    height, width = photo_size
    return {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": height, "width": width, "license": 1}


def _annotate_person(
    people: People, person: int, image_id: int, number: int, photo_size: tuple[int, int]
) -> dict:
    """The COCO annotation of one person; keypoints that are not labelled are 0, 0, 0, as COCO has it."""
    visibility = people.visibility[person]
    labeled = (visibility > 0) & ((visibility == 2).sum() >= FEWEST_VISIBLE)
    triplets = torch.cat((people.keypoints[person], visibility[:, None]), 1) * labeled[:, None]
    height, width = photo_size
    limit = people.box_xyxy.new_tensor([width - 1, height - 1] * 2)
    left, top, right, bottom = people.box_xyxy[person].clamp(min=0).minimum(limit).tolist()
    return {
        "id": image_id * 100 + number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(people.area[person]),
        "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
        "num_keypoints": int(labeled.sum()),
        "keypoints": [
            value for x, y, v in triplets.double().tolist() for value in (round(x, 2), round(y, 2), int(v))
        ],
    }


def _write_annotations(path: Path, recipe: Recipe, images: list[dict], annotations: list[dict]) -> None:
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(KEYPOINT_NAMES),
        "skeleton": [[first + 1, second + 1] for first, second in LIMBS],
    }
    info = {
        "description": DESCRIPTION,
        "version": "1.0",
        "seed": recipe.seed,
        "persons_per_photo": recipe.persons_per_photo,
    }
    content = {
        "info": info,
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }
    write_text(json.dumps(content), path)

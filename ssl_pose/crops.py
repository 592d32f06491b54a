"""Person crops, packed once as memory-mapped uint8 with the arrays that describe them.

A folder of packed crops holds `crops.npy` (N, Hc, Wc, 3) uint8 RGB, `persons.npz` and `manifest.json`.
A crop is stored on a *canvas* larger than the network's input, so that a view is one warp straight from it:
photo px --crop_matrix--> canvas px --canvas_to_reference--> px of the un-augmented input, the canvas' centred
window. Integer coordinates are pixel centres. `crop_matrix` is one scale and a shift: the box, made to the
input's aspect and enlarged by `box_padding`, just fills the input; its centre is the canvas' centre.
The same photos give the same bytes for every number of processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssl_pose.coco import DataError, PersonRecords, annotation_path, hash_file, load_persons
from ssl_pose.files import new_directory, write_json
from ssl_pose.lifeline import end_with_parent
from ssl_pose.photos import FILL_COLOR, canvas_size_for, crop_matrices, cut_person, read_photo

if TYPE_CHECKING:
    import torch

SCHEMA = 1  # of the packed folder; a folder of another schema is refused
PHOTOS_PER_TASK = 8
# name -> shape of one person's entry and dtype, in persons.npz
PERSON_ARRAYS = {
    "keypoints": ((17, 2), np.float32), "visibility": ((17,), np.uint8), "crop_matrix": ((3, 3), np.float64),
    "image_id": ((), np.int64), "annotation_id": ((), np.int64), "area": ((), np.float64),
    "box_xywh": ((4,), np.float64),
}


@dataclass(frozen=True)
class CropSet:
    """Packed crops of N persons, in the order of `PersonRecords`."""

    crops: np.ndarray  # (N, Hc, Wc, 3) uint8 RGB, memory-mapped
    keypoints: np.ndarray  # (N, 17, 2) float32, canvas px; meaningless where visibility is 0
    visibility: np.ndarray  # (N, 17) uint8
    crop_matrix: np.ndarray  # (N, 3, 3) float64, photo px -> canvas px
    image_id: np.ndarray  # (N,) int64
    annotation_id: np.ndarray  # (N,) int64
    area: np.ndarray  # (N,) float64, photo px^2
    box_xywh: np.ndarray  # (N, 4) float64, photo px
    mean_color: np.ndarray  # (3,) float32 in [0, 1], over all stored pixels
    canvas_size: tuple[int, int]  # height, width
    input_size: tuple[int, int]  # height, width
    annotations_sha256: str  # of the annotation file that the persons come from
    content_sha256: str  # of the pixels and the arrays
    directory: Path | None = None  # where they lie packed; None for a selection of them

    def __len__(self) -> int:
        return len(self.image_id)

    def subset(self, index: np.ndarray | slice) -> CropSet:
        """The persons at `index`; an index array copies their crops into memory, a slice stays mapped."""
        return replace(self, crops=self.crops[index], directory=None,
                       **{name: getattr(self, name)[index] for name in PERSON_ARRAYS})


class _Photo(NamedTuple):
    """The crops to cut from one photo."""

    path: Path
    size: tuple[int, int]  # height, width that the annotations state
    first_row: int  # of crops.npy
    crop_matrix: np.ndarray  # (P, 3, 3)


_Task = tuple[Path, list[_Photo]]  # crops.npy and the photos to cut into it


def pack_crops(
    coco_directory: str | Path,
    split: str,
    out_directory: str | Path,
    input_size: tuple[int, int],
    canvas_scale: float,
    box_padding: float,
    max_persons: int = 0,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Packs the first `max_persons` of `split` (0: all) into `out_directory` and returns the manifest.

    The folder appears whole or not at all: it is built beside its place and renamed. `progress` is called
    with the number of persons done and their total. Raises `DataError` for every broken input.
    """
    records = load_persons(coco_directory, split)
    count = min(max_persons, len(records)) if max_persons else len(records)
    canvas_size = canvas_size_for(input_size, canvas_scale)
    matrices = crop_matrices(records.box_xywh[:count], input_size, canvas_size, box_padding)
    photos = _group_by_photo(records, matrices, Path(coco_directory) / split)
    try:
        with new_directory(Path(out_directory)) as partial:
            _reserve(partial / "crops.npy", (count, *canvas_size, 3))
            color_sum = _cut_photos(photos, partial / "crops.npy", num_workers, count, progress)
            np.savez(partial / "persons.npz", **_person_arrays(records, matrices))
            manifest = {
                "schema": SCHEMA, "split": split, "num_persons": count, "num_photos": len(photos),
                "input_size": list(input_size), "canvas_size": list(canvas_size), "box_padding": box_padding,
                "fill_color": list(FILL_COLOR), "selection": records.counts,
                "mean_color": (color_sum / (255 * count * math.prod(canvas_size))).tolist(),
                "annotations_sha256": hash_file(annotation_path(coco_directory, split)),
                "sha256": {name: hash_file(partial / name) for name in ("crops.npy", "persons.npz")},
            }
            write_json(manifest, partial / "manifest.json")
    except OSError as error:
        size = count * math.prod(canvas_size) * 3 / 1e9
        raise DataError(f"cannot write {out_directory} ({error.strerror}): the crops take {size:.2f} GB; "
                        "free the disk, or lower data.canvas_scale or data.max_train_persons") from None
    return manifest


def load_crops(directory: str | Path, verify: bool = False) -> CropSet:
    """The packed crops in `directory`, memory-mapped; `verify` also compares the hashes of all bytes."""
    directory = Path(directory)
    manifest = _read_manifest(directory)
    count, canvas_size = manifest["num_persons"], tuple(manifest["canvas_size"])
    try:
        crops = np.load(directory / "crops.npy", mmap_mode="r")
        with np.load(directory / "persons.npz") as archive:
            arrays = {name: archive[name] for name in PERSON_ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{directory} holds truncated or foreign crops ({error}); pack them again") from None
    expected = {"crops": ((*canvas_size, 3), np.uint8), **PERSON_ARRAYS}
    for name, array in {"crops": crops, **arrays}.items():
        shape, dtype = expected[name]
        if array.shape != (count, *shape) or array.dtype != dtype:
            raise DataError(f"{directory}: {name} is {array.dtype} {array.shape}, the manifest says "
                            f"{np.dtype(dtype)} {(count, *shape)}; pack the crops again")
    if verify:
        for name, digest in manifest["sha256"].items():
            if hash_file(directory / name) != digest:
                raise DataError(f"{directory / name} is not what was packed (sha256 differs); pack it again")
    return CropSet(
        crops=crops, **arrays, mean_color=np.array(manifest["mean_color"], dtype=np.float32),
        canvas_size=canvas_size, input_size=tuple(manifest["input_size"]),
        annotations_sha256=manifest["annotations_sha256"],
        content_sha256=hashlib.sha256("".join(sorted(manifest["sha256"].values())).encode()).hexdigest(),
        directory=directory,
    )


def canvas_to_reference(canvas_size: tuple[int, int], input_size: tuple[int, int]) -> torch.Tensor:
    """(3, 3) float32 translation from canvas px to px of the input, the canvas' centred window."""
    import torch  # here: the processes that pack need none and start 2 s sooner

    matrix = torch.eye(3)
    matrix[0, 2] = (input_size[1] - canvas_size[1]) / 2
    matrix[1, 2] = (input_size[0] - canvas_size[0]) / 2
    return matrix


def _group_by_photo(records: PersonRecords, matrices: np.ndarray, folder: Path) -> list[_Photo]:
    """Photos with the crops to cut from each; the records lie by image already."""
    image_id = records.image_id[: len(matrices)]
    starts = np.flatnonzero(np.r_[True, image_id[1:] != image_id[:-1]])
    return [
        _Photo(folder / records.file_name[start], tuple(records.photo_size[start].tolist()), int(start), rows)
        for start, rows in zip(starts, np.split(matrices, starts[1:]), strict=True)
    ]


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """An empty array file with its space on the disk taken: a full disk would kill a process that maps it."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _cut_photos(
    photos: list[_Photo], crops_path: Path, num_workers: int, total: int,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Writes every crop into `crops_path`; returns the sum (3,) of all pixels, an integer and so exact."""
    tasks = [(crops_path, photos[i : i + PHOTOS_PER_TASK]) for i in range(0, len(photos), PHOTOS_PER_TASK)]
    color_sum, done = np.zeros(3, np.int64), 0
    for part_sum, part_count in _run_tasks(tasks, min(num_workers, len(tasks))):
        color_sum += part_sum
        done += part_count
        if progress:
            progress(done, total)
    return color_sum


def _run_tasks(tasks: Iterable[_Task], num_workers: int) -> Iterator[tuple[np.ndarray, int]]:
    """`_cut_task` of each task, in order; at most two tasks a process are under way."""
    if num_workers == 1:
        yield from map(_cut_task, tasks)
        return
    # spawn: a fork would copy the threads and the CUDA state of a process that runs torch
    pool = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"),
                               initializer=end_with_parent)
    try:
        pending = deque()
        for task in tasks:
            if len(pending) == 2 * num_workers:
                yield pending.popleft().result()
            pending.append(pool.submit(_cut_task, task))
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise DataError("a packing process was killed (out of memory?); lower data.num_workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _cut_task(task: _Task) -> tuple[np.ndarray, int]:
    """Cuts the crops of some photos into the mapped file; returns the sum of pixels (3,) and their count."""
    crops_path, photos = task
    crops = np.load(crops_path, mmap_mode="r+")
    color_sum, count = np.zeros(3, np.int64), 0
    for path, size, first_row, matrices in photos:
        photo = read_photo(path, size)
        for row, matrix in enumerate(matrices, start=first_row):
            canvas = cut_person(photo, matrix, crops.shape[1:3])
            crops[row] = canvas
            color_sum += canvas.sum(axis=(0, 1), dtype=np.int64)
        count += len(matrices)
    return color_sum, count


def _person_arrays(records: PersonRecords, matrices: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of persons.npz for the first len(matrices) persons."""
    count = len(matrices)
    zoom, shift = matrices[:, None, :1, 0], matrices[:, None, :2, 2]
    arrays = {"keypoints": zoom * records.keypoints[:count] + shift, "crop_matrix": matrices}
    for name in PERSON_ARRAYS.keys() - arrays.keys():
        arrays[name] = getattr(records, name)[:count]
    return {name: arrays[name].astype(dtype) for name, (_, dtype) in PERSON_ARRAYS.items()}


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"no packed crops in {directory}: no {path.name}; run the data stage") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is truncated ({error}); pack the crops again") from None
    needed = {"schema", "num_persons", "input_size", "canvas_size", "mean_color", "annotations_sha256", "sha256"}
    if not isinstance(manifest, dict) or not needed <= manifest.keys() or manifest["schema"] != SCHEMA:
        raise DataError(f"{path} is no manifest of packed crops, schema {SCHEMA}; pack the crops again")
    return manifest

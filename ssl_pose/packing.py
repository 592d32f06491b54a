"""[I/O] Packs person crops: photos in, the memory-mapped folder that crops.py reads out.

Processes cut the persons of a few photos at a time straight into the mapped file, so that memory does not grow with
the number of persons, and the same photos give the same bytes for every number of processes. What is done is noted
beside the crops; a run that was killed goes on from there, if persons, photos and numbers are still the same.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_pose.coco import DataError, PersonRecords, hash_file
from ssl_pose.crops import PERSON_ARRAYS, SCHEMA
from ssl_pose.files import remedy, replace_directory, write_json
from ssl_pose.lifeline import end_with_parent
from ssl_pose.photos import FILL_COLOR, canvas_size_for, crop_matrices, cut_person, read_photo

PHOTOS_PER_TASK = 8
TASKS_PER_NOTE = 64  # between two notes of what is done, each after the file is on the disk


class _Photo(NamedTuple):
    """The crops to cut from one photo."""

    path: Path
    size: tuple[int, int]  # height, width that the annotations state
    first_row: int  # of crops.npy
    crop_matrix: np.ndarray  # (P, 3, 3)


class _Done(NamedTuple):
    """What a pack has written: the first photos and persons, in their order."""

    photos: int
    persons: int
    color_sum: np.ndarray  # (3,) int64, of all pixels, exact


def pack_crops(
    coco_directory: str | Path,
    records: PersonRecords,
    out_directory: str | Path,
    input_size: tuple[int, int],
    canvas_scale: float,
    box_padding: float,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Packs the persons of `records` into `out_directory` and returns the manifest.

    The folder appears whole or not at all: it is built beside its place and renamed. `progress` is called
    with the number of persons done and their total. Raises `DataError` for every broken photo.
    """
    count, canvas_size = len(records), canvas_size_for(input_size, canvas_scale)
    matrices = crop_matrices(records.box_xywh, input_size, canvas_size, box_padding)
    photos = _group_by_photo(records, matrices, Path(coco_directory))
    out_directory = Path(out_directory)
    building = out_directory.with_name(out_directory.name + ".partial")
    try:
        key = _key(records, photos, canvas_size)
        done = _open_partial(building, (count, *canvas_size, 3), key)
        color_sum = _cut_photos(photos, building, key, done, num_workers, progress)
        np.savez(building / "persons.npz", **_person_arrays(records, matrices))
        manifest = {
            "schema": SCHEMA, "num_persons": count, "num_photos": len(photos),
            "input_size": list(input_size), "canvas_size": list(canvas_size), "box_padding": box_padding,
            "fill_color": list(FILL_COLOR), "selection": records.counts,
            "mean_color": (color_sum / (255 * count * math.prod(canvas_size))).tolist(),
            "annotations_sha256": records.annotations_sha256,
            "sha256": {name: hash_file(building / name) for name in ("crops.npy", "persons.npz")},
        }
        write_json(manifest, building / "manifest.json")
        (building / "done.json").unlink(missing_ok=True)
        replace_directory(building, out_directory)
    except OSError as error:
        size = count * math.prod(canvas_size) * 3 / 1e9
        smaller = ", or lower data.canvas_scale or data.max_train_persons" if error.errno == errno.ENOSPC else ""
        raise DataError(f"cannot write {out_directory} ({error.strerror}): the crops take {size:.2f} GB"
                        f"{remedy(error.errno)}{smaller}") from None
    return manifest


def readable_persons(
    coco_directory: str | Path, records: PersonRecords, num_workers: int = 1
) -> tuple[PersonRecords, list[str]]:
    """The persons whose photos can be read, and one line for each photo that cannot; reads every photo once more."""
    names = list(dict.fromkeys(records.file_name))
    sizes = dict(zip(records.file_name, map(tuple, records.photo_size.tolist()), strict=True))
    photos = [(name, Path(coco_directory) / name, sizes[name]) for name in names]
    tasks = [photos[i : i + PHOTOS_PER_TASK] for i in range(0, len(photos), PHOTOS_PER_TASK)]
    broken: dict[str, str] = {}
    for part in _run_tasks(_find_broken, tasks, num_workers):
        broken |= part
    if not broken:
        return records, []
    kept = np.flatnonzero([name not in broken for name in records.file_name])
    if not len(kept):
        raise DataError(f"no photo can be read; the first: {next(iter(broken.values()))}")
    return records.take(kept), list(broken.values())


def print_tenths(what: str) -> Callable[[int, int], None]:
    """A `progress` that prints a line each time another tenth is done."""

    def show(done: int, total: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            print(f"{what}: {done} of {total}", flush=True)

    shown = 0
    return show


def _key(records: PersonRecords, photos: list[_Photo], canvas_size: tuple[int, int]) -> str:
    """Hash of all that decides what is packed: persons, crops, and the photos by size and time of change."""
    digest = hashlib.sha256(f"{SCHEMA} {canvas_size} {records.annotations_sha256}".encode())
    digest.update(records.annotation_id.tobytes())
    for photo in photos:
        status = photo.path.stat()
        digest.update(f"{photo.path.name} {photo.size} {status.st_size} {status.st_mtime_ns}\n".encode())
        digest.update(photo.crop_matrix.tobytes())
    return digest.hexdigest()


def _open_partial(building: Path, shape: tuple[int, ...], key: str) -> _Done:
    """What the pack in `building` has done already; a folder of another key is begun anew."""
    try:
        note = json.loads((building / "done.json").read_text())
        if note["key"] == key and np.load(building / "crops.npy", mmap_mode="r").shape == shape:
            return _Done(note["photos"], note["persons"], np.array(note["color_sum"], np.int64))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        pass  # nothing noted, or what was is gone
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        _reserve(building / "crops.npy", shape)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return _Done(0, 0, np.zeros(3, np.int64))


def _note(done: _Done, building: Path, key: str) -> None:
    """Puts the crops on the disk, then the note that they are there."""
    with open(building / "crops.npy", "rb") as file:
        os.fsync(file.fileno())
    write_json({"key": key, **done._asdict(), "color_sum": done.color_sum.tolist()}, building / "done.json")


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """An empty array file with its space on the disk taken: a full disk would kill a process that maps it."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _group_by_photo(records: PersonRecords, matrices: np.ndarray, directory: Path) -> list[_Photo]:
    """Photos with the crops to cut from each; the records lie by image already."""
    starts = np.flatnonzero(np.r_[True, records.image_id[1:] != records.image_id[:-1]])
    return [
        _Photo(directory / records.file_name[start], tuple(records.photo_size[start].tolist()), int(start), rows)
        for start, rows in zip(starts, np.split(matrices, starts[1:]), strict=True)
    ]


def _cut_photos(
    photos: list[_Photo], building: Path, key: str, done: _Done, num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Writes the crops that are not `done`; returns the sum (3,) of all pixels, an integer and so exact."""
    rest = photos[done.photos:]
    tasks = [(building / "crops.npy", rest[i : i + PHOTOS_PER_TASK]) for i in range(0, len(rest), PHOTOS_PER_TASK)]
    total = sum(len(photo.crop_matrix) for photo in photos)
    parts = _run_tasks(_cut_task, tasks, num_workers)
    try:
        for number, (task, (color_sum, count)) in enumerate(zip(tasks, parts, strict=True), start=1):
            done = _Done(done.photos + len(task[1]), done.persons + count, done.color_sum + color_sum)
            if number % TASKS_PER_NOTE == 0:
                _note(done, building, key)
            if progress:
                progress(done.persons, total)
    finally:
        _note(done, building, key)
    return done.color_sum


def _run_tasks(work: Callable[[Any], Any], tasks: Sequence[Any], num_workers: int) -> Iterator[Any]:
    """`work` of each task, in order; at most two tasks a process are under way."""
    num_workers = min(num_workers, len(tasks))
    if num_workers <= 1:
        yield from map(work, tasks)
        return
    # spawn: a fork would copy the threads and the CUDA state of a process that runs torch
    pool = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"),
                               initializer=end_with_parent)
    try:
        pending = deque()
        for task in tasks:
            if len(pending) == 2 * num_workers:
                yield pending.popleft().result()
            pending.append(pool.submit(work, task))
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise DataError("a packing process was killed (out of memory?); lower data.num_workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _cut_task(task: tuple[Path, list[_Photo]]) -> tuple[np.ndarray, int]:
    """Cuts the crops of some photos into the mapped file; returns the sum of pixels (3,) and their count."""
    crops_path, photos = task
    crops = np.load(crops_path, mmap_mode="r+")  # opened for each task: what a process keeps mapped stays small
    color_sum, count = np.zeros(3, np.int64), 0
    for path, size, first_row, matrices in photos:
        photo = read_photo(path, size)
        for row, matrix in enumerate(matrices, start=first_row):
            canvas = cut_person(photo, matrix, crops.shape[1:3])
            crops[row] = canvas
            color_sum += canvas.sum(axis=(0, 1), dtype=np.int64)
        count += len(matrices)
    return color_sum, count


def _find_broken(photos: list[tuple[str, Path, tuple[int, int]]]) -> dict[str, str]:
    """The error of each of some photos (name, path, size) that cannot be read, by name."""
    broken = {}
    for name, path, size in photos:
        try:
            read_photo(path, size)
        except DataError as error:
            broken[name] = str(error)
    return broken


def _person_arrays(records: PersonRecords, matrices: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of persons.npz."""
    zoom, shift = matrices[:, None, :1, 0], matrices[:, None, :2, 2]
    arrays = {"keypoints": zoom * records.keypoints + shift, "crop_matrix": matrices}
    for name in PERSON_ARRAYS.keys() - arrays.keys():
        arrays[name] = getattr(records, name)
    return {name: arrays[name].astype(dtype) for name, (_, dtype) in PERSON_ARRAYS.items()}

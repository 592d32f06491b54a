"""More crops: time of a step and of its input, resident memory at 1K to 1M persons, and persons packed a second.

The crops are sparse files: as large as real ones in every respect but the disk's. Each count has a process of its
own, whose memory nothing else has touched. The clock is the wall's and the least of several rounds counts, since a
thread that reads ahead works at other times than the step that it serves; between two batches the main thread rests,
as it does while a step computes. The counts take turns, so that what a machine does meanwhile falls on all. Goals: time
a step flat, resident memory flat, packing linear, and of COCO-sized photos at 200 persons a second and core. What
memory grows by a person is a ratio of its own: it does not hang on the machine.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.input_path import photo
from benchmarks.samples import random_crops
from benchmarks.step import build_case, whole_step
from ssl_pose.batches import draw_unlabeled, open_pool
from ssl_pose.coco import load_persons
from ssl_pose.crops import PERSON_ARRAYS, CropSet
from ssl_pose.packing import pack_crops
from ssl_pose.profiles import open_profile
from ssl_pose.read_ahead import ReadAhead, Resident

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
TURNS = 3
ROUNDS = 15  # a turn
REST = 0.05  # seconds between two batches, for what a step computes
NUM_PHOTOS, PERSONS_A_PHOTO = (320, 3_200), 3
NUM_FILES = 64  # of which photos take turns


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """A row a count, the least times and the most memory of its turns, and rows of packing."""
    turns = [[in_a_process_of_its_own(grown, count, device) for count in COUNTS] for _ in range(TURNS)]
    rows = [{name: max(row[name] for row in same) if name == "resident MB" else min(row[name] for row in same)
             for name in same[0]} for same in zip(*turns, strict=True)]
    ratios = {f"{name} at {COUNTS[-1]} persons over that at {COUNTS[0]}": rows[-1][name] / rows[0][name]
              for name in ("at hand ms", "read ahead ms", "step ms")}
    ratios["resident KB a person"] = 1e3 * (rows[-1]["resident MB"] - rows[0]["resident MB"]) / (
        COUNTS[-1] - COUNTS[0])
    speeds = [in_a_process_of_its_own(packing_speed, photos) for photos in NUM_PHOTOS]
    rows += [{"persons": photos * PERSONS_A_PHOTO, "persons/s": speed}
             for photos, speed in zip(NUM_PHOTOS, speeds, strict=True)]
    times = NUM_PHOTOS[-1] // NUM_PHOTOS[0]
    return rows, ratios | {"200 persons/s over packing": 200 / min(speeds),
                           f"packing a person of {times} times as many": speeds[0] / speeds[-1]}


def in_a_process_of_its_own(work: Callable, *given: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads,
                             initargs=(1,)) as pool:
        return pool.submit(work, *given).result()


def grown(count: int, device: torch.device) -> dict:
    """Milliseconds of an unlabelled batch of the default profile from `count` persons, and resident memory added.

    And of a step of the whole method, whose labelled persons are as many. Memory is counted from before the persons'
    numbers are there until batches have been drawn, less what a batch of one person needs: a step's networks need the
    same for any pool, and what of it is free again differs by tens of megabytes.
    """
    case = build_case(open_profile("default").config, "whole method", 4, device)
    config, arm = case.config, replace(case.arm, weak_view="augmented")
    with tempfile.TemporaryDirectory() as folder:
        one = random_crops(config, 1)
        draw_unlabeled(open_pool(one, device), torch.arange(1), arm, config, 0, 0)  # what any batch needs
        before = psutil.Process().memory_info().rss
        crops = sparse_crops(one, count, Path(folder) / "crops.npy")
        pool, numbers, rows = open_pool(crops, device), iter(range(10**9)), torch.arange(count)

        def draw(pixels: Resident | ReadAhead) -> None:
            draw_unlabeled(replace(pool, pixels=pixels), rows, arm, config, 0, next(numbers))

        at_hand = pool.pixels if isinstance(pool.pixels, Resident) else Resident(crops.crops, device)
        works = {"at hand ms": partial(draw, at_hand), "read ahead ms": partial(draw, ReadAhead(crops.crops, device))}
        for work in works.values():
            for _ in range(3):
                work()
        memory = psutil.Process().memory_info().rss - before
        step = least_ms(whole_step(replace(case, arm=arm, pool=pool)))  # first: batches are drawn between steps
        least = {name: least_ms(work) for name, work in works.items()}
        return {"persons": count, "crops GB": crops.crops.nbytes / 1e9, **least, "step ms": step,
                "resident MB": memory / 1e6}


def least_ms(work: Callable[[], None]) -> float:
    """Milliseconds of the shortest of several calls, between which the main thread rests."""
    found = []
    for _ in range(ROUNDS + 2):
        time.sleep(REST)
        began = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - began))
    return min(found[2:])


def sparse_crops(one: CropSet, count: int, path: Path) -> CropSet:
    """`count` times the person of `one`, with pixels that take no room on the disk."""
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *one.crops.shape[1:]))
    arrays = {name: np.repeat(getattr(one, name), count, axis=0) for name in PERSON_ARRAYS}
    return replace(one, crops=pixels, **arrays)


def packing_speed(num_photos: int) -> float:
    """Persons of COCO-sized photos packed in a second of processor time by one process, into 256x192 canvases."""
    data = open_profile("coco_partial_1k").config.data
    with tempfile.TemporaryDirectory() as folder:
        directory = write_photos(Path(folder) / "coco", num_photos)
        persons = load_persons(directory, "train2017")
        started = time.process_time()
        pack_crops(directory, persons, Path(folder) / "packed", data.input_size, data.canvas_scale, data.box_padding)
        return len(persons) / (time.process_time() - started)


def write_photos(directory: Path, count: int) -> Path:
    """A COCO directory of `count` photos of 480x640 px (NUM_FILES files), each with three persons of 200x120 px."""
    (directory / "annotations").mkdir(parents=True)
    (directory / "train2017").mkdir()
    random, images, annotations = np.random.default_rng(0), [], []
    names = [f"{number:012}.jpg" for number in range(1, min(count, NUM_FILES) + 1)]
    for name in names:
        Image.fromarray(photo(random)).save(directory / "train2017" / name, quality=90)
    for number in range(1, count + 1):
        name = names[number % len(names)]
        images.append({"id": number, "file_name": name, "height": 480, "width": 640})
        for place in range(PERSONS_A_PHOTO):
            points = [value for joint in range(17) for value in (40 + 180 * place + 3 * joint, 120 + 10 * joint, 2)]
            annotations.append({"id": 10 * number + place, "image_id": number, "category_id": 1, "iscrowd": 0,
                                "area": 12000.0, "bbox": [20 + 180 * place, 100, 120, 200], "num_keypoints": 17,
                                "keypoints": points})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (directory / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(content))
    return directory

"""Views and targets a second at 256x192: ours against the conventional path, written here as the reference.

The conventional path is that of the field's dataset classes: per sample one JPEG decoded, one cv2.warpAffine, one
Gaussian a joint in NumPy, collated by a DataLoader. The ratios are of one without workers: n of them are n times one
core at best, and what handing over adds is left out in its favour. A row says what it adds, with as many workers as
there are cores, by the wall's clock, since their time is not this process's. Goals: at least 3 times it, decoding
included, per core; at most 5 % of the training step. The parts of ours are timed alone, on what the parts before them
made. Operations of a call, and the bytes that they move, are counted, on any device for batches rendered at once, as
on a GPU: there operations are launches, and say with the bytes what bounds the path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import cv2
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.roofline import count, with_counts
from benchmarks.samples import random_crops
from benchmarks.step import Case, build_case, on_a_cpu, whole_step
from benchmarks.timing import time_alternately
from ssl_pose import augment
from ssl_pose.augment import sample_views
from ssl_pose.batches import Pool, draw_labeled, draw_unlabeled, open_pool, render_crops
from ssl_pose.config import Config
from ssl_pose.geometry import flip_points, transform_points
from ssl_pose.heatmap import image_to_heatmap_points, render_heatmaps
from ssl_pose.model import heatmap_size
from ssl_pose.profiles import open_profile
from ssl_pose.seeding import make_generator

PHOTO = (480, 640)  # height, width: COCO's most frequent size
BATCH = 32
LARGER_BATCH = 256  # tells what a batch costs from what a sample does
ROUNDS = 5
WORKERS = len(os.sched_getaffinity(0))
BATCHES_A_WORKER = 20
PROTOCOL = "coco_partial_1k"
PROFILES = ("default", PROTOCOL)  # whose step the input is a share of
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def photo(random: np.random.Generator) -> np.ndarray:
    """Colours that vary smoothly, with a little noise: about as many bytes in JPEG as a real photo has."""
    coarse = random.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, PHOTO[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return (smooth + random.integers(-12, 13, (*PHOTO, 3))).clip(0, 255).astype(np.uint8)


def conventional_sample(image: np.ndarray, keypoints: np.ndarray, random: np.random.Generator) -> tuple:
    """One view (3, 256, 192) and its heatmaps (17, 64, 48), as a dataset class makes them."""
    angle, scale = random.normal(0, 30), random.uniform(0.75, 1.25)
    matrix = cv2.getRotationMatrix2D((320, 240), angle, scale * 256 / 480)
    matrix[:, 2] += (96 - 320, 128 - 240)
    view = cv2.warpAffine(image, matrix, (192, 256), flags=cv2.INTER_LINEAR)
    view = ((view.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    points = (keypoints @ matrix[:, :2].T + matrix[:, 2]) / 4
    heatmaps = np.zeros((17, 64, 48), np.float32)
    y, x = np.mgrid[0:64, 0:48]
    for joint, (column, row) in enumerate(points):
        heatmaps[joint] = np.exp(-((x - column) ** 2 + (y - row) ** 2) / 8)
    return view, heatmaps


class Conventional(Dataset):
    """A batch of samples, each made when it is asked for; `images` are decoded, or JPEG files to decode."""

    def __init__(self, images: list[np.ndarray], encoded: bool, batches: int = 1) -> None:
        self.images, self.encoded, self.batches = images, encoded, batches
        self.random = np.random.default_rng(0)
        self.keypoints = self.random.uniform((0, 0), PHOTO[::-1], (17, 2))

    def __len__(self) -> int:
        return self.batches * BATCH

    def __getitem__(self, index: int) -> tuple:
        image = self.images[index % len(self.images)]
        image = cv2.imdecode(image, cv2.IMREAD_COLOR) if self.encoded else image
        return conventional_sample(image, self.keypoints, self.random)


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Samples a second of the paths and milliseconds of the parts of ours, and the input's share of the step."""
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    photos = [photo(random) for _ in range(4)]
    encoded = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1] for image in photos]
    config = open_profile(PROTOCOL).config
    paths = {
        "conventional, with decoding": batch_of(DataLoader(Conventional(encoded, encoded=True), BATCH)),
        "conventional, photos in memory": batch_of(DataLoader(Conventional(photos, encoded=False), BATCH)),
        "ours": our_batch(config, BATCH, device),
        **our_parts(config, device),
    }
    larger = f"ours, batches of {LARGER_BATCH}"
    seconds = time_alternately(paths | {larger: our_batch(config, LARGER_BATCH, device)}, ROUNDS, device)
    batches = dict.fromkeys(paths, BATCH) | {larger: LARGER_BATCH}
    both = drawing(build_case(config, "whole method", 4, device))
    counts = {name: count_at_once(path) for name, path in paths.items() if name.startswith("ours")}
    counts[f"both batches of a step of {PROTOCOL}"] = count_at_once(both)
    table = [{"path": name, "samples/s": batches[name] / value, "ms a sample": 1e3 * value / batches[name]}
             for name, value in seconds.items()]
    of_a_worker = time_with_workers(encoded)
    table.append({"path": f"conventional, with decoding, each of {WORKERS} workers", "samples/s": 1 / of_a_worker,
                  "ms a sample": 1e3 * of_a_worker})
    shares = {name: share_of_step(open_profile(name).config, device) for name in PROFILES}
    table += [{"path": f"share of a step of {name}, whole method, K 4", "share": share}
              for name, share in shares.items()]
    ratios = {f"ours over conventional {name}": seconds["ours"] / seconds[path]
              for name, path in (("with decoding", "conventional, with decoding"),
                                 ("in memory", "conventional, photos in memory"))}
    return with_counts(table, counts), ratios | {f"share of a step of {name}": share for name, share in shares.items()}


def count_at_once(work: Callable[[], object]) -> tuple[int, int]:
    """Operations of `work`, and the bytes that they move, where it renders every crop at once.

    So it does on a GPU; a CPU takes a few crops at a time, which fit its cache.
    """
    with mock.patch.object(augment, "CACHED_FLOATS", 2**40):
        work()  # makes what only a first call makes
        return count(work)


def time_with_workers(encoded: list[np.ndarray]) -> float:
    """Seconds of the wall's clock that a worker takes for a sample, while as many work as there are cores."""
    batches = WORKERS * BATCHES_A_WORKER
    loader = DataLoader(Conventional(encoded, True, batches), BATCH, num_workers=WORKERS, persistent_workers=True)
    for _ in loader:  # starts them
        pass
    started = time.perf_counter()
    for _ in loader:
        pass
    return (time.perf_counter() - started) * WORKERS / (batches * BATCH)


def batch_of(loader: DataLoader) -> Callable[[], object]:
    return lambda: next(iter(loader))


def our_batch(config: Config, batch: int, device: torch.device) -> Callable[[], object]:
    """A labelled batch: gathered, views drawn and rendered, heatmaps made."""
    config = replace(config, training=replace(config.training, labeled_batch=batch))
    pool, rows = open_pool(random_crops(config, 64), device), torch.arange(64)
    return lambda: draw_labeled(pool, rows, config, 0, "bench", 0)


def our_parts(config: Config, device: torch.device) -> dict[str, Callable[[], object]]:
    """What `our_batch` does, one part at a time, and the floor of its rendering."""
    size, model = config.data.input_size, config.model
    pool, index = open_pool(random_crops(config, 64), device), torch.arange(BATCH)
    canvases, generator = pool.gather(index), make_generator(0, "bench", device=device)
    seen = sample_views(config.views.labeled, BATCH, size, generator)

    def heatmaps() -> torch.Tensor:
        points = flip_points(transform_points(seen.matrix, pool.keypoints[index.to(device)]), seen.flip)
        cells = image_to_heatmap_points(points, model.heatmap_stride, model.heatmap_alignment)
        return render_heatmaps(cells, heatmap_size(size, model.heatmap_stride), model.heatmap_sigma)

    return {
        "ours, gathering": lambda: pool.gather(index),
        "ours, random numbers of the views": lambda: sample_views(config.views.labeled, BATCH, size, generator),
        "ours, rendering": lambda: render_crops(pool, canvases, seen, config),
        "ours, heatmaps": heatmaps,
        "ours, bilinear sampling alone": sampling_alone(pool, config),
    }


def sampling_alone(pool: Pool, config: Config) -> Callable[[], object]:
    """grid_sample of as many views from a canvas that is float already: the floor of our path.

    In one call on a GPU; on a CPU one view at a time, which stays in its cache.
    """
    size, together = config.data.input_size, 1 if pool.device.type == "cpu" else BATCH
    canvas = pool.gather(torch.tensor([0])).float().contiguous().expand(together, -1, -1, -1)
    matrix = torch.eye(2, 3, device=pool.device)[None] * 0.8
    grid = functional.affine_grid(matrix, (1, 3, *size), align_corners=False).expand(together, -1, -1, -1)
    return lambda: [functional.grid_sample(canvas, grid, align_corners=False) for _ in range(BATCH // together)]


def share_of_step(config: Config, device: torch.device) -> float:
    """Seconds of drawing both batches over those of the whole step."""
    config = on_a_cpu(config) if device.type == "cpu" else config
    case = build_case(config, "whole method", 4, device)
    rounds = ROUNDS if config.model.architecture == "unet" else 3
    seconds = time_alternately({"whole": whole_step(case), "input": drawing(case)}, rounds, device)
    return seconds["input"] / seconds["whole"]


def drawing(case: Case) -> Callable[[], None]:
    """Draws both batches of a step."""
    rows = torch.arange(len(case.pool.keypoints))

    def draw() -> None:
        draw_labeled(case.pool, rows, case.config, 0, "bench", 0)
        draw_unlabeled(case.pool, rows, case.arm, case.config, 0, 0)

    return draw

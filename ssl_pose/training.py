"""Burn-in and runs of the grid: what each trains, on which data, and what it leaves.

Step n draws its data from streams named by n (batches.py), so a state of networks, optimiser and step is all
that a resumed run needs to end with the bits of an uninterrupted one (loop.py). With `training.num_processes`
over 1 both functions hand the run to as many processes (launching.py) and wait for it.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pose.batches import LabeledBatch, Pool, draw_labeled, draw_unlabeled, open_pool
from ssl_pose.collapse import describe_collapse
from ssl_pose.config import ArmConfig, Config, MethodConfig, TrainingConfig, fingerprint
from ssl_pose.crops import CropSet, check_size
from ssl_pose.distributed import ALONE, Processes
from ssl_pose.files import write_json, write_text
from ssl_pose.frameworks import STEPS, Losses, Setting, supervised
from ssl_pose.launching import launch
from ssl_pose.loop import TrainingError, make_ready, open_loop, optimise
from ssl_pose.model import build_model, load_networks, save_networks
from ssl_pose.projection import project_modules
from ssl_pose.provenance import PACKAGE, describe_code, describe_run
from ssl_pose.pseudo_label import update_ema
from ssl_pose.schedules import constant_rate, run_schedule
from ssl_pose.seeding import stream_seed

SECTIONS = ("data", "synthetic", "splits", "model", "views", "method", "training")  # that shape a run
NUM_STUDENTS = 2


def burn_in(
    config: Config, seed: int, crops: CropSet, labeled: np.ndarray, output: Path, state: Path,
    processes: Processes = ALONE,
) -> None:
    """Trains both students, which start differently, on the labelled persons; writes their weights to `output`.

    `labeled` (N,) marks the persons whose labels may be seen. All arms of the seed start from this file.
    """
    if config.training.num_processes > processes.count:
        return launch("burn_in", config, crops, labeled, state, seed=seed, output=output)
    device, pool, rows, _ = _prepare(config, crops, labeled, processes)
    students = [processes.join_batch_norm(student) for student in initial_students(config, seed, device)]
    setting = _setting(config, config.method)
    loop = open_loop("student", students, config.training, processes)
    learners = [processes.join_gradients(student) for student in students]

    def step_losses(step: int) -> Losses:
        return supervised(learners, [], draw_labeled(pool, rows, config, seed, "burn_in", step), None, setting)

    name = f"burn-in of seed {seed}"
    key = _state_key(burn_in_fingerprint(config, seed), crops, labeled)
    optimise(loop, step_losses, None, config.training, config.training.burn_in_steps, constant_rate(config.training),
             state, key, name)
    if processes.writes:
        save_networks(output, students, config.model)


def train_run(
    config: Config, arm_name: str, seed: int, crops: CropSet, labeled: np.ndarray, start: Path,
    model_path: Path, results: Path, state: Path, processes: Processes = ALONE,
) -> dict[str, Any]:
    """Trains one (arm, seed) from the burn-in's weights in `start`; returns the record that it writes.

    `labeled` (N,) marks the persons that the arm's label count labels. Writes the networks that
    `evaluation.load_run` explains to `model_path`, and `log.jsonl` and `train.json` to the folder `results`.
    `state` is the folder of the resume states.
    """
    if config.training.num_processes > processes.count:
        launch("train_run", config, crops, labeled, state, arm_name=arm_name, seed=seed, start=start,
               model_path=model_path, results=results)
        return json.loads((results / "train.json").read_text())
    return _train_here(config, arm_name, seed, crops, labeled, start, model_path, results, state, processes)


def _train_here(
    config: Config, arm_name: str, seed: int, crops: CropSet, labeled: np.ndarray, start: Path,
    model_path: Path, results: Path, state: Path, processes: Processes,
) -> dict[str, Any]:
    """`train_run` in this process, one of `processes`."""
    began, code = time.monotonic(), describe_code()
    arm, name = config.arm(arm_name), f"{arm_name}, seed {seed}"
    config_hash = run_fingerprint(config, arm_name, seed)
    key = _state_key(config_hash, crops, labeled)
    pool_size = count_pool(config, labeled)  # of the split, so that all arms of a seed train equally long
    num_steps = count_steps(config.training, arm, pool_size)
    seen = (crops.visibility > 0).any(1) if arm.labels == "all" else labeled
    device, pool, rows, others = _prepare(config, crops, seen, processes)
    _check_pool(config, arm, pool_size, len(others), name)
    started = _start(config, arm, seed, crops, labeled, start, state, device, processes)[: arm.num_students]
    students = [processes.join_batch_norm(student) for student in started]
    teachers = [copy.deepcopy(student) for student in students] if arm.uses_ema or arm.label_source == "frozen" else []
    setting = _setting(config, arm)

    def labeled_batch(step: int) -> LabeledBatch:
        return draw_labeled(pool, rows, config, seed, "run", step, arm.labeled_views)

    def step_losses(step: int) -> Losses:
        unlabeled = draw_unlabeled(pool, others, arm, config, seed, step) if arm.uses_pool else None
        return STEPS[arm.framework](learners, teachers, labeled_batch(step), unlabeled, setting)

    earlier = 0.0
    if arm.label_source == "frozen":
        earlier = _train_frozen(teachers, labeled_batch, setting, config.training, pool_size, state / "teacher", key,
                                name, processes)
    loop = open_loop("student", students, config.training, processes)
    learners = [processes.join_gradients(student) for student in students]
    loop.networks |= {f"teacher{i}": make_ready(teacher.requires_grad_(False), config.training)
                      for i, teacher in enumerate(teachers)}
    after_step = _ema_update(teachers, students, arm, num_steps) if arm.uses_ema else None
    schedule = run_schedule(config.training, pool_size, arm.relative_steps)
    optimise(loop, step_losses, after_step, config.training, num_steps, schedule, state, key, name)
    seconds = earlier + loop.earlier_seconds + time.monotonic() - began
    record = describe_run(code, config_hash, crops.content_sha256, seconds) | {
        "arm": arm_name, "seed": seed, "steps": num_steps, "num_processes": processes.count,
        "num_labeled": len(rows), "num_unlabeled": len(others) if arm.uses_pool else 0,
        "image_passes": count_passes(arm, config.training, num_steps, pool_size),
        "collapse": describe_collapse(loop.log),
    }
    if processes.writes:
        save_networks(model_path, _kept_networks(arm, students, teachers), config.model)
        _write_record(record, loop.log, results, name)
    return record


def _train_frozen(
    teachers: list[nn.Module], labeled_batch: Callable[[int], LabeledBatch], setting: Setting,
    training: TrainingConfig, pool_size: int, state: Path, key: str, name: str, processes: Processes,
) -> float:
    """Trains the teacher of PseudoPose on labels alone, just as the arm `supervised` trains its network.

    Returns the seconds that earlier sessions spent on it.
    """
    loop = open_loop("teacher", teachers, training, processes)
    learners = [processes.join_gradients(teacher) for teacher in teachers]
    optimise(loop, lambda step: supervised(learners, [], labeled_batch(step), None, setting), None, training,
             training.run_steps(pool_size), run_schedule(training, pool_size), state, key, f"teacher of {name}")
    return loop.earlier_seconds


def _write_record(record: dict[str, Any], log: list[dict[str, float]], results: Path, name: str) -> None:
    """Writes a run's log and its record, and says when the run collapsed."""
    if record["collapse"]:
        print(f"warning: {name}: {record['collapse']}", flush=True)
    write_text("".join(json.dumps(row) + "\n" for row in log), results / "log.jsonl")
    write_json(record, results / "train.json")


def initial_students(config: Config, seed: int, device: torch.device) -> list[nn.Module]:
    """Both students before any training; they start from weights of their own."""
    return [build_model(config.model, seed=stream_seed(seed, "student", index)).to(device)
            for index in range(NUM_STUDENTS)]


def count_pool(config: Config, labeled: np.ndarray) -> int:
    """Persons of the unlabelled pool under the split `labeled` (N,)."""
    return int(_in_pool(config, labeled).sum())


def count_steps(training: TrainingConfig, arm: ArmConfig, pool_size: int) -> int:
    """Steps of a run of `arm` where the unlabelled pool has `pool_size` persons."""
    return max(1, round(training.run_steps(pool_size) * arm.relative_steps))


def count_passes(arm: ArmConfig, training: TrainingConfig, num_steps: int, pool_size: int) -> int:
    """Forward passes of one image that a run's training costs; with its backward pass an image counts three.

    Burn-in is left out: it is the same for all arms. A frozen teacher's own training is in.
    """
    labeled = count_labeled_images(arm, training)
    if not arm.uses_pool:
        return 3 * num_steps * labeled
    sources = arm.num_students * (2 if arm.pairing == "closest" else 1)
    learning = arm.num_students * (labeled + len(arm.strong_paths) * training.unlabeled_batch)
    labeling = sources * (1 + arm.num_views) * training.unlabeled_batch
    before = 3 * training.run_steps(pool_size) * labeled if arm.label_source == "frozen" else 0
    return num_steps * (3 * learning + labeling) + before


def count_labeled_images(arm: ArmConfig, training: TrainingConfig) -> int:
    """Images of labelled persons in a step, each of whom may be seen in two views."""
    return training.labeled_batch * (2 if arm.labeled_views == "both" else 1)


def choose_device(name: str) -> torch.device:
    """The device called `name`; 'auto' is the GPU if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("training.device is cuda but no GPU is usable here; set it to auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _prepare(
    config: Config, crops: CropSet, labeled: np.ndarray, processes: Processes
) -> tuple[torch.device, Pool, Tensor, Tensor]:
    """Device, pool, and the rows of the labelled persons and of the unlabelled pool, on the CPU."""
    check_size(crops, config.data)
    device = choose_device(config.training.device)
    if device.type == "cpu":
        torch.set_num_threads(config.training.num_threads)
    masks = (labeled, _in_pool(config, labeled))
    rows, others = (torch.from_numpy(np.flatnonzero(mask)) for mask in masks)
    pool = open_pool(crops, device, config.training.crops_on_device, processes.rank, processes.count)
    return device, pool, rows, others


def _in_pool(config: Config, labeled: np.ndarray) -> np.ndarray:
    """Mask (N,) of the unlabelled pool under the split `labeled` (N,)."""
    return ~labeled if config.splits.exclude_labeled else np.ones_like(labeled)


def _check_pool(config: Config, arm: ArmConfig, of_split: int, of_arm: int, name: str) -> None:
    """Raises `TrainingError` where a run learns from unlabelled people, or is measured by them, and there are none."""
    if arm.uses_pool and not of_arm:
        raise TrainingError(f"{name}: learns from unlabelled people, but all are labelled; lower splits.label_count "
                            "(0 labels all), let the arm's `labels` be few, or set splits.exclude_labeled to false")
    if not of_split and not config.training.steps:
        raise TrainingError(f"{name}: training.epochs counts passes over unlabelled people, but all are labelled; "
                            "give training.steps instead, or lower splits.label_count (0 labels all)")


def _setting(config: Config, method: MethodConfig) -> Setting:
    model = config.model
    return Setting(method, model.heatmap_sigma, model.heatmap_stride, model.heatmap_alignment,
                   config.training.precision)


def _start(
    config: Config, arm: ArmConfig, seed: int, crops: CropSet, labeled: np.ndarray, start: Path, state: Path,
    device: torch.device, processes: Processes,
) -> list[nn.Module]:
    """The students that an arm starts from: the burn-in's, those of a burn-in of its own where its label count
    differs from the profile's, or, without burn-in, untrained ones."""
    if not arm.burn_in:
        return initial_students(config, seed, device)
    if arm.label_count:
        start = state / "burn_in.safetensors"
        burn_in(config, seed, crops, labeled, start, state / "burn_in", processes)
        processes.wait()
    return load_networks(start, config.model, device)


def _kept_networks(arm: ArmConfig, students: list[nn.Module], teachers: list[nn.Module]) -> list[nn.Module]:
    """What a run leaves: of two students with EMA copies that teach, the copies; else students, then teachers."""
    if arm.num_students > 1:
        return teachers if arm.label_source == "ema" else students
    return [*students, *teachers]


def _ema_update(
    teachers: list[nn.Module], students: list[nn.Module], arm: ArmConfig, num_steps: int
) -> Callable[[], None]:
    """After every step: each teacher follows its student with a horizon that is a share of the run."""
    decay = math.exp(-1 / (arm.ema_horizon * num_steps)) if arm.ema_horizon else 0.0

    def after_step() -> None:
        for teacher, student in zip(teachers, students, strict=True):
            update_ema(teacher, student, decay)

    return after_step


def run_fingerprint(config: Config, arm_name: str, seed: int) -> str:
    """Hash of the numbers that shape a run, as its train.json records it."""
    return _config_hash(config, f"{arm_name}, seed {seed}", config.arm(arm_name))


def burn_in_fingerprint(config: Config, seed: int) -> str:
    """Hash of the numbers that shape the burn-in of a seed."""
    return _config_hash(config, f"burn-in of seed {seed}")


def _config_hash(config: Config, name: str, arm: ArmConfig | None = None) -> str:
    """Hash of the numbers that shape a run."""
    return fingerprint(name, arm and arm.method, *(getattr(config, section) for section in SECTIONS))


def _state_key(config_hash: str, crops: CropSet, labeled: np.ndarray) -> str:
    """What a resume state must have been made with: numbers, data, labels and code."""
    return fingerprint(config_hash, np.flatnonzero(labeled).tolist(), crops.content_sha256, _code())


@functools.cache  # a process runs what it imported, whatever is edited under it
def _code() -> list[str]:
    """The modules that training reaches, without their prose: a comment is no reason to begin anew."""
    return project_modules(f"import {__name__}", PACKAGE)

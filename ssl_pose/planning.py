"""[I/O] What a profile will cost before it starts: cells, steps, images, hours, GPU memory and disk.

Operations, activations and parameters are counted; speeds are those that `make bench` measured and kept in
benchmarks/results/, for a CPU and for a GPU, and the plan says on which: another one may be several times as fast.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_pose.coco import load_persons
from ssl_pose.config import ArmConfig, Config, ConfigError
from ssl_pose.costs import ADAM_BYTES, count_activation_bytes, count_flops, count_parameters
from ssl_pose.download import COCO_PERSONS
from ssl_pose.model import heatmap_size
from ssl_pose.persons import training_persons
from ssl_pose.photos import canvas_size_for
from ssl_pose.profiles import Profile
from ssl_pose.provenance import describe_hardware
from ssl_pose.scheduling import fitting_jobs
from ssl_pose.training import NUM_STUDENTS, choose_device, count_labeled_images, count_passes, count_steps
from ssl_pose.workspace import REPOSITORY

MEASURED = REPOSITORY / "benchmarks" / "results"
PROTOCOLS = ("coco_partial_", "coco_full")  # profiles of COCO itself, whose persons are known
PROCESSORS = {"cpu": "cpu", "cuda": "gpu"}  # what a benchmark's record calls that of a device
ASSUMED_PACKING = 200.0  # persons a second and process, where `make bench` has not measured it


@dataclass(frozen=True)
class Persons:
    """How many persons the profile trains and is scored on; `labeled` is an estimate where images are counted."""

    train: int
    val: int
    labeled: int

    def pool(self, config: Config) -> int:
        return self.train - self.labeled if config.splits.exclude_labeled else self.train


@dataclass(frozen=True)
class Speed:
    """Operations a second of one run in training, on all its processes, and where the number comes from."""

    flops: float
    source: str
    processor: str = ""  # that it was measured on
    least_step: float = 0.0  # seconds: a GPU waits for its next operation, and a small network's step is no shorter

    def hours(self, operations: float, steps: int) -> float:
        """Hours that `steps` steps of so many operations together take."""
        return max(operations / self.flops, steps * self.least_step) / 3600


def plan(profile: Profile, data: str = "", jobs: int = 0) -> str:
    """The cost of `profile` as text: a row an arm, then totals. Raises `ConfigError` if the persons are unknown."""
    config = profile.config
    persons = find_persons(profile, data)
    measured = [row for name in ("step", "step_large", "step_gpu") for row in measured_rows(name)]
    speeds = {name: find_speed(config, measured, arm) for name, arm in config.arms.items()}
    rows = [arm_row(config, name, persons, speeds[name]) for name in config.arms]
    jobs = jobs or fitting_jobs(config.training.num_threads * config.training.num_processes, config.training.device)
    table = pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3g}")
    lines = [table, "", *summary(config, rows, persons, list(speeds.values()), find_speed(config, measured), jobs)]
    return "\n".join(lines)


def measured_rows(benchmark: str) -> list[dict[str, Any]]:
    """What `make bench` last found, each row with the processor of its device; nothing if it never ran."""
    path = MEASURED / f"{benchmark}.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    return [row | {"processor": found["hardware"][PROCESSORS[row.get("device", "cpu")]]} for row in found["rows"]]


def packing_speed() -> float:
    """Persons of COCO-sized photos packed in a second by one process."""
    found = [row["persons/s"] for row in measured_rows("growth") if row.get("persons/s")]
    return max(found, default=ASSUMED_PACKING)


def find_persons(profile: Profile, data: str) -> Persons:
    """Counts from the packed crops if they are there, else from the renderer's numbers or the COCO directory."""
    config, counts = profile.config, {}
    for split in ("train", "val"):
        manifest = profile.folder / "work" / "crops" / split / "manifest.json"
        counts[split] = json.loads(manifest.read_text()) if manifest.exists() else None
    if not all(counts.values()):
        counts = _persons_to_come(profile, data)
    limits = {"train": config.data.max_train_persons, "val": config.data.max_val_persons}
    train, val = (min(counts[split]["num_persons"], limits[split] or math.inf) for split in ("train", "val"))
    per_unit = counts["train"]["num_persons"] / counts["train"]["num_photos"] if config.splits.unit == "image" else 1
    annotated = counts["train"].get("selection", {}).get("persons", train)
    labeled = round(config.splits.label_count * per_unit) if config.splits.label_count else annotated
    return Persons(train, val, min(train, labeled))


def _persons_to_come(profile: Profile, data: str) -> dict[str, dict[str, int]]:
    config, synthetic = profile.config, profile.config.synthetic
    if config.data.source == "synthetic":
        photos = {"train": synthetic.num_train_photos, "val": synthetic.num_val_photos}
        return {split: {"num_persons": round(count * synthetic.persons_per_photo), "num_photos": count}
                for split, count in photos.items()}
    link = profile.folder / "work" / "coco"
    if not (data or link.exists()) and config.profile.startswith(PROTOCOLS):
        return coco_counts(config.data.unlabeled_photos)
    if not (data or link.exists()):
        raise ConfigError("the number of persons is not known: say where the photos are with DATA=<COCO directory>")
    directory = Path(data) if data else link
    records = {"train": training_persons(directory, config.data), "val": load_persons(directory, "val2017")}
    return {split: {"num_persons": len(found), "num_photos": len(set(found.image_id.tolist())),
                    "selection": found.counts} for split, found in records.items()}


def coco_counts(unlabeled_photos: bool) -> dict[str, dict[str, Any]]:
    """COCO's own persons by the standard selection, for plans made before there are photos.

    The annotated persons (Pose2Seg's issue 33 prints the first number) lie in 56,599 and 2,346 photos (Ultralytics'
    coco-pose.yaml). 161,534 persons were detected in unlabeled2017 for Xie et al.'s protocol (Junhojuno/ssl-human-pose,
    config/256x192_hrnet_dual.yaml); how many photos they lie in is assumed, and changes nothing where all of train2017
    is labelled.
    """
    detected = 161_534 if unlabeled_photos else 0
    annotated, val = COCO_PERSONS["train2017"], COCO_PERSONS["val2017"]
    train = {"num_persons": annotated + detected, "num_photos": 56_599 + detected // 2,
             "selection": {"persons": annotated}}
    return {"train": train, "val": {"num_persons": val, "num_photos": 2_346}}


def find_speed(config: Config, measured: list[dict[str, Any]], arm: ArmConfig | None = None) -> Speed:
    """The median speed among the measured steps most like those of `arm`, without one those of burn-in.

    Like in device, which must be the same, then precision, network, input, kind of step and number of views.
    """
    training, device = config.training, training_device(config)
    rows = [row for row in measured if row["device"] == device]
    if not rows:
        raise ConfigError(f"no speed of {device} is known: run `make bench` on such a machine first")
    kinds = step_kinds(arm) if arm else ("supervised",)
    shortest = min((row["whole ms"] for row in rows if row["step"] in kinds), default=0.0) if device == "cuda" else 0.0
    network = f"{config.model.architecture}-{config.model.width}"
    size = "x".join(map(str, config.data.input_size))
    for key, value in (("precision", training.precision), ("network", network), ("input", size)):
        rows = [row for row in rows if row[key] == value] or rows
    rows = [row for row in rows if row["step"] in kinds] or rows
    num_views = arm.num_views if arm else 0
    nearest = min(abs(row["K"] - num_views) for row in rows)
    rows = [row for row in rows if abs(row["K"] - num_views) == nearest]
    speed = 1e9 * float(pd.Series([row["GFLOP/s"] for row in rows]).median())
    source = f"measured, {rows[0]['network']} at {rows[0]['input']} in {rows[0]['precision']} on {device}"
    return Speed(speed * training.num_processes, source, rows[0]["processor"], shortest / 1000)


def training_device(config: Config) -> str:
    """The kind of device, 'cpu' or 'cuda', that the profile trains on; this machine's, where it leaves that open."""
    name = config.training.device
    return choose_device(name).type if name == "auto" else name


def step_kinds(arm: ArmConfig) -> tuple[str, ...]:
    """The kinds of step, of those that `make bench` measures, that an arm's is most like."""
    if not arm.uses_pool:
        return ("supervised",)
    return ("teacher_student",) if arm.num_students == 1 else ("dual_student", "whole method")


def arm_row(config: Config, name: str, persons: Persons, speed: Speed) -> dict[str, Any]:
    """What the cells of one arm cost; hours are those of one cell, burn-in left out."""
    arm, training = config.arm(name), config.training
    steps = count_steps(training, arm, persons.pool(config))
    passes = count_passes(arm, training, steps, persons.pool(config))
    unlabeled = training.unlabeled_batch if arm.uses_pool else 0
    flops = count_flops(config.model, config.data.input_size)
    evaluation = evaluation_passes(config, arm, persons)
    return {
        "arm": name, "seeds": len(config.seeds), "steps": steps,
        "images": steps * (training.labeled_batch + unlabeled), "image passes": passes,
        "hours": speed.hours(passes * flops, steps) + speed.hours(evaluation * flops, 0),
        "memory GB": memory_bytes(config, arm) / 1e9,
    }


def evaluation_passes(config: Config, arm: ArmConfig, persons: Persons) -> int:
    """Forward passes of one image in a cell's evaluation: validation persons, and views of the pool's sample."""
    networks = arm.num_students + (arm.uses_ema or arm.label_source == "frozen")
    rules = config.evaluation
    return networks * ((1 + rules.flip_test) * persons.val + (1 + rules.num_views) * rules.num_pseudo_persons)


def memory_bytes(config: Config, arm: ArmConfig) -> int:
    """Bytes of one process in training: networks, activations, the heatmaps of all views; not the crops."""
    training, model, students = config.training, config.model, arm.num_students
    weights = count_parameters(model) * (ADAM_BYTES * students + 4 * students * arm.uses_ema)
    share = 0.5 if training.precision == "bf16" else 1.0
    pool = arm.uses_pool * training.unlabeled_batch
    images = count_labeled_images(arm, training) + len(arm.strong_paths) * pool
    activations = share * students * images * count_activation_bytes(model, config.data.input_size)
    cells = math.prod(heatmap_size(config.data.input_size, model.heatmap_stride))
    views = (1 + arm.num_views) * pool * (3 * math.prod(config.data.input_size) + 6 * 17 * cells) * 4
    return round(weights + (activations + views) / training.num_processes)


def cell_networks(arm: ArmConfig) -> tuple[int, int]:
    """What a cell leaves on the disk, in weights of one network: its model, and its resume states.

    A state holds every network and Adam's two moments of those that learn; the training of a frozen teacher and a
    burn-in of the arm's own leave one each.
    """
    teachers = arm.num_students * (arm.uses_ema or arm.label_source == "frozen")
    model = arm.num_students if arm.num_students > 1 else 1 + teachers
    states = 3 * arm.num_students + teachers * (4 if arm.label_source == "frozen" else 1)
    own_burn_in = NUM_STUDENTS if arm.burn_in and arm.label_count else 0
    return model + own_burn_in, states + 3 * own_burn_in


def disk_bytes(config: Config) -> tuple[int, int]:
    """Bytes of all models, burn-ins' among them, and of all resume states; those kept from before a collapse are at
    most as many again as these."""
    burn_in, cells = (NUM_STUDENTS, 3 * NUM_STUDENTS), [cell_networks(arm) for arm in config.arms.values()]
    models, states = (sum(counts) for counts in zip(burn_in, *cells, strict=True))
    network = 4 * count_parameters(config.model) * len(config.seeds)
    return models * network, states * network


def speed_lines(config: Config, speeds: list[Speed]) -> list[str]:
    """How fast the arms' steps are taken to be, and on which processor that was measured."""
    lowest, highest = (bound(speed.flops for speed in speeds) / 1e9 for bound in (min, max))
    processors, count = sorted({speed.processor for speed in speeds}), config.training.num_processes
    lines = [f"speed        {lowest:,.3g} to {highest:,.3g} GFLOP/s a run, by kind of step ({speeds[0].source}: "
             f"{', '.join(processors)})"]
    if count > 1:
        lines.append(f"             {count} processes of a run are taken to be {count} times as fast as one (assumed)")
    if shortest := [1000 * speed.least_step for speed in speeds if speed.least_step]:
        lines.append(f"             no step is taken to be shorter than the shortest measured of its kind, "
                     f"{min(shortest):.3g} to {max(shortest):.3g} ms")
    here = describe_hardware()[PROCESSORS[training_device(config)]]
    if here and processors != [here]:
        lines.append(f"warning      this machine is another, {here}: its times may differ several-fold")
    return lines


def summary(
    config: Config, rows: list[dict[str, Any]], persons: Persons, speeds: list[Speed], burn_in_speed: Speed, jobs: int
) -> list[str]:
    """The totals as lines; `speeds` are those of the arms."""
    training, flops = config.training, count_flops(config.model, config.data.input_size)
    cells = len(rows) * len(config.seeds)
    burn_in = burn_in_speed.hours(3 * NUM_STUDENTS * training.burn_in_steps * training.labeled_batch * flops,
                                  training.burn_in_steps)
    hours = len(config.seeds) * (sum(row["hours"] for row in rows) + burn_in)
    packing = (persons.train + persons.val) / packing_speed() / config.data.num_workers / 3600
    crop = 3 * math.prod(canvas_size_for(config.data.input_size, config.data.canvas_scale))
    crops = crop * (persons.train + persons.val)
    models, states = disk_bytes(config)
    memory = max(row["memory GB"] for row in rows)
    return [
        f"cells        {cells}: {len(rows)} arms x {len(config.seeds)} seeds, and {len(config.seeds)} burn-ins of "
        f"{burn_in:.2g} h",
        f"persons      {persons.train:,} to train on, {persons.labeled:,} of them labelled; {persons.val:,} held out",
        f"steps        {len(config.seeds) * sum(row['steps'] for row in rows):,}; images "
        f"{len(config.seeds) * sum(row['images'] for row in rows):,}; passes of an image "
        f"{len(config.seeds) * sum(row['image passes'] for row in rows):,} of {flops / 1e9:.2g} GFLOP",
        *speed_lines(config, speeds),
        f"hours        {hours:.2g} of one run after another, {hours / jobs:.2g} with {jobs} side by side; packing "
        f"{packing:.2g}",
        f"GPU memory   up to {memory:.2g} GB a process beside its context, and {crops / 1e9:.3g} GB of crops if they "
        "live there",
        f"disk         {(crops + models + states) / 1e9:.3g} GB: crops {crops / 1e9:.3g}, weights {models / 1e9:.3g}, "
        f"resume states {states / 1e9:.3g}; up to {states / 1e9:.3g} more where runs collapse",
    ]

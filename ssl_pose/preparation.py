"""[I/O] What every cell needs, in a workspace: photos, the selected persons, their packed crops and the seeds' splits.

The stages `data` and `splits` make these, and so does what trains cells without DVC, by the same functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_pose.coco import PersonRecords, load_persons
from ssl_pose.crops import CropSet, load_crops
from ssl_pose.packing import pack_crops, print_tenths, readable_persons
from ssl_pose.persons import first_persons, training_persons
from ssl_pose.splits import draw_labels, unit_ids, write_split
from ssl_pose.synthetic import write_benchmark
from ssl_pose.workspace import Workspace

SPLITS = ("train", "val")


def render_photos(here: Workspace) -> None:
    """The embedded benchmark as the workspace's COCO directory; one that was given is used as it is."""
    data, numbers = here.config.data, here.config.synthetic
    if data.source == "synthetic":
        write_benchmark(here.coco, numbers.num_train_photos, numbers.num_val_photos, numbers.photo_size,
                        numbers.persons_per_photo, numbers.seed, num_workers=data.num_workers)


def select_persons(here: Workspace) -> tuple[dict[str, PersonRecords], list[str]]:
    """The persons to train on and those held out, by split; and a line for each photo that is left out as broken."""
    data = here.config.data
    records = {"train": training_persons(here.coco, data),
               "val": first_persons(load_persons(here.coco, "val2017"), data.max_val_persons)}
    broken: list[str] = []
    if data.skip_broken_photos:
        for split in SPLITS:
            records[split], lines = readable_persons(here.coco, records[split], data.num_workers)
            broken += lines
    return records, broken


def pack_persons(here: Workspace, records: dict[str, PersonRecords]) -> dict[str, dict[str, Any]]:
    """The packed crops of both splits; returns their manifests, by split."""
    data = here.config.data
    return {split: pack_crops(here.coco, records[split], here.crops(split), data.input_size, data.canvas_scale,
                              data.box_padding, data.num_workers, print_tenths(f"{split} persons"))
            for split in SPLITS}


def make_split(here: Workspace, crops: CropSet, seed: int) -> np.ndarray:
    """The labelled mask (N,) of `seed` over the training `crops`, drawn and written."""
    rule = here.config.splits
    labeled = draw_labels(crops, rule.label_count, seed, rule.method, rule.unit, rule.file)
    write_split(here.split(seed), crops, labeled, label_count=len(np.unique(unit_ids(crops, rule.unit)[labeled])),
                seed=seed, method=rule.method, unit=rule.unit)
    return labeled


def ensure_data(here: Workspace) -> None:
    """Crops and splits where they are missing; what the stages write for the report beside them is left to them."""
    if not all((here.crops(split) / "manifest.json").exists() for split in SPLITS):
        render_photos(here)
        pack_persons(here, select_persons(here)[0])
    crops = load_crops(here.crops("train"))
    for seed in here.config.seeds:
        if not here.split(seed).exists():
            make_split(here, crops, seed)

"""[I/O] From photos to packed crops in a workspace: what the stage `data` does, and what trains cells without DVC."""

from __future__ import annotations

from typing import Any

from ssl_pose.coco import PersonRecords, load_persons
from ssl_pose.config import Config, fingerprint
from ssl_pose.made import note_made
from ssl_pose.packing import pack_crops, print_tenths, readable_persons
from ssl_pose.persons import first_persons, training_persons
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


def data_fingerprint(config: Config) -> str:
    """Hash of the numbers that shape the packed crops."""
    return fingerprint(config.data, config.synthetic)


def pack_persons(here: Workspace, records: dict[str, PersonRecords]) -> dict[str, dict[str, Any]]:
    """The packed crops of both splits; returns their manifests, by split."""
    data, manifests = here.config.data, {}
    for split in SPLITS:
        manifests[split] = pack_crops(here.coco, records[split], here.crops(split), data.input_size, data.canvas_scale,
                                      data.box_padding, data.num_workers, print_tenths(f"{split} persons"))
        note_made(here, here.crops(split) / "manifest.json", data_fingerprint(here.config))
    return manifests

"""`make repro` of the default profile: what it took against its training alone, as its last run recorded it.

Goals: at most 1.15 times the training, and 25 minutes on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ssl_pose.profiles import open_profile
from ssl_pose.results import grid, read_json, run_file
from ssl_pose.workspace import REPOSITORY

RECORD = REPOSITORY / "work" / "last_run.json"
TRAINING = ("burn_in", "train")


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Minutes by kind of stage, as `make repro` last ran all cells here; where it never did, of committed training."""
    config = open_profile("default").config
    record = read_record(RECORD, len(config.grid) * len(config.seeds))
    return summarise(record) if record else (committed(REPOSITORY / "results" / config.profile), {})


def read_record(path: Path, num_cells: int) -> dict:
    """What a run of at least `num_cells` cells left; empty where there is none."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return record if sum(stage.startswith("train@") for stage in record["stage_seconds"]) >= num_cells else {}


def summarise(record: dict) -> tuple[list[dict], dict[str, float]]:
    """A row for each kind of stage and one for the whole, and the whole over its training, summed and by the wall."""
    kinds: dict[str, list[float]] = {}
    for stage, seconds in record["stage_seconds"].items():
        kinds.setdefault(stage.partition("@")[0], []).append(seconds)
    rows = [{"stage": kind, "runs": len(values), "minutes": sum(values) / 60} for kind, values in kinds.items()]
    total, wall = sum(map(sum, kinds.values())), record["wall_seconds"]
    training = sum(sum(kinds.get(kind, [])) for kind in TRAINING)
    rows += [{"stage": "all, one after another", "runs": len(record["stage_seconds"]), "minutes": total / 60},
             {"stage": "all, by the wall clock", "runs": len(record["stage_seconds"]), "minutes": wall / 60}]
    return rows, {"all stages over training": total / training, "wall clock over training": wall / training}


def committed(results: Path) -> list[dict]:
    """The minutes of training in the committed records."""
    config = open_profile("default").config
    paths = [run_file(results, arm, seed, "train.json") for arm, seed in grid(config)]
    trained = [read_json(path)["wall_seconds"] for path in paths if path.exists()]
    return [{"stage": "training, as the committed records say", "runs": len(trained), "minutes": sum(trained) / 60}]

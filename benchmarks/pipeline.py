"""`make repro` of the default profile: what it took against its stages of training, starts of interpreters included.

Goals: at most 1.15 times the training, and 25 minutes on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from ssl_pose.profiles import open_profile
from ssl_pose.scheduling import read_durations
from ssl_pose.workspace import REPOSITORY

WORK = REPOSITORY / "work"
TRAINING = ("burn_in", "train")


def run(device: torch.device) -> tuple[list[dict], dict[str, float]] | None:
    """Minutes by kind of stage, as `make repro` last ran each here; None where it never ran them all."""
    config = open_profile("default").config
    num_cells = len(config.grid) * len(config.seeds)
    durations = {stage: seconds for stage, seconds in read_durations(WORK / "durations.json").items()
                 if not stage.startswith("cell@")}  # of a sweep, whose stages they repeat
    if count_cells(durations) < num_cells:
        return None
    return summarise(durations, read_wall_seconds(WORK / "last_run.json", num_cells))


def count_cells(stages: Iterable[str]) -> int:
    return sum(stage.startswith("train@") for stage in stages)


def read_wall_seconds(path: Path, num_cells: int) -> float | None:
    """What the last run took if it trained all cells: one that went on from another says nothing of the whole."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return record["wall_seconds"] if count_cells(record["stage_seconds"]) >= num_cells else None


def summarise(durations: dict[str, float], wall_seconds: float | None) -> tuple[list[dict], dict[str, float]]:
    """A row for each kind of stage and for the whole, and the whole over its training, summed and by the wall clock."""
    kinds: dict[str, list[float]] = {}
    for stage, seconds in durations.items():
        kinds.setdefault(stage.partition("@")[0], []).append(seconds)
    rows = [{"stage": kind, "runs": len(values), "minutes": sum(values) / 60} for kind, values in kinds.items()]
    wholes = {"all stages": sum(durations.values())} | ({"wall clock": wall_seconds} if wall_seconds else {})
    rows += [{"stage": name, "runs": len(durations), "minutes": seconds / 60} for name, seconds in wholes.items()]
    training = sum(sum(kinds.get(kind, [])) for kind in TRAINING)
    return rows, {f"{name} over training": seconds / training for name, seconds in wholes.items()}

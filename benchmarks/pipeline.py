"""`make repro` of the default profile: what it took against its training alone, from the recorded durations.

Goals: at most 1.15 times the training, and 25 minutes on two cores.
"""

from __future__ import annotations

import torch

from ssl_pose.profiles import open_profile
from ssl_pose.results import grid, read_json, run_file
from ssl_pose.scheduling import read_durations
from ssl_pose.workspace import REPOSITORY


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Minutes of all stages by kind, as `make repro` last ran them here; of training alone where it never did."""
    config = open_profile("default").config
    durations = read_durations(REPOSITORY / "work" / "durations.json")
    if not durations:
        results = REPOSITORY / "results" / config.profile
        trained = [read_json(run_file(results, arm, seed, "train.json"))["wall_seconds"] for arm, seed in grid(config)
                   if (results / "runs" / arm / f"seed-{seed}" / "train.json").exists()]
        return [{"stage": "training, as the committed records say", "runs": len(trained),
                 "minutes": sum(trained) / 60}], {}
    kinds: dict[str, list[float]] = {}
    for stage, seconds in durations.items():
        kinds.setdefault(stage.partition("@")[0], []).append(seconds)
    rows = [{"stage": kind, "runs": len(values), "minutes": sum(values) / 60} for kind, values in kinds.items()]
    training = sum(sum(kinds.get(kind, [])) for kind in ("burn_in", "train"))
    return rows, {"all stages over training": sum(durations.values()) / training} if training else {}

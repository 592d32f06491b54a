"""What the options of a training step are worth: the whole method's step with one of them changed at a time.

Compilation has its rows in throughput.py; the number of threads, and streams of several GPUs, are the machine's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from benchmarks.step import Case, build_case, on_a_cpu, whole_step
from benchmarks.timing import time_alternately
from ssl_pose.config import Config
from ssl_pose.profiles import open_profile

ROUNDS = 5
NUM_VIEWS = 4
PROFILES = ("default", "coco_partial_1k")  # of the small network and of the one that is meant


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """A row an option and network: milliseconds, and the ratio to the step as the profile has it."""
    rows = []
    for profile in PROFILES[device.type == "cuda":]:
        config = open_profile(profile).config
        rows += measure(on_a_cpu(config) if device.type == "cpu" else config, device)
    return rows, {f"{device.type}, {row['network']}: the step as it is over {row['step']}": 1 / row["ratio"]
                  for row in rows if row["step"] != "as it is"}


def measure(config: Config, device: torch.device) -> list[dict[str, Any]]:
    """The rows of one network."""
    works = {name: whole_step(case) for name, case in changed_cases(config, device).items()}
    seconds = time_alternately(works, ROUNDS, device)
    network = f"{config.model.architecture}-{config.model.width}"
    return [{"network": network, "step": name, "ms": 1e3 * value, "ratio": value / seconds["as it is"]}
            for name, value in seconds.items()]


def changed_cases(config: Config, device: torch.device) -> dict[str, Case]:
    """The whole method as `config` has it, and with one option changed."""
    def case(**training: Any) -> Case:
        changed = replace(config, training=replace(config.training, **training))
        return build_case(changed, "whole method", NUM_VIEWS, device)

    other = "fp32" if config.training.precision == "bf16" else "bf16"
    plain = case()
    parameters = [parameter for student in plain.students for parameter in student.parameters()]
    return {
        "as it is": case(),
        f"in {other}": case(precision=other),
        "without channels_last": case(channels_last=not config.training.channels_last),
        "optimiser not fused": replace(plain, optimizer=torch.optim.Adam(parameters, lr=1e-3)),
    }

"""The whole method's samples a second, and what bounds them: operations against the measured peak.

Meant for a GPU with the numbers of coco_partial_1k (goal: 1,500 unlabelled samples a second); on a CPU it runs with
those of the default profile.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.step import NUM_PERSONS, build_case, network_passes, whole_step
from benchmarks.timing import time_alternately
from ssl_pose.costs import count_flops
from ssl_pose.profiles import open_profile
from ssl_pose.training import count_passes

ROUNDS = 5
NUM_VIEWS = 4


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Milliseconds of the step and of its passes, and operations a second against the measured peak."""
    config = open_profile("coco_partial_1k" if device.type == "cuda" else "default").config
    config = replace(config, training=replace(config.training, precision="bf16"))
    case = build_case(config, "whole method", NUM_VIEWS, device)
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    works = {"step": whole_step(case), "passes": network_passes(case), "product": lambda: left @ right}
    seconds = time_alternately(works, ROUNDS, device)
    operations = count_passes(case.arm, config.training, 1, NUM_PERSONS) * count_flops(
        config.model, config.data.input_size)
    peak = 2 * size**3 / seconds["product"]
    rows = [{"work": name, "ms": 1e3 * value, "unlabeled/s": config.training.unlabeled_batch / value,
             "TFLOP/s": operations / value / 1e12, "share of peak": operations / value / peak}
            for name, value in seconds.items() if name != "product"]
    rows.append({"work": "bf16 product (the peak)", "ms": 1e3 * seconds["product"], "TFLOP/s": peak / 1e12})
    return rows, {f"{device.type}: step over passes": seconds["step"] / seconds["passes"]}

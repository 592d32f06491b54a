"""Algorithm 1 without its networks: bytes that it must move, a second, against the device's copy bandwidth.

Must: read every view's heatmaps once and write both targets once. Goal: at least half of the copy's bytes a second.
"""

from __future__ import annotations

import torch

from benchmarks.roofline import COPIED, copy_work
from benchmarks.step import build_case
from benchmarks.timing import as_graph, time_alternately
from ssl_pose.batches import draw_unlabeled
from ssl_pose.model import heatmap_size
from ssl_pose.profiles import open_profile
from ssl_pose.pseudo_label import denoise, move_to_view, select_targets

ROUNDS = 7
NUM_VIEWS = 4


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Milliseconds of the target computation for both students, its bandwidth, and that of a copy."""
    config = open_profile("coco_partial_1k" if device.type == "cuda" else "default").config
    case = build_case(config, "whole method", NUM_VIEWS, device)
    batch, sigma = config.training.unlabeled_batch, config.model.heatmap_sigma
    unlabeled = draw_unlabeled(case.pool, torch.arange(64), case.arm, config, 0, 0)
    size = heatmap_size(config.data.input_size, config.model.heatmap_stride)
    views = [torch.rand(1 + NUM_VIEWS, batch, 17, *size, device=device) for _ in range(2)]
    strong = unlabeled.strong[0]

    def targets() -> None:
        labels = [denoise(maps, unlabeled.view_matrix, unlabeled.view_flip, case.arm, sigma) for maps in views]
        for own, other in (labels, labels[::-1]):
            chosen = select_targets(own, other, case.arm.selection, case.arm.uncertainty_margin)
            move_to_view(chosen, strong.matrix, strong.flip, case.arm, sigma)

    works = {"targets of both students, K 4": targets}
    if device.type == "cuda":
        works["targets, as a CUDA graph"] = as_graph(targets, device)
        works["targets, compiled"] = torch.compile(targets)
    with torch.no_grad():
        seconds = time_alternately(works | {"copy": copy_work(device)}, ROUNDS, device)
    moved = 2 * (2 + NUM_VIEWS) * batch * 17 * size[0] * size[1] * 4
    bandwidth = {work: moved / seconds[work] for work in works} | {"copy": 2 * COPIED[device.type] / seconds["copy"]}
    rows = [{"work": work, "ms": 1e3 * seconds[work], "GB/s": value / 1e9} for work, value in bandwidth.items()]
    return rows, {f"copy bandwidth over that of {work}": bandwidth["copy"] / bandwidth[work] for work in works}

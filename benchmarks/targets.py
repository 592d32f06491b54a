"""Algorithm 1 without its networks: bytes that it must move, a second, against the device's copy bandwidth.

Must: read every view's heatmaps once and write both targets once. Goal: at least half of the copy's bytes a second. The
parts are timed alone, on what the parts before them made, and what each moves, operation by operation, is counted. What
fusing would save, torch.compile says. On a GPU batches larger than the protocol's tell launches from bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.roofline import COPIED, copy_work, count, with_counts
from benchmarks.step import build_case
from benchmarks.timing import as_graph, time_alternately
from ssl_pose.batches import draw_unlabeled
from ssl_pose.config import Config
from ssl_pose.model import heatmap_size
from ssl_pose.profiles import open_profile
from ssl_pose.pseudo_label import (
    Target,
    align_to_reference,
    denoise,
    ensemble_heatmaps,
    estimate_uncertainty,
    move_to_view,
    select_targets,
    threshold_and_refine,
)

ROUNDS = 7
NUM_VIEWS = 4
WHOLE = "targets of both students, K 4"
LARGER_BATCHES = (128, 512)  # on a GPU
PROTOCOL = "coco_partial_1k"  # what a GPU is timed on; elsewhere its operations are counted all the same


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Milliseconds of the target computation for both students and of its parts, its bandwidth, and that of a copy."""
    config = open_profile(PROTOCOL if device.type == "cuda" else "default").config
    batch = config.training.unlabeled_batch
    targets, parts = target_works(config, batch, device)
    works, sizes = {WHOLE: targets, "targets, compiled": compiled_targets(targets)}, {}
    if device.type == "cuda":
        works["targets, as a CUDA graph"] = as_graph(targets, device)
        for larger in LARGER_BATCHES:
            works[f"{WHOLE}, batch {larger}"] = target_works(config, larger, device)[0]
            sizes[f"{WHOLE}, batch {larger}"] = larger
    with torch.no_grad():
        counts = {work: count(call) for work, call in ({WHOLE: targets} | parts).items()}
        if device.type == "cpu":
            counts[f"{WHOLE}, of {PROTOCOL}"] = count_protocol(device)
        seconds = time_alternately(works | parts | {"copy": copy_work(device)}, ROUNDS, device)
    bandwidth = {work: bytes_to_move(config, sizes.get(work, batch)) / seconds[work] for work in works}
    bandwidth["copy"] = 2 * COPIED[device.type] / seconds["copy"]
    rows = [{"work": work, "ms": 1e3 * value, "GB/s": 1e-9 * bandwidth[work] if work in bandwidth else None}
            for work, value in seconds.items()]
    ratios = {f"copy bandwidth over that of {work}": bandwidth["copy"] / bandwidth[work] for work in works}
    return with_counts(rows, counts), ratios


def compiled_targets(targets: Callable[[], list[Target]]) -> Callable[[], list[Target]]:
    """`targets` by torch.compile, which compiles them when they are first called."""
    return torch.compile(targets)


def count_protocol(device: torch.device) -> tuple[int, int]:
    """Operations of both students' targets at the protocol's batch, and the bytes that they move."""
    config = open_profile(PROTOCOL).config
    return count(target_works(config, config.training.unlabeled_batch, device)[0])


def target_works(
    config: Config, batch: int, device: torch.device
) -> tuple[Callable[[], list[Target]], dict[str, Callable[[], object]]]:
    """The targets of both students from a batch's heatmaps, and each part of it for both."""
    config = replace(config, training=replace(config.training, unlabeled_batch=batch))
    case = build_case(config, "whole method", NUM_VIEWS, device)
    sigma, arm = config.model.heatmap_sigma, case.arm
    unlabeled = draw_unlabeled(case.pool, torch.arange(64), arm, config, 0, 0)
    size = heatmap_size(config.data.input_size, config.model.heatmap_stride)
    views = [torch.rand(1 + NUM_VIEWS, batch, 17, *size, device=device) for _ in range(2)]
    seen, strong = (unlabeled.view_matrix, unlabeled.view_flip), unlabeled.strong[0]
    aligned = [align_to_reference(maps, *seen) for maps in views]
    combined = [ensemble_heatmaps(*maps, arm.ensemble) for maps in aligned]
    labels = [denoise(maps, *seen, arm, sigma) for maps in views]
    pairs = (labels, labels[::-1])

    def targets() -> list[Target]:  # returned, or a compiler leaves out what nobody asks for
        found = [denoise(maps, *seen, arm, sigma) for maps in views]
        chosen = [select_targets(own, other, arm.selection, arm.uncertainty_margin)
                  for own, other in (found, found[::-1])]
        return [move_to_view(label, strong.matrix, strong.flip, arm, sigma) for label in chosen]

    return targets, {
        "of these, views warped to the reference": lambda: [align_to_reference(maps, *seen) for maps in views],
        "of these, maximum": lambda: [ensemble_heatmaps(*maps, arm.ensemble) for maps in aligned],
        "of these, uncertainty": lambda: [estimate_uncertainty(*maps) for maps in aligned],
        "of these, threshold-and-refine": lambda: [
            threshold_and_refine(maps, arm.confidence_threshold, sigma) for maps in combined],
        "of these, selection": lambda: [
            select_targets(own, other, arm.selection, arm.uncertainty_margin) for own, other in pairs],
        "of these, move to the strong view": lambda: [
            move_to_view(label, strong.matrix, strong.flip, arm, sigma) for label in labels],
    }


def bytes_to_move(config: Config, batch: int) -> int:
    """Every view's heatmaps read once and one target written, for both students, in fp32."""
    height, width = heatmap_size(config.data.input_size, config.model.heatmap_stride)
    return 2 * (2 + NUM_VIEWS) * batch * 17 * height * width * 4

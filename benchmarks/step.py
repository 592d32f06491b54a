"""The whole training step against its network passes alone: the same passes, on fixed tensors.

Goal: at most 1.10. What a step adds to its passes: the crops' gathering, the random views and their warps, true
heatmaps, Algorithm 1, the loss, the EMA copy. The passes are forward and backward ones with a fixed gradient at the
heatmaps, and the optimiser's update. The operations of both, and the bytes that these move, are counted on one call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.roofline import count
from benchmarks.samples import random_crops
from benchmarks.timing import time_alternately
from ssl_pose.batches import Pool, draw_labeled, draw_unlabeled, open_pool
from ssl_pose.config import ArmConfig, Config
from ssl_pose.costs import count_flops
from ssl_pose.frameworks import STEPS, Setting, pseudo_label_mode
from ssl_pose.model import build_model, heatmap_size, predict_heatmaps
from ssl_pose.profiles import open_profile
from ssl_pose.pseudo_label import update_ema
from ssl_pose.training import count_passes

NUM_PERSONS = 256
ROUNDS = 7
FRAMEWORK_CASES = {  # the options that make the four kinds of step, from cheap to whole
    "supervised": {"framework": "supervised"},
    "teacher_student": {"framework": "teacher_student", "label_source": "ema", "target": "soft", "selection": "off"},
    "dual_student": {"framework": "dual_student", "label_source": "student", "target": "soft", "selection": "off"},
    "whole method": {"framework": "dual_student", "label_source": "student", "target": "threshold_and_refine",
                     "selection": "cross"},
}


@dataclass(frozen=True)
class Case:
    """One kind of step with everything that it needs."""

    config: Config
    arm: ArmConfig
    pool: Pool
    students: list[nn.Module]
    teachers: list[nn.Module]
    optimizer: torch.optim.Optimizer


def on_a_cpu(config: Config) -> Config:
    """`config` with batches that a CPU gets through: of a large network two images of each kind."""
    if config.model.architecture == "unet":
        return config
    return replace(config, training=replace(config.training, labeled_batch=2, unlabeled_batch=2))


def cases(num_views: tuple[int, ...]) -> list[tuple[str, int]]:
    return [(name, views) for name in FRAMEWORK_CASES for views in ((0,) if name == "supervised" else num_views)]


def build_case(config: Config, name: str, num_views: int, device: torch.device) -> Case:
    """The case called `name` with `num_views` extra views, of the numbers of `config`, on `device`."""
    options = FRAMEWORK_CASES[name] | {"num_views": num_views, "ensemble": "maximum" if num_views else "none"}
    arm = replace(next(iter(config.arms.values())), **options)
    untrained = replace(config.model, pretrained="none")
    students = [build_model(untrained, seed=index).to(device).train() for index in range(arm.num_students)]
    if config.training.channels_last:
        students = [student.to(memory_format=torch.channels_last) for student in students]
    teachers = [copy.deepcopy(student).requires_grad_(False) for student in students] if arm.uses_ema else []
    parameters = [parameter for student in students for parameter in student.parameters()]
    pool = open_pool(random_crops(config, NUM_PERSONS), device)
    return Case(config, arm, pool, students, teachers, torch.optim.Adam(parameters, lr=1e-3, fused=True))


def whole_step(case: Case) -> Callable[[], None]:
    """The step as the training loop takes it, each time the next one; without the log's sums."""
    config, arm, rows = case.config, case.arm, torch.arange(len(case.pool.keypoints))
    model, numbers = config.model, iter(range(10**9))
    setting = Setting(arm, model.heatmap_sigma, model.heatmap_stride, model.heatmap_alignment,
                      config.training.precision)

    def step() -> None:
        number = next(numbers)
        labeled = draw_labeled(case.pool, rows, config, 0, "run", number)
        unlabeled = draw_unlabeled(case.pool, rows, arm, config, 0, number) if arm.uses_pool else None
        losses = STEPS[arm.framework](case.students, case.teachers, labeled, unlabeled, setting)
        case.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        case.optimizer.step()
        for teacher, student in zip(case.teachers, case.students, strict=False):
            update_ema(teacher, student, 0.99)

    return step


def network_passes(case: Case) -> Callable[[], None]:
    """The passes of `whole_step` through the networks alone, on tensors made once, and the optimiser's update."""
    config, arm, device = case.config, case.arm, case.pool.device
    training, uses_pool = config.training, arm.uses_pool
    height, width = heatmap_size(config.data.input_size, config.model.heatmap_stride)
    layout = torch.channels_last if training.channels_last else torch.contiguous_format

    def noise(images: int) -> torch.Tensor:
        return torch.randn(images, 3, *config.data.input_size, device=device).contiguous(memory_format=layout)

    seen = noise((1 + arm.num_views) * training.unlabeled_batch) if uses_pool else None
    learned = noise(training.labeled_batch + uses_pool * len(arm.strong_paths) * training.unlabeled_batch)
    gradient = 1e-6 * torch.randn(len(learned), 17, height, width, device=device)
    sources = (case.teachers or case.students) if uses_pool else []

    def passes() -> None:
        for network in sources:
            with torch.no_grad(), pseudo_label_mode(network, arm.pseudo_label_batch_norm):
                predict_heatmaps(network, seen, training.precision)
        predicted = [predict_heatmaps(student, learned, training.precision) for student in case.students]
        case.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(predicted, [gradient] * len(predicted))
        case.optimizer.step()

    return passes


def measure(config: Config, device: torch.device, num_views: tuple[int, ...], rounds: int) -> list[dict]:
    """One row a case: seconds of the whole step and of its passes, their ratio, and what each does, counted."""
    rows = []
    flops = count_flops(config.model, config.data.input_size)
    for name, views in cases(num_views):
        case = build_case(config, name, views, device)
        works = {"whole": whole_step(case), "passes": network_passes(case)}
        seconds = time_alternately(works, rounds, device)
        counts = {work: count(call) for work, call in works.items()}  # once what a first call makes is there
        passes = count_passes(case.arm, config.training, 1, NUM_PERSONS)
        rows.append({
            "step": name, "K": views, "precision": config.training.precision,
            "network": f"{config.model.architecture}-{config.model.width}",
            "input": "x".join(map(str, config.data.input_size)), "device": device.type,
            "labeled": config.training.labeled_batch, "unlabeled": config.training.unlabeled_batch,
            "whole ms": 1e3 * seconds["whole"], "passes ms": 1e3 * seconds["passes"],
            "ratio": seconds["whole"] / seconds["passes"], "image passes": passes,
            "GFLOP/s": 1e-9 * passes * flops / seconds["whole"],
            **{f"{work} operations": operations for work, (operations, _) in counts.items()},
            **{f"{work} GB": 1e-9 * moved for work, (_, moved) in counts.items()},
        })
        print(f"  {name}, K {views}, {config.training.precision}: {rows[-1]['ratio']:.3f}", flush=True)
    return rows


def run(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Rows of both precisions at the numbers of the default profile, on a GPU of coco_partial_1k, and their ratios."""
    config = open_profile("coco_partial_1k" if device.type == "cuda" else "default").config
    rows = []
    for precision in ("fp32", "bf16"):
        training = replace(config.training, precision=precision)
        rows += measure(replace(config, training=training), device, num_views=(1, 4, 8), rounds=ROUNDS)
    return rows, step_ratios(rows)


def run_large(device: torch.device) -> tuple[list[dict], dict[str, float]]:
    """Rows of the ResNet-18 at 256x192 of coco_partial_1k in its precision, with few images a step on a CPU."""
    config = open_profile("coco_partial_1k").config
    config = on_a_cpu(config) if device.type == "cpu" else config
    rows = measure(config, device, num_views=(1, 4, 8), rounds=5 if device.type == "cpu" else ROUNDS)
    return rows, step_ratios(rows)


def step_ratios(rows: list[dict]) -> dict[str, float]:
    return {f"{row['device']}, {row['precision']}, {row['step']}, K {row['K']}": row["ratio"] for row in rows}

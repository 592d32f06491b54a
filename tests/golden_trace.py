"""The first 20 steps of three arms on a CPU, as numbers: `python -m tests.golden_trace` writes them anew.

Networks start from weights that answer with high peaks everywhere, and learn slowly. So every part of a step takes part
from the first one on, and rounding, which differs between processors, stays rounding: with other convolutions or
another memory format losses move by less than 1e-6.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ssl_pose.config import Config, load_config
from ssl_pose.model import save_networks
from ssl_pose.training import initial_students, train_run
from tests.fake_crops import INPUT_SIZE, make_crops

PATH = Path(__file__).with_name("golden_trace.json")
ARMS = ("full", "dual_maximum", "teacher_student_refine")
COLUMNS = ("loss", "supervised_loss", "consistency_loss", "kept", "peak", "agreement")
STEPS = 20


def small_config() -> Config:
    config = load_config(Path(__file__).parent.parent / "params.yaml")
    training = replace(config.training, steps=STEPS, warmup_steps=5, learning_rate=2.0e-4, labeled_batch=4,
                       unlabeled_batch=4, log_every=1, num_threads=1, device="cpu", precision="fp32")
    arms = {arm: replace(config.arm(arm), confidence_threshold=0.1) for arm in ARMS}
    return replace(config, data=replace(config.data, input_size=INPUT_SIZE), training=training,
                   model=replace(config.model, width=4), arms=arms)


def write_start(config: Config, path: Path) -> None:
    """Both students with heads that answer: the usual ones answer nothing."""
    students = initial_students(config, 0, torch.device("cpu"))
    for number, student in enumerate(students):
        noise = torch.randn(student.head.weight.shape, generator=torch.Generator().manual_seed(number))
        student.head.weight.data.copy_(0.3 * noise)
    save_networks(path, students, config.model)


def trace(arm: str, **training: Any) -> dict[str, list[float]]:
    """By column of the log, its value at each of the steps; `training` replaces keys of that section."""
    config, crops = small_config(), make_crops(24)
    config = replace(config, training=replace(config.training, **training))
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_start(config, folder / "start.safetensors")
        train_run(config, arm, 0, crops, np.arange(24) < 8, folder / "start.safetensors", folder / "model.safetensors",
                  folder, folder / "state")
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {column: [row[column] for row in rows] for column in COLUMNS if column in rows[0]}


if __name__ == "__main__":
    PATH.write_text(json.dumps({arm: trace(arm) for arm in ARMS}, indent=1) + "\n")

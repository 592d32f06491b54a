"""On a GPU, and skipped elsewhere: the step of a CPU, never waiting for the device, streamed, stopped and resumed."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_pose.read_ahead as read_ahead
import ssl_pose.training as training_module
from ssl_pose.augment import render_views, sample_views
from ssl_pose.batches import Pool, draw_labeled, draw_unlabeled, open_pool
from ssl_pose.config import ArmConfig, Config
from ssl_pose.frameworks import STEPS, Losses, Setting
from ssl_pose.judging import evaluate_run
from ssl_pose.pseudo_label import update_ema
from ssl_pose.read_ahead import ReadAhead, Resident
from ssl_pose.seeding import make_generator
from ssl_pose.training import initial_students, train_run
from tests.fake_crops import make_crops
from tests.golden_trace import small_config, write_start

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROWS = torch.arange(24)
METHODS = {
    "supervised": {"framework": "supervised"},
    "consistency": {"framework": "consistency", "target": "threshold_and_refine"},
    "teacher_student": {"framework": "teacher_student", "label_source": "ema", "target": "soft"},
    "whole method": {"framework": "dual_student", "num_views": 2, "ensemble": "maximum", "selection": "cross",
                     "target": "threshold_and_refine"},
    "agreement": {"framework": "dual_student", "label_weight": "agreement"},
    "several paths": {"framework": "dual_student", "pairing": "closest", "label_weight": "confidence",
                      "strong_paths": ("joint_cutout", "cut_occlude", "cut_occlude_cutout")},
    "randaugment": {"framework": "dual_student", "strong_paths": ("randaugment",)},
}
COMPARABLE = [name for name in METHODS if name != "randaugment"]  # it ranks pixels, equal ones in any order


def arm(config: Config, name: str) -> ArmConfig:
    plain = {"num_views": 0, "ensemble": "none", "target": "soft", "selection": "off", "label_source": "student"}
    return dataclasses.replace(next(iter(config.arms.values())), **(plain | METHODS[name]))


def moved(value: Any, device: torch.device) -> Any:
    """A batch, and whatever it holds, on `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{field.name: moved(getattr(value, field.name), device) for field in fields})
    return value


class Step:
    """A training step of one method with networks of its own on `device`."""

    def __init__(self, config: Config, name: str, device: torch.device) -> None:
        self.config, self.arm = config, arm(config, name)
        self.students = initial_students(config, 0, CPU)[: self.arm.num_students]
        for number, student in enumerate(self.students):
            student.head.weight.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
            student.train().to(device)
        copies = self.arm.uses_ema or self.arm.pairing == "closest"
        self.teachers = [copy.deepcopy(student).requires_grad_(False) for student in self.students] if copies else []
        model = config.model
        self.setting = Setting(self.arm, model.heatmap_sigma, model.heatmap_stride, model.heatmap_alignment,
                               config.training.precision)
        parameters = [parameter for student in self.students for parameter in student.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def draw(self, pool: Pool, number: int) -> tuple:
        unlabeled = None
        if self.arm.uses_pool:
            unlabeled = draw_unlabeled(pool, ROWS, self.arm, self.config, 0, number)
        return draw_labeled(pool, ROWS[:8], self.config, 0, "run", number), unlabeled

    def losses(self, batches: tuple) -> Losses:
        losses = STEPS[self.arm.framework](self.students, self.teachers, *batches, self.setting)
        losses["loss"].backward()
        return losses

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for teacher, student in zip(self.teachers, self.students, strict=False):
            update_ema(teacher, student, 0.9)

    def gradient(self) -> torch.Tensor:
        return torch.cat([parameter.grad.flatten().cpu() for student in self.students
                          for parameter in student.parameters()])


@pytest.mark.parametrize("name", COMPARABLE)
def test_losses_and_gradients_on_the_gpu_are_those_of_the_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = small_config()
    here, there = Step(config, name, CPU), Step(config, name, GPU)
    batches = here.draw(open_pool(make_crops(24), CPU), 0)
    expected = here.losses(batches)
    found = there.losses(moved(batches, GPU))
    assert {key: value.item() for key, value in found.items()} == pytest.approx(
        {key: value.item() for key, value in expected.items()}, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(there.gradient(), here.gradient(), rtol=1e-3, atol=1e-4 * here.gradient().abs().max())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_never_waits_for_the_gpu(name):
    config = small_config()
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, precision="bf16"))
    step, pool = Step(config, name, GPU), open_pool(make_crops(24), GPU)
    for number in range(2):  # what is made at the first steps may wait
        step.losses(step.draw(pool, number))
        step.update()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step.losses(step.draw(pool, 2))
            step.update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [f"{one.filename}:{one.lineno}" for one in seen if "called a synchronizing" in str(one.message)] == []


def test_views_rendered_on_the_gpu_are_those_of_the_cpu():
    config, index = small_config(), ROWS[[3, 0, 23, 3]]
    views = sample_views(config.views.strong, 4, config.data.input_size, make_generator(0, "views"))
    images = []
    for device in (CPU, GPU):
        pool = open_pool(make_crops(24), device)
        images.append(render_views(pool.gather(index), moved(views, device), pool.to_reference,
                                   config.data.input_size, pool.mean_color).cpu())
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-3)


def test_rows_streamed_through_page_locked_memory_are_those_at_hand():
    pixels = make_crops(24).crops
    resident, streamed = Resident(pixels, GPU), ReadAhead(pixels, GPU)
    batches = [torch.randint(24, (8,), generator=torch.Generator().manual_seed(number)) for number in range(50)]
    streamed.expect(batches[0])
    for batch, following in zip(batches, [*batches[1:], batches[0]], strict=True):
        rows = streamed.gather(batch)
        streamed.expect(following)
        assert torch.equal(rows, resident.gather(batch))


def run(folder: Path) -> list[dict]:
    config = small_config()
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, device="cuda",
                                                                      checkpoint_every=4, steps=12))
    folder.mkdir(exist_ok=True)
    write_start(config, folder / "start.safetensors")
    train_run(config, "full", 0, make_crops(24), np.arange(24) < 8, folder / "start.safetensors",
              folder / "model.safetensors", folder, folder / "state")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_run(found: list[dict], expected: list[dict]) -> None:
    """Up to the order in which a GPU adds, which differs from run to run."""
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    expected = run(tmp_path / "whole")
    real = training_module.draw_labeled

    def stopping(pool, rows, config, seed, phase, step, *views):
        if step == 7:
            raise KeyboardInterrupt
        return real(pool, rows, config, seed, phase, step, *views)

    with monkeypatch.context() as patch:
        patch.setattr(training_module, "draw_labeled", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts")
    assert_same_run(run(tmp_path / "parts"), expected)


def test_a_run_whose_crops_do_not_fit_the_gpu_ends_as_one_whose_do(tmp_path, monkeypatch):
    expected = run(tmp_path / "at_hand")
    monkeypatch.setattr(read_ahead, "SHARE_OF_FREE_MEMORY", 0.0)
    assert_same_run(run(tmp_path / "streamed"), expected)


def test_a_run_is_judged_as_on_the_cpu(tmp_path):
    run(tmp_path)
    crops, found = make_crops(24), {}
    for device in ("cpu", "cuda"):
        config = small_config()
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, device=device))
        folder = tmp_path / device
        folder.mkdir()
        found[device] = evaluate_run(config, "full", 0, crops, crops, np.arange(24) < 8, tmp_path / "model.safetensors",
                                     folder)
    assert found["cuda"]["pck"] == pytest.approx(found["cpu"]["pck"], abs=2.0)  # percent; an arg-max may move by a cell
    assert found["cuda"]["pseudo"].keys() == found["cpu"]["pseudo"].keys()

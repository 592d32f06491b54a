"""What a profile will cost: counted by hand, and stated before anything starts."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_pose import planning
from ssl_pose.config import Config, ConfigError, ModelConfig
from ssl_pose.costs import count_activation_bytes, count_flops, count_parameters
from ssl_pose.distributed import ALONE
from ssl_pose.loop import open_loop, optimise
from ssl_pose.model import build_model
from ssl_pose.planning import Speed, arm_row, cell_networks, disk_bytes, find_persons, find_speed, plan, speed_lines
from ssl_pose.profiles import Profile, open_profile
from ssl_pose.training import initial_students

SPEEDS = (("fp32", "unet-16", 90.0), ("fp32", "unet-16", 110.0), ("bf16", "unet-16", 150.0),
          ("fp32", "resnet18-256", 40.0))
MEASURED = [{"device": "cpu", "precision": precision, "network": network, "input": "64x48", "GFLOP/s": speed,
             "step": "dual_student", "K": 1, "whole ms": 50.0, "processor": "a CPU (AVX2)"}
            for precision, network, speed in SPEEDS]


@pytest.fixture(scope="module")
def config() -> Config:
    config = open_profile("default").config
    return replace(config, training=replace(config.training, device="cpu"))


def test_operations_of_a_resnet_are_those_that_its_layers_add_up_to():
    """torchvision states 1.814 giga multiply-adds for ResNet-18 at 224x224, 0.513 million of them in `fc`."""
    config = ModelConfig("resnet18", 256, 4, 2.0, "centre", "none")
    backbone = (1.814e9 - 0.513e6) * (256 * 192) / (224 * 224)
    cells = [16 * 12, 32 * 24, 64 * 48]
    deconvolutions = sum(4 * channels * 256 * size for channels, size in zip((512, 256, 256), cells, strict=True))
    head = 17 * 256 * cells[-1]
    assert count_flops(config, (256, 192)) == pytest.approx(2 * (backbone + deconvolutions + head), rel=0.01)


def test_activations_are_what_a_real_backward_pass_keeps(config: Config):
    network, kept = build_model(config.model).train(), []
    for batch in (2, 4):
        saved = {}

        def keep(value: torch.Tensor, saved: dict = saved) -> torch.Tensor:
            saved[value.untyped_storage().data_ptr()] = value
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            network(torch.randn(batch, 3, 64, 48))
        kept.append(sum(value.untyped_storage().nbytes() for value in saved.values()))
    assert count_activation_bytes(config.model, (64, 48)) == (kept[1] - kept[0]) / 2
    assert count_parameters(config.model) == sum(value.numel() for value in network.parameters())


def test_the_speed_is_that_of_the_steps_most_like_the_profiles(config: Config):
    assert find_speed(config, MEASURED).flops == 100e9
    half = replace(config, training=replace(config.training, precision="bf16"))
    assert find_speed(half, MEASURED).flops == 150e9
    large = replace(config, model=replace(config.model, architecture="resnet18", width=256))
    assert find_speed(large, MEASURED).flops == 40e9
    gpus = replace(config, training=replace(config.training, device="cuda", num_processes=4))
    on_gpu = [{**MEASURED[0], "device": "cuda", "GFLOP/s": 7e4}]
    assert find_speed(gpus, MEASURED + on_gpu).flops == 4 * 7e13
    assert find_speed(config, MEASURED + on_gpu).flops == 100e9
    with pytest.raises(ConfigError, match="no speed of cuda is known: run `make bench` on such a machine first"):
        find_speed(gpus, MEASURED)


def test_an_arm_is_as_fast_as_the_measured_kind_of_step_with_the_nearest_number_of_views(config: Config):
    steps = [("supervised", 0, 30.0), ("teacher_student", 1, 40.0), ("dual_student", 1, 50.0),
             ("whole method", 1, 60.0), ("whole method", 4, 70.0), ("whole method", 8, 80.0)]
    measured = [{**MEASURED[0], "step": step, "K": views, "GFLOP/s": speed} for step, views, speed in steps]

    def speed(name: str, **changes: int) -> float:
        return find_speed(config, measured, replace(config.arm(name), **changes)).flops / 1e9

    assert speed("supervised") == find_speed(config, measured).flops / 1e9 == 30
    assert speed("teacher_student") == 40
    assert speed("dual_student") == speed("full", num_views=1) == 55  # both kinds of step of two students
    assert [speed("full", num_views=views) for views in (2, 3, 5, 7, 99)] == [55, 70, 70, 80, 80]


def test_a_small_networks_step_on_a_gpu_is_no_shorter_than_the_shortest_measured_of_its_kind():
    config = open_profile("gpu").config
    steps = [("supervised", 0, 20.0), ("dual_student", 1, 60.0), ("whole method", 4, 50.0)]
    measured = [{**MEASURED[0], "device": "cuda", "step": step, "K": views, "whole ms": shortest, "GFLOP/s": 1e12}
                for step, views, shortest in steps]
    speeds = {name: find_speed(config, measured, config.arm(name)) for name in ("supervised", "full")}
    assert {name: speed.least_step for name, speed in speeds.items()} == {"supervised": 0.02, "full": 0.05}
    row = arm_row(config, "full", find_persons(Profile(Path("nowhere"), config), ""), speeds["full"])
    assert row["hours"] == pytest.approx(config.training.steps * 0.05 / 3600, rel=1e-3)  # at such a speed nothing else
    several = replace(config, training=replace(config.training, num_processes=4))
    assert find_speed(several, measured, config.arm("full")).least_step == 0.05  # a process waits as long


def test_a_step_on_a_cpu_has_no_least_time(config: Config):
    assert find_speed(config, MEASURED, config.arm("full")).least_step == 0


def test_hours_are_passes_times_operations_over_speed(config: Config):
    persons = find_persons(Profile(Path("nowhere"), config), "")
    photos, mean = config.synthetic.num_train_photos, config.synthetic.persons_per_photo
    assert persons.train == photos * mean
    assert persons.labeled == config.splits.label_count * mean
    training = replace(config.training, steps=1000, epochs=0)
    row = arm_row(replace(config, training=training), "all_labels", persons, Speed(1e12, ""))
    evaluated = persons.val + (1 + config.evaluation.num_views) * config.evaluation.num_pseudo_persons
    operations = (3 * 1000 * training.labeled_batch + evaluated) * count_flops(config.model, config.data.input_size)
    assert row["hours"] == pytest.approx(operations / 1e12 / 3600)
    assert row["images"] == 1000 * training.labeled_batch


@pytest.mark.parametrize("name", ["supervised", "teacher_student", "dual_student"])
def test_a_resume_state_is_as_large_as_the_plan_says(config: Config, name: str, tmp_path: Path):
    arm = config.arm(name)
    students = initial_students(config, 0, torch.device("cpu"))[: arm.num_students]
    loop = open_loop("student", students, config.training, ALONE)
    loop.networks |= {f"teacher{i}": copy.deepcopy(student) for i, student in enumerate(students) if arm.uses_ema}
    weights = [value for student in students for value in student.parameters()]
    optimise(loop, lambda step: {"loss": sum(value.sum() for value in weights)}, None, config.training, 1,
             lambda step: 1e-3, tmp_path, "key", name)
    expected = 4 * count_parameters(config.model) * cell_networks(arm)[1]
    assert (tmp_path / "state.pt").stat().st_size == pytest.approx(expected, rel=0.05)


def test_a_cell_leaves_its_model_and_the_states_of_all_that_it_trained(config: Config):
    def found(name: str, **changes: object) -> tuple[int, int]:
        return cell_networks(replace(config.arm(name), **changes))

    assert found("supervised") == (1, 3)
    assert found("teacher_student") == (2, 4)  # with the EMA copy, which Adam does not know
    assert found("teacher_student", label_source="frozen") == (2, 7)  # a teacher that was trained before
    assert found("dual_student") == (2, 6)
    assert found("dual_student", label_source="ema") == (2, 8)
    assert found("dual_student", label_count=7) == (2 + 2, 6 + 6)  # a burn-in of its own
    one = replace(config, arms={"dual_student": config.arm("dual_student")}, seeds=(0, 1))
    network = 4 * count_parameters(config.model)
    assert disk_bytes(one) == (2 * (2 + 2) * network, 2 * (6 + 6) * network)


def test_a_plan_says_where_its_speeds_come_from_and_warns_on_another_processor(config: Config, monkeypatch):
    monkeypatch.setattr(planning, "describe_hardware", lambda: {"cpu": "a CPU (AVX512)", "gpu": None})
    on_cpu, on_gpu = (Speed(1e12, "measured, unet-16", processor, least)
                      for processor, least in (("a CPU (AVX2)", 0.0), ("NVIDIA H200", 0.02)))
    assert speed_lines(config, [on_cpu]) == [
        "speed        1e+03 to 1e+03 GFLOP/s a run, by kind of step (measured, unet-16: a CPU (AVX2))",
        "warning      this machine is another, a CPU (AVX512): its times may differ several-fold"]
    assert len(speed_lines(config, [replace(on_cpu, processor="a CPU (AVX512)")])) == 1
    gpus = replace(config, training=replace(config.training, device="cuda", num_processes=4))
    assert speed_lines(gpus, [on_gpu, replace(on_gpu, least_step=0.05)])[1:] == [
        "             4 processes of a run are taken to be 4 times as fast as one (assumed)",
        "             no step is taken to be shorter than the shortest measured of its kind, 20 to 50 ms"]


def test_packed_crops_are_counted_before_anything_else(config: Config, tmp_path: Path):
    for split, count in (("train", 120), ("val", 30)):
        folder = tmp_path / "work" / "crops" / split
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"num_persons": count, "num_photos": count // 2}))
    persons = find_persons(Profile(tmp_path, config), "")
    assert (persons.train, persons.val, persons.labeled) == (120, 30, 2 * config.splits.label_count)


def test_a_plan_is_a_row_an_arm_and_the_totals(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "measured_rows", lambda benchmark: MEASURED if benchmark == "step" else [])
    profile = open_profile("default")
    text = plan(profile, jobs=2)
    for arm in profile.config.arms:
        assert re.search(rf"^ *{arm} ", text, re.MULTILINE)
    cells = len(profile.config.arms) * len(profile.config.seeds)
    assert re.search(rf"^cells +{cells}: ", text, re.MULTILINE)
    hours = re.search(r"^hours +(\S+) of one run after another, (\S+) with 2", text, re.MULTILINE)
    total, side_by_side = map(float, hours.groups())
    assert side_by_side == pytest.approx(total / 2, rel=0.1)


def test_photos_that_nobody_named_and_speeds_that_nobody_measured_are_one_line(config: Config, tmp_path: Path):
    photos = replace(config, data=replace(config.data, source="coco"))
    with pytest.raises(ConfigError, match="say where the photos are with DATA="):
        find_persons(Profile(tmp_path, photos), "")
    with pytest.raises(ConfigError, match="no speed of cpu is known: run `make bench`"):
        find_speed(config, [])

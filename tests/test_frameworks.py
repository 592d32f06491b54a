"""The steps of the frameworks: who teaches whom, and where gradients go."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import ssl_pose.frameworks as frameworks
from ssl_pose.batches import draw_labeled, draw_unlabeled, open_pool
from ssl_pose.config import FRAMEWORKS, Config, MethodConfig, load_config
from ssl_pose.frameworks import STEPS, Setting, learn, make_pseudo_label, pseudo_label_mode
from ssl_pose.heatmap import argmax_keypoints
from ssl_pose.model import build_model
from ssl_pose.pseudo_label import PseudoLabel, shape_target
from tests.fake_crops import INPUT_SIZE, make_crops


@pytest.fixture(scope="module")
def config() -> Config:
    config = load_config(Path(__file__).parent.parent / "params.yaml")
    training = replace(config.training, labeled_batch=4, unlabeled_batch=4)
    model = replace(config.model, width=4)
    return replace(config, data=replace(config.data, input_size=INPUT_SIZE), training=training, model=model)


def students_of(config: Config, count: int = 2) -> list[nn.Module]:
    return [build_model(config.model, seed=index).train() for index in range(count)]


def batches_of(config: Config, method: MethodConfig):
    pool, rows = open_pool(make_crops(8), torch.device("cpu")), torch.arange(8)
    return draw_labeled(pool, rows, config, 0, "test", 0), draw_unlabeled(pool, rows, method, config, 0, 0)


def setting_of(config: Config, method: MethodConfig) -> Setting:
    model = config.model
    return Setting(method, model.heatmap_sigma, model.heatmap_stride, model.heatmap_alignment, "fp32")


def test_every_framework_of_the_configuration_has_a_step_and_no_other():
    assert set(FRAMEWORKS) == set(STEPS)


@pytest.mark.parametrize("arm", load_config(Path(__file__).parent.parent / "params.yaml").arms)
def test_every_arm_takes_a_finite_step_that_moves_its_students_alone(config: Config, arm: str):
    method = config.arm(arm)
    students = students_of(config, method.num_students)
    teachers = [build_model(config.model, seed=9 + index) for index in range(len(students))]
    labeled, unlabeled = batches_of(config, method)
    losses = STEPS[method.framework](students, teachers, labeled, unlabeled, setting_of(config, method))
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert all(parameter.grad is not None for student in students for parameter in student.parameters())
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())


def test_a_student_of_two_learns_from_the_other_and_no_gradient_reaches_the_one_that_labels(config: Config):
    first, second = students_of(config)
    method = config.arm("dual_student")
    labeled, unlabeled = batches_of(config, method)
    setting = setting_of(config, method)
    label = make_pseudo_label(second, unlabeled, setting)
    assert not label.heatmaps.requires_grad
    _, consistency = learn(first, labeled, unlabeled, label, setting)
    consistency.backward()
    assert all(parameter.grad is None for parameter in second.parameters())


@pytest.mark.parametrize(("target", "height"), [("thresholded", 0.35), ("threshold_and_refine", 1.0)])
def test_of_a_closest_pair_the_mean_is_thresholded_and_neither_of_the_two(config: Config, monkeypatch, target, height):
    """Peaks of 0.5 and 0.2 have a mean of 0.35, those of 0.3 and 0.2 one of 0.25, at a threshold of 0.3."""
    method = replace(config.arm("dual_student"), target=target, pairing="closest", confidence_threshold=0.3)
    labeled, unlabeled = batches_of(config, method)
    peaks, learned = iter([(0.5, 0.3), (0.2, 0.2), (0.5, 0.3), (0.2, 0.2)]), []

    def label(network, batch, setting):
        maps = torch.zeros(4, 2, 24, 16)
        maps[:, :, 12, 8] = torch.tensor(next(peaks))
        heatmaps, weight = shape_target(maps, setting.method, setting.heatmap_sigma)
        keypoints, confidence = argmax_keypoints(maps)
        return PseudoLabel(heatmaps, keypoints, confidence, weight, torch.zeros_like(confidence))

    def stop(student, labeled, unlabeled, target, setting):
        learned.append(target)
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(frameworks, "make_pseudo_label", label)
    monkeypatch.setattr(frameworks, "learn", stop)
    students = students_of(config)
    STEPS["dual_student"](students, students, labeled, unlabeled, setting_of(config, method))
    assert learned[0].weight[0].tolist() == [1.0, 0.0]
    torch.testing.assert_close(learned[0].heatmaps[0].amax((1, 2)), torch.tensor([height, 0.0]))


def test_the_dual_step_is_the_sum_of_what_each_learns_from_the_other(config: Config):
    students, method = students_of(config), config.arm("dual_student")
    labeled, unlabeled = batches_of(config, method)
    setting = setting_of(config, method)
    losses = STEPS["dual_student"](students, [], labeled, unlabeled, setting)
    fresh = students_of(config)  # the step moved the running statistics of batch norm
    labels = [make_pseudo_label(student, unlabeled, setting) for student in fresh]
    parts = [learn(student, labeled, unlabeled, label, setting)
             for student, label in zip(fresh, reversed(labels), strict=True)]
    expected = sum(supervised + method.consistency_weight * consistency for supervised, consistency in parts)
    torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_pseudo_label_passes_leave_running_statistics_and_mode_alone(config: Config, batch_norm: str):
    network = students_of(config, 1)[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(4, 3, *INPUT_SIZE)
    with pseudo_label_mode(network, batch_norm), torch.no_grad():
        predicted = network(images)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        matching = network.eval()(images) if batch_norm == "eval" else network.train()(images)
    torch.testing.assert_close(predicted, matching)

"""Learning rates and the length of a run, by the numbers that the published protocol leads to."""

from dataclasses import replace
from pathlib import Path

import pytest

from ssl_pose.config import load_config
from ssl_pose.schedules import constant_rate, run_schedule

TRAINING = load_config(Path(__file__).parents[1] / "params.yaml").training
PUBLISHED = replace(TRAINING, steps=0, epochs=30, schedule="milestones", milestones=(20, 25), milestone_factor=0.1,
                    learning_rate=1e-3, unlabeled_batch=32, warmup_steps=0)


def test_the_published_epochs_of_coco_are_140_000_steps():
    """149,813 persons in batches of 32: 4,681.66 batches an epoch."""
    assert PUBLISHED.run_steps(149_813) == 140_450  # ceil(30 * 149813 / 32)
    assert PUBLISHED.milestone_steps(149_813) == (93_634, 117_042)


def test_the_rate_falls_tenfold_after_each_milestone():
    rate = run_schedule(PUBLISHED, 64)  # two steps an epoch
    steps = [0, 39, 40, 49, 50, 59]
    assert [rate(step) for step in steps] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_milestones_count_steps_where_the_length_does():
    training = replace(PUBLISHED, steps=10, epochs=0, milestones=(4,))
    assert training.run_steps(1_000_000) == 10
    assert [run_schedule(training, 1_000_000)(step) for step in (3, 4)] == pytest.approx([1e-3, 1e-4])


def test_a_cosine_starts_at_the_rate_passes_its_middle_and_ends_near_its_share():
    training = replace(TRAINING, steps=100, warmup_steps=0, learning_rate=2.0, final_learning_rate=0.1,
                       schedule="cosine")
    rate = run_schedule(training, 7)
    assert rate(0) == 2.0
    assert rate(50) == pytest.approx(1.1)
    assert rate(99) == pytest.approx(0.2, abs=1e-3)


def test_the_burn_in_keeps_its_rate():
    assert {constant_rate(PUBLISHED)(step) for step in (0, 1000)} == {1e-3}


def test_a_longer_run_stretches_its_schedule_but_not_its_warm_up():
    training = replace(TRAINING, steps=100, epochs=0, schedule="cosine", warmup_steps=10, learning_rate=1.0)
    plain, long = run_schedule(training, 64), run_schedule(training, 64, relative_steps=2.0)
    assert [long(2 * step) for step in (20, 50, 99)] == pytest.approx([plain(step) for step in (20, 50, 99)])
    assert plain(4) / run_schedule(replace(training, warmup_steps=0), 64)(4) == pytest.approx(0.5)
    assert long(4) < long(9) <= 1.0

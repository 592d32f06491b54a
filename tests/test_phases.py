"""The phase diagram: its cells, their differences, and the score of predictions, from metrics made by hand."""

import json
from dataclasses import replace
from shutil import copytree

import pandas as pd
import pytest

from ssl_pose import figures, phases
from ssl_pose.config import load_config
from ssl_pose.profiles import open_profile
from ssl_pose.results import run_directory

AP = {"dual_student": (30.0, 32.0, 34.0), "teacher_student": (29.0, 30.0, 31.0)}  # differences 1, 2, 3


def quality(average, maximum):
    return {mode: {"pck": value, "pck_above_threshold": value - 50} for mode, value
            in (("none", 50), ("average", average), ("maximum", maximum))}


@pytest.fixture
def config():
    base = load_config("params.yaml")
    arms = {name: base.arm(name) for name in AP}
    cell = "dual>teacher_student/labels=20/steps=1/horizon=0.02"
    return replace(base, seeds=(0, 1, 2), arms=arms, predictions={cell: 0.75})


@pytest.fixture
def results(config, tmp_path):
    for arm, scores in AP.items():
        for seed, score in enumerate(scores):
            folder = run_directory(tmp_path, arm, seed)
            folder.mkdir(parents=True)
            record = {"AP": score, "AR": score, "pck": score, "pseudo": quality(60, 61 + seed),
                      "pseudo_by_strength": {"0.5": quality(60, 58)}}
            (folder / "metrics.json").write_text(json.dumps(record))
    return tmp_path


def test_cells_hold_differences_states_and_predictions(config, results):
    cells = phases.phase_table(results, config).set_index("cell")
    assert len(cells) == 1 + 2 * 2
    frameworks = cells.loc["dual>teacher_student/labels=20/steps=1/horizon=0.02"]
    assert (frameworks.difference_mean, frameworks.difference_std) == (2.0, 1.0)
    assert frameworks.state == "open"  # 2 -+ 4.30 / sqrt(3)
    assert frameworks.prediction == 0.75
    plain = cells.loc["maximum>average/pck/labels=20/steps=1/strength=1"]
    assert plain.difference_mean == 2.0
    assert pd.isna(plain.prediction)
    narrow = cells.loc["maximum>average/pck_above_threshold/labels=20/steps=1/strength=0.5"]
    assert (narrow.difference_mean, narrow.state) == (-2.0, "reversed")


def test_only_arms_that_differ_in_framework_and_horizon_meet(config, results):
    other = replace(config.arm("teacher_student"), consistency_weight=4.0)
    cells = phases.phase_table(results, replace(config, arms=config.arms | {"teacher_student": other}))
    assert set(cells.setting) == {"strength"}


def test_of_several_plain_arms_in_one_setting_the_first_stands_for_it(config):
    first = next(name for name, arm in config.arms.items() if arm.framework == "dual_student")
    trial = replace(config.arms[first], consistency_weight=0.5)
    more = replace(config, arms=config.arms | {"trial": trial})
    assert list(phases._plain(more, "dual_student")) == list(phases._plain(config, "dual_student"))


def test_the_horizon_of_two_students_is_no_setting_and_gives_no_second_cell(config):
    other = replace(config.arm("dual_student"), ema_horizon=0.5)
    more = replace(config, arms=config.arms | {"other": other})
    assert [name for name, _ in phases._plain(more, "dual_student")] == ["dual_student"]


def test_a_frozen_teacher_or_students_with_teachers_listed_first_take_nobodys_place(config, results):
    frozen = replace(config.arm("teacher_student"), label_source="frozen")
    taught = replace(config.arm("dual_student"), label_source="ema")
    more = replace(config, arms={"frozen": frozen, "taught": taught} | config.arms)
    for arm in ("frozen", "taught"):
        copytree(run_directory(results, "dual_student", 0).parent, run_directory(results, arm, 0).parent)
    pd.testing.assert_frame_equal(phases.phase_table(results, more), phases.phase_table(results, config))


def test_predictions_are_scored_by_side_and_by_squared_error():
    cells = pd.DataFrame({"claim": ["a", "a", "b", "b"], "difference_mean": [1.0, -1.0, 2.0, -1.0],
                          "prediction": [0.9, 0.6, 0.5, None]})
    score = phases.score_predictions(cells).set_index("claim")
    assert score.cells.to_dict() == {"a": 2, "b": 1, "all": 3}
    assert score.right.to_dict() == pytest.approx({"a": 50, "b": 50, "all": 50})
    assert score.held.to_dict() == pytest.approx({"a": 50, "b": 100, "all": 200 / 3})
    assert score.brier.to_dict() == pytest.approx({"a": (0.01 + 0.36) / 2, "b": 0.25, "all": 0.62 / 3})


def test_a_grid_without_plain_arms_gives_an_empty_table_and_a_figure(config, results, tmp_path):
    cells = phases.phase_table(results, replace(config, arms={"teacher_student": config.arm("teacher_student")}))
    assert cells.empty
    assert phases.score_predictions(cells).empty
    assert figures.save_figure(figures.draw_phases(cells), tmp_path / "empty.png").stat().st_size > 0


def test_every_cell_of_the_profile_was_predicted():
    config = open_profile("phases").config
    assert len(config.predictions) == 2 * 2 * 2 + 2 * 2 * 3 * 2
    assert all(0 <= value <= 1 for value in config.predictions.values())

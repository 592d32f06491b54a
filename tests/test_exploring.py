"""What the widgets show is what Algorithm 1 says, and each moment of training is the beginning of a longer run."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssl_pose.config import load_config
from ssl_pose.exploring import (
    CONSTANT_RATE,
    MOST_VIEWS,
    Exploration,
    ask,
    draw_answer,
    draw_progress,
    open_exploration,
    progress_table,
    show_answer,
    show_pose,
    train_snapshots,
    true_cell,
)
from ssl_pose.training import burn_in
from ssl_pose.workspace import REPOSITORY, Workspace
from tests.fake_crops import INPUT_SIZE, make_crops
from tests.test_evaluation import Blank, DotFinder, people_with_dots, small_config

NUM_PERSONS, JOINT = 6, 16


@pytest.fixture(scope="module")
def explore() -> Callable[..., Exploration]:
    """Persons with one dot each, at which all their joints lie, before the networks of each moment."""
    config, crops = small_config(), people_with_dots(NUM_PERSONS)

    def opened(**networks: list[nn.Module]) -> Exploration:
        moments = {int(name.removeprefix("after_")): students for name, students in networks.items()}
        return open_exploration(config, crops, np.arange(NUM_PERSONS), moments, seed=0)

    return opened


@pytest.fixture(scope="module")
def method():
    return small_config().arm("full")


def test_two_oracles_point_at_the_label_and_each_learns_from_the_other(explore, method):
    explored = explore(after_0=[DotFinder(), DotFinder()])
    for person in range(NUM_PERSONS):
        answer = ask(explored, 0, person, JOINT, method)
        assert answer.heatmaps.shape == (2, 1 + method.num_views, 24, 16)
        for refined in answer.refined:
            peak = np.array(np.unravel_index(refined.numpy().argmax(), refined.shape)[::-1])
            assert np.abs(peak - true_cell(explored, person, JOINT)).max() <= 1
        assert answer.source == (1, 0)  # no difference is larger than Delta
        assert max(answer.uncertainty) < 0.3


def test_a_student_that_says_nothing_is_uncertain_and_learns_from_the_one_that_speaks(explore, method):
    for students, speaker in (([DotFinder(), Blank()], 0), ([Blank(), DotFinder()], 1)):
        answer = ask(explore(after_0=students), 0, 2, JOINT, method)
        assert answer.source == (speaker, speaker)
        assert answer.uncertainty[1 - speaker] == np.inf
        assert answer.peak[1 - speaker] == 0.0
        assert not answer.refined[1 - speaker].any()
        assert answer.refined[speaker].max() > 0.9  # a Gaussian of peak 1 whose centre lies between cells
        assert ask(explore(after_0=students), 0, 2, JOINT, replace(method, selection="off")).source == (1, 0)


def test_the_controls_do_what_they_say(explore, method):
    explored = explore(after_0=[DotFinder(), DotFinder()])
    single = ask(explored, 0, 1, JOINT, replace(method, num_views=0, ensemble="none"))
    most = ask(explored, 0, 1, JOINT, replace(method, num_views=MOST_VIEWS, ensemble="maximum"))
    mean = ask(explored, 0, 1, JOINT, replace(method, num_views=MOST_VIEWS, ensemble="average"))
    assert torch.equal(single.ensemble, single.heatmaps[:, 0])
    assert most.heatmaps.shape[1] == 1 + MOST_VIEWS
    assert torch.equal(most.heatmaps, mean.heatmaps)
    torch.testing.assert_close(most.ensemble.amax((1, 2)), most.heatmaps.amax((1, 2, 3)))
    assert (mean.ensemble <= most.ensemble + 1e-6).all()
    assert (mean.ensemble.amax((1, 2)) < most.ensemble.amax((1, 2))).all()
    above = replace(method, confidence_threshold=max(most.peak) + 0.01)
    assert not ask(explored, 0, 1, JOINT, above).refined.any()
    assert ask(explored, 0, 1, JOINT, above).uncertainty == (np.inf, np.inf)


def test_progress_counts_what_is_kept_and_what_of_it_is_right(explore, method):
    """One of two students speaks at first, then both: half is kept, then all; an oracle is always right."""
    explored = explore(after_0=[Blank(), Blank()], after_10=[DotFinder(), Blank()], after_20=[DotFinder(), DotFinder()])
    table = progress_table(explored, method)
    assert list(table.index) == [0, 10, 20]
    assert table.kept.tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(table["kept and right"][0])
    assert table["kept and right"].tolist()[1:] == [1.0, 1.0]
    assert table["mean peak"][10] == pytest.approx(table["mean peak"][20] / 2)


def test_pictures_have_a_panel_for_each_thing_and_tell_who_learns_from_whom(explore, method):
    explored = explore(after_0=[Blank(), Blank()], after_10=[DotFinder(), Blank()])
    figure = draw_answer(explored, 10, 0, JOINT, method)
    titles = [panel.get_title() for panel in figure.axes]
    views = ["weak", *(f"view {number}" for number in range(1, 1 + method.num_views))]
    assert [title for title in titles if title][-len(views) - 3:] == [*views, "maximum", "deviation", "target"]
    sides = [text.get_text() for panel in figure.axes for text in panel.texts if text.get_text().startswith("student")]
    assert re.fullmatch(r"student 1: u 0\.\d{3}\nlearns from itself", sides[0])
    assert sides[1] == "student 2: u inf\nlearns from the other"
    along = draw_progress(explored, 0, JOINT, method)
    assert [panel.get_title() for panel in along.axes] == ["image", "0 steps", "10 steps"]


def test_what_a_widget_shows_is_a_picture_with_a_text_in_its_place(explore):
    explored = explore(after_10=[DotFinder(), Blank()])
    shown = [show_answer(explored, "full", 3, JOINT, views, operator, 0.3, 0.05, "cross", 10)
             for views, operator in ((0, "maximum"), (2, "maximum"), (2, "average"))]
    assert len({picture.data for picture in shown}) == 3
    for picture in shown:
        assert picture.alt == "Joint 16 of person 3 after 10 steps: heatmaps of two students"
        assert np.asarray(Image.open(io.BytesIO(picture.data)).convert("L")).std() > 20


def test_poses_are_browsed_from_the_best_to_the_worst(explore):
    crops = np.zeros((2, 48, 32, 3), np.uint8)
    points = np.random.default_rng(0).uniform(4, 28, (2, 17, 2))
    examples = {"crops": crops, "true_keypoints": points, "predicted_keypoints": points + 1,
                "visibility": np.full((2, 17), 2), "oks": np.array([0.91, 0.08])}
    assert show_pose(examples, 0).alt == "Predicted and labelled pose, OKS 0.91"
    assert show_pose(examples, 1).alt == "Predicted and labelled pose, OKS 0.08"


def test_a_run_of_one_network_is_refused_with_what_to_name_instead(explore, method):
    with pytest.raises(ValueError, match=r"needs two students, the run has 1; name an arm of framework dual_student"):
        ask(explore(after_0=[DotFinder()]), 0, 0, JOINT, method)


def test_a_moment_is_the_beginning_of_a_longer_run_and_is_made_once(tmp_path: Path):
    overrides = {"training.steps": 4, "training.burn_in_steps": 2, "training.log_every": 1, "model.width": 4,
                 "data.input_size": list(INPUT_SIZE), "arms.full.relative_steps": 0.5}
    config = load_config(REPOSITORY / "profiles" / "smoke" / "params.yaml", overrides | CONSTANT_RATE)
    here, crops, labeled = Workspace(config, tmp_path, tmp_path, {}), make_crops(24), np.arange(24) < 8
    burn_in(config, 0, crops, labeled, here.burn_in(0), here.state("burn_in"))
    networks = train_snapshots(here, "full", 0, crops, labeled, [0, 2, 4])
    assert {moment: len(students) for moment, students in networks.items()} == {0: 2, 2: 2, 4: 2}
    folder = here.model("full", 0).parent
    short, long = ([json.loads(line) for line in (folder / f"after-{moment}" / "log.jsonl").read_text().splitlines()]
                   for moment in (2, 4))
    assert len(short) == 2
    assert short == long[:2]
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    train_snapshots(here, "full", 0, crops, labeled, [0, 2, 4])
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == made

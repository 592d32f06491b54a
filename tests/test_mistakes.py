"""Where wrong joints lie: on the other side, on somebody else, or elsewhere."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_results import fake_config, write_fake_results

from ssl_pose.mistakes import PLACES, count_mixed_up, find_places, load_mistakes
from ssl_pose.skeleton import KEYPOINT_NAMES
from tests.fake_crops import make_crops

LEFT_WRIST, RIGHT_WRIST, NOSE, LEFT_KNEE = (
    KEYPOINT_NAMES.index(name) for name in ("left_wrist", "right_wrist", "nose", "left_knee"))


def test_a_joint_lies_right_on_the_other_side_on_another_person_or_elsewhere():
    """Three persons of one photo, each canvas with a zoom and corner of its own; reach is a fifth of 5 px."""
    crops = make_crops(3)
    matrix = np.tile(np.eye(3), (3, 1, 1))
    matrix[:, [0, 1], [0, 1]] = np.array([[1.0], [2.0], [0.5]])
    matrix[:, :2, 2] = [[0.0, 0.0], [30.0, -10.0], [-7.0, 4.0]]
    crops = replace(crops, crop_matrix=matrix, image_id=np.array([7, 7, 7]))
    points = crops.keypoints.astype(float)
    points[..., 0] += 0.9
    points[0, LEFT_WRIST] = crops.keypoints[0, RIGHT_WRIST]
    photo = (crops.keypoints[2, NOSE] - matrix[2, :2, 2]) / matrix[2, 0, 0]
    points[1, NOSE] = photo * matrix[1, 0, 0] + matrix[1, :2, 2]  # the third person's, in the second's canvas
    points[1, LEFT_KNEE] = [-500.0, 0.0]
    places = find_places(points, crops, np.full(3, 5.0))
    at = {name: [(row, KEYPOINT_NAMES[joint]) for row, joint in np.argwhere(places[name]).tolist()] for name in PLACES}
    assert at["other side"] == [(0, "left_wrist")]
    assert at["other person"] == [(1, "nose")]
    assert at["elsewhere"] == [(1, "left_knee")]
    assert sum(len(found) for found in at.values()) == 3 * 17


def test_nobody_lies_on_a_joint_without_a_label():
    crops = make_crops(2)
    crops.visibility[:, RIGHT_WRIST] = 0
    points = crops.keypoints.astype(float)
    points[0, LEFT_WRIST] = crops.keypoints[0, RIGHT_WRIST]
    points[1, RIGHT_WRIST] = crops.keypoints[0, RIGHT_WRIST]
    places = find_places(points, crops, np.full(2, 5.0))
    assert places["elsewhere"][0, LEFT_WRIST]
    assert places["elsewhere"][1, RIGHT_WRIST]


def test_shares_of_a_profile_are_a_row_a_network_and_joint_and_add_up(tmp_path):
    config = fake_config()
    tree = write_fake_results(tmp_path / "fake", config)
    found = load_mistakes(tree, config, ["dual_student", "supervised"])
    assert len(found) == 17 * 3 * len(config.seeds)
    np.testing.assert_allclose(found[list(PLACES)].sum(axis=1), 100)


@pytest.mark.parametrize(("other_side", "mixed_up", "pairs"), [(29.0, 0, ""), (31.0, 1, "ankle")])
def test_a_network_mixes_up_a_pair_that_it_puts_half_as_often_on_the_other_side(other_side, mixed_up, pairs):
    right = {"left_ankle": 50.0, "right_ankle": 70.0}
    rows = [{"arm": "a", "seed": seed, "network": 0, "joint": joint, "right": right.get(joint, 80.0),
             "other side": other_side if seed == 1 and joint in right else 10.0}
            for seed in (0, 1) for joint in KEYPOINT_NAMES]
    (row,) = count_mixed_up(pd.DataFrame(rows)).to_dict("records")
    assert row == {"arm": "a", "networks": 2, "mixed_up": mixed_up, "pairs": pairs}

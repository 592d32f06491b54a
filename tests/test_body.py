"""People in space: where joints go in known poses, and what no pose may change."""

import pytest
import torch

from ssl_pose.body import Pose, Shape, pose_body, sample_pose, sample_shape, turn
from ssl_pose.skeleton import FLIP_PAIRS, KEYPOINT_NAMES

LENGTHS = {"stature": 1.0, "limb_girth": 1.0, "trunk_girth": 1.0, "thigh": 0.24, "shank": 0.23, "torso": 0.29}


def stand(**angles):
    """The body of an average adult who stands straight, except for the angles (degrees) named; limbs take a pair."""
    shape = Shape(*(torch.tensor([LENGTHS.get(name, 0.1)], dtype=torch.float64) for name in Shape._fields))
    paired = Pose._fields.index("hip_flexion")
    pose = [
        torch.tensor([angles.get(name, 0.0 if i < paired else (0.0, 0.0))], dtype=torch.float64)
        for i, name in enumerate(Pose._fields)
    ]
    return pose_body(shape, Pose(*pose)).points


def test_a_quarter_turn_takes_each_axis_to_the_next():
    quarter = torch.tensor(90.0, dtype=torch.float64)
    for axis, source, target in (("x", 1, 2), ("y", 2, 0), ("z", 0, 1)):
        torch.testing.assert_close(turn(axis, quarter)[:, source], torch.eye(3, dtype=torch.float64)[target])


def test_left_is_on_the_right_of_the_photo_from_the_front_and_on_the_left_from_behind():
    front, back = stand(yaw=0.0), stand(yaw=180.0)
    for left, right in FLIP_PAIRS:
        left, right = KEYPOINT_NAMES[left], KEYPOINT_NAMES[right]
        assert front[left][0, 0] > front[right][0, 0]
        assert back[left][0, 0] < back[right][0, 0]


def test_the_nose_points_to_the_viewer_from_the_front_and_away_from_behind():
    for yaw, sign in ((0.0, 1), (180.0, -1)):
        points = stand(yaw=yaw)
        assert sign * (points["nose"] - points["head"])[0, 2] > 0.04


def test_joints_bend_the_way_that_joints_bend():
    straight, bent = stand(), stand(knee=(90.0, 0.0), elbow=(90.0, 0.0))
    assert bent["left_ankle"][0, 2] == pytest.approx(straight["left_ankle"][0, 2] - 0.23)  # heel to the back
    assert bent["left_wrist"][0, 2] == pytest.approx(straight["left_wrist"][0, 2] + 0.1)  # hand to the front
    torch.testing.assert_close(bent["right_ankle"], straight["right_ankle"])


def test_a_raised_arm_stands_above_the_shoulder_and_a_turned_in_forearm_crosses_the_body():
    raised = stand(shoulder_abduction=(180.0, 180.0))
    torch.testing.assert_close(
        raised["left_wrist"][0], raised["left_shoulder"][0] + torch.tensor([0.0, 0.2, 0.0], dtype=torch.float64)
    )
    crossed = stand(elbow=(90.0, 90.0), arm_twist=(90.0, 90.0))
    assert crossed["left_wrist"][0, 0] < crossed["left_elbow"][0, 0]
    assert crossed["right_wrist"][0, 0] > crossed["right_elbow"][0, 0]


def test_no_pose_changes_the_length_of_a_bone():
    table = torch.rand(50, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = iter(table.unbind(1))
    shape = sample_shape(draws)
    points = pose_body(shape, sample_pose(draws)).points
    bones = {("shoulder", "elbow"): shape.upper_arm, ("hip", "knee"): shape.thigh, ("knee", "ankle"): shape.shank}
    for (start, end), length in bones.items():
        for side in ("left", "right"):
            torch.testing.assert_close((points[f"{side}_{start}"] - points[f"{side}_{end}"]).norm(dim=1), length)
    torch.testing.assert_close(points["neck"].norm(dim=1), shape.torso)


def test_a_person_does_not_depend_on_the_others_in_the_table():
    table = torch.rand(9, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    all_shapes, one_shape = sample_shape(iter(table.unbind(1))), sample_shape(iter(table[4:5].unbind(1)))
    for together, alone in zip(all_shapes, one_shape, strict=True):
        torch.testing.assert_close(together[4:5], alone, rtol=1e-12, atol=0)

"""The skeleton agrees with COCO's own definitions and with itself."""

import numpy as np
from pycocotools.cocoeval import Params

from ssl_pose.skeleton import (
    FLIP_PAIRS,
    FLIP_PERMUTATION,
    KEYPOINT_NAMES,
    LIMBS,
    NUM_KEYPOINTS,
    OKS_SIGMAS,
    TORSO_DIAGONALS,
)


def test_a_flip_exchanges_left_with_right_and_keeps_the_rest():
    other = {"left": "right", "right": "left"}
    mirrored = ["_".join(other.get(word, word) for word in name.split("_")) for name in KEYPOINT_NAMES]
    assert [KEYPOINT_NAMES[index] for index in FLIP_PERMUTATION] == mirrored
    assert len(FLIP_PAIRS) == 8


def test_two_flips_change_nothing():
    assert [FLIP_PERMUTATION[index] for index in FLIP_PERMUTATION] == list(range(NUM_KEYPOINTS))


def test_the_limbs_are_mirror_images_of_each_other_and_reach_every_keypoint():
    limbs = {frozenset(limb) for limb in LIMBS}
    assert {frozenset(FLIP_PERMUTATION[end] for end in limb) for limb in limbs} == limbs
    assert set().union(*limbs) == set(range(NUM_KEYPOINTS))
    assert len(limbs) == 19


def test_the_torso_diagonals_join_each_shoulder_to_the_opposite_hip():
    names = [{KEYPOINT_NAMES[end] for end in diagonal} for diagonal in TORSO_DIAGONALS]
    assert names == [{"left_shoulder", "right_hip"}, {"right_shoulder", "left_hip"}]


def test_the_sigmas_are_those_of_the_coco_evaluation():
    np.testing.assert_allclose(OKS_SIGMAS, Params("keypoints").kpt_oks_sigmas, rtol=1e-12)

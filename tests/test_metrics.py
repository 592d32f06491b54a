"""OKS against pycocotools and by hand; PCK by hand."""

import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssl_pose import metrics
from ssl_pose.skeleton import NUM_KEYPOINTS, OKS_SIGMAS

LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 5, 6, 11, 12


def sample_people(num_persons: int = 6) -> tuple[np.ndarray, ...]:
    """Predictions and truth (N, 17, 2), visibility with all three values, areas (N,)."""
    generator = np.random.default_rng(0)
    true = generator.uniform(0, 200, (num_persons, NUM_KEYPOINTS, 2))
    predicted = true + generator.normal(0, 8, true.shape)
    visibility = generator.integers(0, 3, (num_persons, NUM_KEYPOINTS))
    return predicted, true, visibility, generator.uniform(2000, 9000, num_persons)


def coco_oks(predicted: np.ndarray, true: np.ndarray, visibility: np.ndarray, area: float) -> float:
    """One person's similarity by `COCOeval.computeOks`."""
    truth, found = COCO(), COCO()
    flags = visibility[:, None]
    person = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 200, 200], "area": area}
    sections = {"images": [{"id": 1}], "categories": [{"id": 1}]}
    keypoints = np.hstack([true, flags]).ravel().tolist()
    truth.dataset = {**sections, "annotations": [{**person, "keypoints": keypoints, "num_keypoints": 1}]}
    keypoints = np.hstack([predicted, flags]).ravel().tolist()
    found.dataset = {**sections, "annotations": [{**person, "keypoints": keypoints, "score": 1.0}]}
    truth.createIndex()
    found.createIndex()
    evaluation = COCOeval(truth, found, "keypoints")
    evaluation._prepare()
    return evaluation.computeOks(1, 1)[0, 0]


def test_oks_is_that_of_pycocotools():
    predicted, true, visibility, area = sample_people()
    expected = [coco_oks(*person) for person in zip(predicted, true, visibility, area, strict=True)]
    np.testing.assert_allclose(metrics.oks(predicted, true, visibility, area), expected, rtol=1e-9)


def test_oks_of_one_keypoint_by_hand():
    true, visibility = np.zeros((1, NUM_KEYPOINTS, 2)), np.zeros((1, NUM_KEYPOINTS))
    visibility[0, LEFT_HIP] = 1
    predicted = true.copy()
    predicted[0, LEFT_HIP] = [3.0, 4.0]
    expected = math.exp(-25 / (2 * 400 * (2 * OKS_SIGMAS[LEFT_HIP]) ** 2))
    np.testing.assert_allclose(metrics.oks(predicted, true, visibility, np.array([400.0])), [expected])


def test_oks_is_one_when_perfect_and_not_a_number_when_nothing_is_annotated():
    _, true, visibility, area = sample_people(2)
    visibility[0], visibility[1] = 2, 0
    similarity = metrics.oks(true, true, visibility, area[:2])
    assert similarity[0] == 1
    assert np.isnan(similarity[1])


def person_with_torso() -> tuple[np.ndarray, np.ndarray]:
    """A person whose torso diagonals measure 5 and 13, all keypoints annotated."""
    true = np.zeros((1, NUM_KEYPOINTS, 2))
    true[0, RIGHT_HIP] = [3.0, 4.0]  # from the left shoulder at (0, 0)
    true[0, LEFT_HIP] = [5.0, 12.0]  # from the right shoulder at (0, 0)
    return true, np.full((1, NUM_KEYPOINTS), 2)


def test_the_torso_is_the_mean_of_the_annotated_diagonals_else_a_share_of_the_box():
    true, visibility = person_with_torso()
    box = np.array([[10.0, 20.0, 30.0, 40.0]])
    assert metrics.torso_length(true, visibility, box) == [9.0]
    visibility[0, LEFT_HIP] = 0
    assert metrics.torso_length(true, visibility, box) == [5.0]
    visibility[0, LEFT_SHOULDER] = 0
    assert metrics.torso_length(true, visibility, box) == [20.0]
    assert metrics.torso_length(np.zeros_like(true), np.full((1, NUM_KEYPOINTS), 2), box) == [20.0]


def test_pck_by_hand():
    true, visibility = np.zeros((2, NUM_KEYPOINTS, 2)), np.zeros((2, NUM_KEYPOINTS))
    visibility[0, :3], visibility[1, 0] = [1, 2, 2], 2
    predicted = true.copy()
    predicted[0, 0] = [1.0, 0.0]  # exactly at the limit of 0.1 * 10
    predicted[0, 1] = [0.8, 0.7]  # 1.06 px
    predicted[1, 0] = [0.0, 1.9]  # within 0.1 * 20
    predicted[1, 5] = [50.0, 0.0]  # not annotated
    length = np.array([10.0, 20.0])
    assert metrics.pck(predicted, true, visibility, length, 0.1) == 3 / 4
    per_joint = metrics.pck_per_joint(predicted, true, visibility, length, 0.1)
    np.testing.assert_array_equal(per_joint[:3], [1.0, 0.0, 1.0])
    assert np.isnan(per_joint[3:]).all()


def test_a_keypoint_below_the_confidence_threshold_counts_as_wrong():
    _, true, _, _ = sample_people(1)
    visibility = np.full((1, NUM_KEYPOINTS), 2)
    confidence = np.full((1, NUM_KEYPOINTS), 0.3)
    confidence[0, :5] = 0.29
    assert metrics.pck(true, true, visibility, np.ones(1), 0.1, confidence, 0.3) == 12 / 17
    assert metrics.pck(true, true, visibility, np.ones(1), 0.1) == 1.0


def test_a_keypoint_that_is_not_finite_is_wrong():
    _, true, _, _ = sample_people(1)
    predicted = true.copy()
    predicted[0, 3] = np.nan
    correct = metrics.correct_keypoints(predicted, true, np.ones((1, NUM_KEYPOINTS)), np.ones(1), 0.5)
    assert correct.sum() == NUM_KEYPOINTS - 1


def test_pck_of_nobody_is_not_a_number():
    nobody = np.zeros((0, NUM_KEYPOINTS, 2))
    assert math.isnan(metrics.pck(nobody, nobody, nobody[..., 0], np.zeros(0), 0.2))


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_scores_do_not_depend_on_the_frame(scale):
    predicted, true, visibility, area = sample_people()
    box = np.tile([0.0, 0.0, 120.0, 200.0], (6, 1))
    np.testing.assert_allclose(
        metrics.oks(scale * predicted, scale * true, visibility, scale**2 * area),
        metrics.oks(predicted, true, visibility, area),
    )
    lengths = metrics.torso_length(true, visibility, box)
    np.testing.assert_allclose(metrics.torso_length(scale * true, visibility, scale * box), scale * lengths)
    assert metrics.pck(scale * predicted, scale * true, visibility, scale * lengths, 0.1) == metrics.pck(
        predicted, true, visibility, lengths, 0.1
    )


def test_the_accuracy_of_training_scripts_is_counted_as_published():
    """Heatmaps of 20x10 cells: x is divided by 2 and y by 1, the other way round than their extents would ask."""
    true = np.full((1, NUM_KEYPOINTS, 2), 5.0)
    visibility = np.zeros((1, NUM_KEYPOINTS))
    visibility[0, :4] = 2
    predicted = true.copy()
    predicted[0, 0, 0] += 0.99  # of 2 cells: 0.495
    predicted[0, 1, 1] += 0.5  # of 1 cell: 0.5, no longer under it
    true[0, 2], predicted[0, 2] = (1.0, 5.0), (9.0, 9.0)  # a true cell at 1 is skipped, however wrong
    predicted[0, 4] = 0.0  # not annotated
    size = (20, 10)
    assert metrics.peer_accuracy(predicted, true, visibility, size) == pytest.approx(2 / 3)  # joints 0, 1 and 3
    again, more = np.concatenate([predicted, predicted]), visibility.copy()
    more[0, 0] = 0  # joint 1 of both people is wrong, joint 0 of one right: joints count the same, not people
    found = metrics.peer_accuracy(again, np.concatenate([true, true]), np.concatenate([visibility, more]), size)
    assert found == pytest.approx(2 / 3)
    assert math.isnan(metrics.peer_accuracy(predicted, true, 0 * visibility, size))

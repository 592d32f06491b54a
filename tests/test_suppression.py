"""Rescoring and OKS suppression, against a plain loop written from their definition, and by hand."""

import numpy as np
import pytest

from ssl_pose.skeleton import OKS_SIGMAS
from ssl_pose.suppression import rescore, suppress_by_photo, suppress_oks


def oks_of(first, second, first_area, second_area):
    """The object keypoint similarity of two predictions, keypoint by keypoint: COCO's formula."""
    total = 0.0
    for (x1, y1), (x2, y2), sigma in zip(first, second, OKS_SIGMAS, strict=True):
        squared = (x1 - x2) ** 2 + (y1 - y2) ** 2
        total += np.exp(-squared / (2 * (first_area + second_area) / 2 * (2 * sigma) ** 2))
    return total / 17


def suppressed_by_loop(keypoints, score, area, limit):
    """Every person, from the best down, against all that stayed."""
    stay = []
    for person in sorted(range(len(score)), key=lambda row: -score[row]):
        if all(oks_of(keypoints[person], keypoints[other], area[person], area[other]) <= limit for other in stay):
            stay.append(person)
    return stay


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [0.3, 0.9])
def test_those_stay_who_resemble_no_better_one(seed, limit):
    random = np.random.default_rng(seed)
    people = random.uniform(0, 400, (6, 17, 2))
    keypoints = people[random.integers(0, 6, 25)] + random.normal(0, 6, (25, 17, 2))
    area, score = random.uniform(2_000, 60_000, 25), random.uniform(0, 1, 25)
    kept = suppress_oks(keypoints, score, area, limit)
    assert kept.tolist() == suppressed_by_loop(keypoints, score, area, limit)
    assert 6 <= len(kept) < 25


def test_a_double_is_dropped_and_a_neighbour_stays():
    person = np.arange(34.0).reshape(17, 2)
    keypoints = np.stack([person + 60, person, person + 0.5])
    area = np.full(3, 400.0)
    assert suppress_oks(keypoints, np.array([0.2, 0.6, 0.9]), area).tolist() == [2, 0]
    assert suppress_oks(keypoints[:0], np.zeros(0), np.zeros(0)).tolist() == []


def test_photos_are_suppressed_by_themselves():
    keypoints, area = np.zeros((5, 17, 2)), np.full(5, 100.0)
    score, image_id = np.array([0.1, 0.5, 0.9, 0.4, 0.3]), np.array([7, 3, 7, 3, 9])
    assert suppress_by_photo(image_id, keypoints, score, area).tolist() == [1, 2, 4]


def test_a_person_scores_its_box_times_the_mean_of_its_sure_keypoints():
    confidence = np.zeros((3, 17), np.float32)
    confidence[0, :4] = [0.9, 0.5, 0.2, 0.1]  # 0.2 is not above 0.2
    confidence[1] = 0.15
    confidence[2] = 1.0
    assert rescore(np.array([0.5, 1.0, 0.8]), confidence) == pytest.approx([0.5 * 0.7, 0.0, 0.8])

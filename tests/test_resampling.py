"""The bootstrap's AP against COCOeval, photos drawn twice against photos that stand twice, and the two-way interval."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_results import fake_config, fake_persons, fake_predictions, write_fake_results
from scipy import stats

from ssl_pose.claims import build_ledger
from ssl_pose.matching import Matches, match_people, persons_of
from ssl_pose.predictions import Predictions, dequantize
from ssl_pose.resampling import AT_ONCE, draw_weights, mean_ap, two_way_interval, weighted_ap, weighted_share
from ssl_pose.scoring import score_coco
from ssl_pose.statistics import paired_interval

TRUTH = np.random.default_rng(3).uniform(4, 40, (40, 17, 2))


def persons_and_predictions(level: float = 60.0) -> tuple:
    arm = fake_config().arm("supervised")
    (found,) = fake_predictions(TRUTH, arm, level, np.random.default_rng(1))
    return persons_of(fake_persons(TRUTH)), found


@pytest.mark.parametrize("level", [30.0, 60.0, 200.0])
def test_with_every_photo_once_the_ap_is_cocoevals(level):
    persons, found = persons_and_predictions(level)
    matches = match_people(persons, found)
    expected = score_coco(persons, dequantize(found.keypoints), found.score)["AP"]
    assert weighted_ap(matches, np.ones((1, 20), int)) == pytest.approx([expected], abs=1e-6)


def test_a_photo_that_counts_nothing_is_as_if_it_were_not_there():
    persons, found = persons_and_predictions()
    weights = np.ones((1, 20), int)
    weights[0, [3, 7]] = 0
    kept = np.flatnonzero(~np.isin(persons.image_id, [3, 7]))
    fewer = Predictions(0, found.keypoints[kept], found.confidence[kept], found.score[kept])
    expected = weighted_ap(match_people(persons.subset(kept), fewer), np.ones((1, 18), int))
    assert weighted_ap(match_people(persons, found), weights) == pytest.approx(expected)


def test_a_photo_that_counts_twice_is_as_if_it_stood_twice():
    """Two photos with one person each: one found with score 0.9, the other missed with 0.8; the found counts twice.

    Precision is 1 up to recall 2/3 and nothing more is found: 67 of 101 recalls, at every threshold.
    """
    matches = Matches(np.array([0, 1]), np.tile([True, False], (10, 1)), np.array([1, 1]))
    assert weighted_ap(matches, np.array([[2, 1]])) == pytest.approx([100 * 67 / 101])
    assert weighted_ap(matches, np.array([[0, 0]])) != weighted_ap(matches, np.array([[2, 1]]))


def test_a_share_of_joints_weighs_persons_by_their_draws_and_their_joints():
    """Three of four joints of one person are hits, none of the two of another: 50 %; with the other twice, 3 of 8."""
    weights = np.array([[1, 1], [1, 2], [1, 0], [0, 0]])
    share = weighted_share(np.array([3, 0]), np.array([4, 2]), weights)
    np.testing.assert_allclose(share, [50.0, 37.5, 75.0, np.nan])


def test_draws_keep_the_number_of_photos_and_repeat_with_their_generator():
    first, again = (draw_weights(30, 50, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == (50, 30)
    assert (first.sum(1) == 30).all()
    np.testing.assert_array_equal(first, again)


def test_draws_that_are_reckoned_in_parts_are_those_of_one_go():
    persons, found = persons_and_predictions()
    matches, weights = match_people(persons, found), draw_weights(20, AT_ONCE + 3, np.random.default_rng(2))
    np.testing.assert_allclose(mean_ap([matches], weights), weighted_ap(matches, weights))


def test_equal_differences_give_an_interval_of_no_width_and_one_seed_gives_none():
    base = {seed: np.full(100, 10.0 + seed) for seed in range(5)}
    better = {seed: values + 2.0 for seed, values in base.items()}
    assert two_way_interval([2.0] * 5, better, base) == pytest.approx((2.0, 2.0))
    assert two_way_interval([2.0], {0: better[0]}, {0: base[0]}) is None


def test_with_photos_that_agree_the_interval_is_the_t_interval():
    """One seed fewer is drawn than there are, which gives the variance of a mean over eight: 1 / 8 of the sample's."""
    offsets = np.random.default_rng(0).normal(0, 1, 8)
    alike = {seed: np.full(4000, offset) for seed, offset in enumerate(offsets)}
    zero = {seed: np.zeros(4000) for seed in range(8)}
    assert two_way_interval(list(offsets), alike, zero) == pytest.approx(paired_interval(offsets), abs=0.02)


def test_what_photos_do_to_all_seeds_adds_its_variance():
    generator = np.random.default_rng(0)
    offsets, photos = generator.normal(0, 1, 3), generator.normal(0, 0.5, 4000)
    both = {seed: offset + photos for seed, offset in enumerate(offsets)}  # the same draw of photos moves all seeds
    low, high = two_way_interval(list(offsets), both, {seed: np.zeros(4000) for seed in range(3)})
    error = np.sqrt(offsets.var(ddof=1) / 3 + photos.var())
    assert high - low == pytest.approx(2 * stats.t.isf(0.025, 2) * error, rel=0.02)
    assert (low + high) / 2 == pytest.approx(offsets.mean())


def test_of_two_seeds_that_photos_move_apart_every_draw_is_one_of_them():
    """Scores of +1 and -1, by turns, of two seeds that are alike in the mean: each draw has variance 1."""
    sign = np.tile([1.0, -1.0], 2000)
    low, high = two_way_interval([0.0, 0.0], {0: sign, 1: -sign}, {seed: np.zeros(4000) for seed in range(2)})
    assert high == pytest.approx(stats.t.isf(0.025, 1), rel=0.02)
    assert low == pytest.approx(-high)


def test_the_ledger_states_it_beside_the_t_interval_at_the_same_level(tmp_path):
    config = replace(fake_config(), seeds=(0, 1, 2))
    ledger = build_ledger(write_fake_results(tmp_path / "fake", config), config)
    entries = {entry["id"]: entry for entry in ledger["claims"]}
    for name in ("dual_student_over_teacher_student", "maximum_over_average_pck",
                 "maximum_over_average_pck_above_threshold"):
        claim = entries[name]
        (low, high), (lower, higher) = claim["interval"], claim["two_way"]
        assert lower < low < claim["effect"] < high < higher


def test_a_copy_of_a_person_in_the_same_photo_makes_no_pseudo_label_surer(tmp_path):
    config = fake_config()
    results = write_fake_results(tmp_path / "fake", config)
    names = ("maximum_over_average_pck", "average_over_none_pck")
    alone = {entry["id"]: entry["two_way"] for entry in build_ledger(results, config)["claims"]}
    for path in results.rglob("pseudo_labels.parquet"):
        stored = pd.read_parquet(path)
        pd.concat([stored, stored.assign(person=stored.person + 100)]).to_parquet(path)
    twice = {entry["id"]: entry["two_way"] for entry in build_ledger(results, config)["claims"]}
    for name in names:
        assert twice[name] == pytest.approx(alone[name])

"""Accuracy over label counts: curves by method, gains, equivalents and differences, from scores made by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from ssl_pose import figures, label_counts, statistics
from ssl_pose.config import load_config
from ssl_pose.profiles import open_profile

AP = {  # of seed 0; seed 1 has two points more everywhere, so that paired differences have no spread
    "supervised_10": 10.0, "supervised": 20.0, "supervised_40": 30.0,
    "full_10": 15.0, "full": 25.0, "full_40": 34.0, "all_labels": 40.0,
}


@pytest.fixture
def config():
    base = load_config("params.yaml")
    arms = {"all_labels": base.arm("all_labels")}
    for name in ("supervised", "full"):
        arms[name] = base.arm(name)
        for count in (40, 10):
            arms[f"{name}_{count}"] = replace(base.arm(name), label_count=count, title=f"{name}, {count}")
    return replace(base, seeds=(0, 1), arms=arms, splits=replace(base.splits, label_count=20))


@pytest.fixture
def scores():
    return pd.DataFrame([{"arm": arm, "seed": seed, "AP": score + 2 * seed} for arm, score in AP.items()
                         for seed in (0, 1)])


def test_arms_that_differ_in_their_label_count_alone_are_a_curve(config):
    assert label_counts.label_curves(config) == {
        config.arm("supervised").title: {10: "supervised_10", 20: "supervised", 40: "supervised_40"},
        config.arm("full").title: {10: "full_10", 20: "full", 40: "full_40"},
    }
    other = replace(config.arm("full_10"), confidence_threshold=0.9)
    curves = label_counts.label_curves(replace(config, arms=config.arms | {"full_10": other}))
    assert curves[config.arm("full").title] == {20: "full", 40: "full_40"}


def test_gains_shares_and_equivalents_are_those_reckoned_by_hand(config, scores):
    levels = label_counts.level_table(scores, config).set_index("arm")
    assert levels.AP_mean["full"] == 26.0
    assert levels.of_all_labels["full"] == pytest.approx(100 * 26 / 41)
    assert (levels.gain_mean["full_10"], levels.gain_mean["full"], levels.gain_mean["full_40"]) == (5, 5, 4)
    assert (levels.low["full"], levels.high["full"]) == (5, 5)
    # half-way between 10 and 20 labels in AP: their geometric mean
    assert levels.equivalent["full_10"] == pytest.approx(math.sqrt(10 * 20))
    assert levels.equivalent["full"] == pytest.approx(math.sqrt(20 * 40))
    assert math.isnan(levels.equivalent["full_40"])  # better than supervised training ever was
    # every seed gains the same, so that the interval has no width
    assert (levels.equivalent_low["full"], levels.equivalent_high["full"]) == pytest.approx((math.sqrt(800),) * 2)
    assert levels.loc[["supervised", "supervised_10"], ["gain_mean", "equivalent"]].isna().all(axis=None)


def test_an_arm_of_one_label_count_is_read_off_the_supervised_curve_and_is_no_curve(config, scores):
    alone = replace(config.arm("full"), num_views=4, title="Alone")
    more = pd.DataFrame([{"arm": "alone", "seed": seed, "AP": 25.0 + 2 * seed} for seed in (0, 1)])
    wider, scores = replace(config, arms=config.arms | {"alone": alone}), pd.concat([scores, more])
    row = label_counts.level_table(scores, wider).set_index("curve").loc["Alone"]
    assert (row.label_count, row.AP_mean, row.gain_mean) == (20, 26.0, 5.0)
    assert row.equivalent == pytest.approx(math.sqrt(20 * 40))
    assert "Alone" not in label_counts.label_curves(wider)
    assert "Alone" not in set(label_counts.pair_table(scores, wider).better)
    few = {name: arm for name, arm in wider.arms.items() if name not in ("supervised_10", "supervised_40")}
    assert "Alone" not in set(label_counts.level_table(scores, replace(wider, arms=few)).curve)  # no curve to read off



@pytest.mark.parametrize(("score", "count"), [(10, 10), (30, 40), (9.9, None), (30.1, None)])
def test_an_equivalent_is_read_within_the_curve_only(score, count):
    assert label_counts.equivalent_count(score, [10, 20, 40], [10, 20, 30]) == (count and pytest.approx(count))


def test_a_dip_of_the_supervised_curve_does_not_confuse_the_equivalent():
    assert label_counts.equivalent_count(21, [10, 20, 40, 80], [10, 20, 18, 30]) > 40


def test_pairs_leave_the_supervised_curve_out_and_take_the_headroom_of_their_count(config, scores):
    arms = {f"ours{suffix}": replace(config.arm(f"full{suffix}"), relative_steps=2.0, title=f"ours{suffix}")
            for suffix in ("", "_10")}
    more = replace(config, arms=config.arms | arms)
    rows = [{"arm": "ours", "seed": 0, "AP": 29.0}, {"arm": "ours", "seed": 1, "AP": 33.0},
            {"arm": "ours_10", "seed": 0, "AP": 14.0}, {"arm": "ours_10", "seed": 1, "AP": 16.0}]
    pairs = label_counts.pair_table(pd.concat([scores, pd.DataFrame(rows)]), more)
    assert list(zip(pairs.better, pairs.label_count, strict=True)) == [("ours", 10), ("ours", 20), ("ours", "all")]
    assert pairs.difference_mean.tolist()[:2] == [-1.0, 5.0]
    of_10, of_20 = -100 / 30, 500 / 20
    assert pairs.of_headroom.tolist() == pytest.approx([of_10, of_20, (of_10 + of_20) / 2])
    assert pairs.low[1] < 25 < pairs.high[1]  # 4 and 6 points
    shares = [(of_10 + 400 / 20) / 2, (of_10 + 600 / 20) / 2]  # of either seed, over both counts
    assert (pairs.low[2], pairs.high[2]) == pytest.approx(statistics.paired_interval(shares))


def test_a_profile_with_one_label_count_gives_empty_tables_and_a_figure(tmp_path):
    config = load_config("params.yaml")
    scores = pd.DataFrame([{"arm": arm, "seed": 0, "AP": 1.0} for arm in config.arms])
    levels, pairs = label_counts.level_table(scores, config), label_counts.pair_table(scores, config)
    assert levels.empty
    assert pairs.empty
    assert figures.save_figure(figures.draw_label_counts(levels, 1.0), tmp_path / "empty.png").stat().st_size > 0
    assert figures.draw_label_counts(levels, float("nan")).axes[0].lines[:] == []  # no arm had all labels


def test_a_profile_holds_four_label_counts_of_three_methods_and_longer_supervised_training():
    config = open_profile("label_counts").config
    curves = {title: set(arms) for title, arms in label_counts.label_curves(config).items()}
    assert curves.pop("Supervised") > {60, 100, 200, 300}
    assert curves.pop("Supervised for as long as ours") == {60, 100, 200, 300, 400}
    assert list(curves.values()) == [{60, 100, 200, 300}] * 3


def test_the_ends_of_a_gain_are_read_off_the_curve_too_and_left_out_beyond_it(config, scores):
    """Gains of 3 and 7 points over 20 labels: a wide interval around 5, whose lower end lies below the whole curve."""
    moved = scores.set_index(["arm", "seed"]).AP
    moved[("full", 0)], moved[("full", 1)] = 23.0, 29.0
    low, high = statistics.paired_interval([3.0, 7.0])
    full = label_counts.level_table(moved.reset_index(), config).set_index("arm").loc["full"]
    assert (full.low, full.high) == pytest.approx((low, high))
    assert math.isnan(full.equivalent_low)
    assert math.isnan(full.equivalent_high)
    moved[("full", 0)], moved[("full", 1)] = 24.9, 27.1
    full = label_counts.level_table(moved.reset_index(), config).set_index("arm").loc["full"]
    low, high = statistics.paired_interval([4.9, 5.1])
    base = [11.0, 21.0, 31.0]  # the supervised curve's means
    expected = [label_counts.equivalent_count(21 + end, [10, 20, 40], base) for end in (low, high)]
    assert (full.equivalent_low, full.equivalent_high) == pytest.approx(expected)
    assert full.equivalent_low < full.equivalent < full.equivalent_high

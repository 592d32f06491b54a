"""How near a benchmark is to the paper's regime, from scores made by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from ssl_pose.config import load_config
from ssl_pose.regime import COLUMNS, regime_table


@pytest.fixture
def config():
    base = load_config("params.yaml")
    return replace(base, seeds=(0, 1), training=replace(base.training, unlabeled_batch=20))


def test_the_regime_is_three_numbers_beside_the_papers(config):
    scores = pd.DataFrame({"arm": ["supervised", "supervised", "all_labels", "all_labels"], "seed": [0, 1, 0, 1],
                           "AP": [10.0, 15.0, 20.0, 25.0]})
    quality = pd.DataFrame({"arm": "dual_student", "mode": ["none", "none", "maximum"], "pck": [60.0, 64.0, 90.0]})
    provenance = pd.DataFrame({"arm": ["dual_student", "supervised"], "steps": [300, 300], "num_unlabeled": [200, 0]})
    table = regime_table(scores, quality, provenance, config).set_index("quantity")
    assert table.paper.tolist() == [46.9, 63.5, 30.0]  # 31.5 of 67.1, Table 1's single view, the peers' epochs
    assert table.ours_mean.tolist() == [(50.0 + 60.0) / 2, 62.0, 300 * 20 / 200]  # shares by seed
    assert table.seeds.tolist() == [2, 2, 1]


def test_a_curve_says_where_supervised_training_has_the_papers_shares_of_all_labels_and_nothing_beyond_its_ends(config):
    """At 10, 20, 40 labels 10, 20, 30 of 40 points: 33 % and the paper's 1K, 5K, 10K are 13.2, 18.8, 27.7 and 30.5."""
    counts = {"supervised_10": 10, "supervised": 0, "supervised_40": 40}
    arms = {name: replace(config.arm("supervised"), label_count=count, title=name) for name, count in counts.items()}
    config = replace(config, arms=arms | {"all_labels": config.arm("all_labels")},
                     splits=replace(config.splits, unit="image", label_count=20))
    points = {"supervised_10": 10.0, "supervised": 20.0, "supervised_40": 30.0, "all_labels": 40.0}
    scores = pd.DataFrame([{"arm": arm, "seed": seed, "AP": score + seed - 0.5} for arm, score in points.items()
                           for seed in (0, 1)])
    nobody = pd.DataFrame({name: [] for name in ("arm", "mode", "pck", "steps", "num_unlabeled")})
    table = regime_table(scores, nobody, nobody, config)[1:].reset_index(drop=True)
    assert math.isnan(table.paper[0])  # no number is printed
    assert table.paper[1:].tolist() == [1_000, 5_000, 10_000]
    expected = [10 * 2 ** ((40 * 0.33 - 10) / 10), 10 * 2 ** ((40 * 31.5 / 67.1 - 10) / 10),
                20 * 2 ** ((40 * 46.4 / 67.1 - 20) / 10)]
    assert table.ours_mean[:3].tolist() == pytest.approx(expected)
    assert math.isnan(table.ours_mean[3])
    assert table.quantity[2] == "labelled images at which “supervised” has 69 % of all labels' AP"


def test_a_grid_without_these_arms_has_no_regime(config):
    nobody = pd.DataFrame({name: [] for name in ("arm", "seed", "AP", "mode", "pck", "steps", "num_unlabeled")})
    table = regime_table(nobody, nobody, nobody, config)
    assert table.empty
    assert list(table) == COLUMNS

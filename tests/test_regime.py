"""How near a benchmark is to the paper's regime, from scores made by hand."""

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


def test_a_grid_without_these_arms_has_no_regime(config):
    nobody = pd.DataFrame({name: [] for name in ("arm", "seed", "AP", "mode", "pck", "steps", "num_unlabeled")})
    table = regime_table(nobody, nobody, nobody, config)
    assert table.empty
    assert list(table) == COLUMNS

"""Other readings and ablations of a results tree with known effects."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from fake_results import AP, fake_config, write_fake_results
from matplotlib.text import Text

from ssl_pose import ablations, figures, readings, results
from ssl_pose.matching import persons_of
from ssl_pose.predictions import Predictions, quantize, write_predictions


@pytest.fixture(scope="module")
def config():
    return fake_config()


@pytest.fixture(scope="module")
def tree(tmp_path_factory, config):
    return write_fake_results(tmp_path_factory.mktemp("results") / "fake", config)


def test_decoders_come_one_row_each_with_and_without_flip(tree, config):
    frame = readings.load_decoding(tree, config, ["full"])
    assert len(frame) == 3 * len(config.seeds)
    np.testing.assert_allclose(frame.flip - frame.plain, 1.0)
    assert set(frame.decoder) == {"dark", "quarter", "argmax"}


def test_reported_scores_are_those_of_the_reported_networks_and_none_where_undefined(tree, config):
    frame = readings.load_reported(tree, config, ["AP", "APL"], ["dual_student", "supervised"])
    headline = results.load_scores(tree, config, ["dual_student", "supervised"])
    np.testing.assert_allclose(frame.AP, headline.AP)
    assert frame.APL.isna().all()


def test_joints_keep_their_order_and_their_names(tree, config):
    frame = readings.load_per_joint(tree, config, ["supervised"])
    first = frame[frame.seed == 0]
    assert first.joint.iloc[0] == "nose"
    assert np.allclose(np.diff(first.PCK), 1.0)


def test_reliability_bins_hold_equally_many_joints_from_low_to_high(tree, config):
    bins = readings.load_reliability(tree, config, ["dual_student", "supervised"])
    assert len(bins) == 2 * len(config.seeds) * readings.NUM_BINS
    for _, run in bins.groupby(["arm", "seed"]):
        assert run.confidence.is_monotonic_increasing
        assert run.correct.between(0, 100).all()


def test_an_ablation_states_what_differs_the_paired_difference_and_the_cost(tree, config):
    table = ablations.ablation_table(results.load_scores(tree, config), results.load_provenance(tree, config), config)
    row = table.set_index("arm").loc["dual_average"]
    assert row["what differs"] == "num_views: 0 -> 2; ensemble: none -> average"
    expected = AP["dual_average"] - AP["dual_student"]
    assert row.difference_mean == pytest.approx(expected, abs=0.6)
    assert row.low <= row.difference_mean <= row.high
    assert row.cost == pytest.approx(len("dual_average") / len("dual_student"))
    assert list(table.group.unique()) == ["Threshold-and-refine", "Ensemble of views", "Selection"]


def test_a_grid_without_ablations_gives_an_empty_table_and_a_figure(tree, config, tmp_path):
    plain = replace(config, arms={name: replace(arm, group="", baseline="") for name, arm in config.arms.items()})
    table = ablations.ablation_table(results.load_scores(tree, plain), results.load_provenance(tree, plain), plain)
    assert table.empty
    assert figures.save_figure(figures.draw_ablations(table), tmp_path / "empty.png").stat().st_size > 0


def test_costs_rise_from_row_to_row(tree, config):
    costs = ablations.cost_table(results.load_scores(tree, config), results.load_provenance(tree, config))
    assert costs.passes.is_monotonic_increasing
    assert set(costs.arm) == set(config.arms)


def test_numbers_beside_equal_points_do_not_overprint(config):
    titles = {name: arm.title for name, arm in config.arms.items()}
    costs = pd.DataFrame({"arm": list(titles), "passes": 1.0, "AP": [20.0] * (len(titles) - 1) + [30.0]})
    figure = figures.draw_costs(costs, titles)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(number) for number in figure.axes[0].texts]  # without its line to the point
    assert len(boxes) == len(titles) > 8
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_a_figure_of_reliability_has_a_line_an_arm_and_the_diagonal(tree, config):
    bins = readings.load_reliability(tree, config, ["full"])
    figure = figures.draw_reliability(bins, {"full": "Whole method"})
    assert len(figure.axes[0].lines) == 2


def test_thirds_of_the_people_by_area_are_scored_alone(tmp_path, config):
    """The largest third is predicted exactly, everybody else far away."""
    tree = write_fake_results(tmp_path / "fake", config)
    persons = persons_of(results.load_persons(tree))
    largest = np.argsort(persons.area, kind="stable")[-(len(persons) // 3):]
    keypoints = quantize(persons.keypoints + 500.0)
    keypoints[largest] = quantize(persons.keypoints)[largest]
    confidence = np.full(keypoints.shape[:2], 0.5, np.float16)
    path = results.run_file(tree, "supervised", 0, "predictions.parquet")
    write_predictions(path, [Predictions(0, keypoints, confidence, confidence.mean(1, dtype=np.float32))])
    row = readings.load_thirds(tree, config, ["supervised"]).iloc[0]
    assert (row.smallest, row.middle, row.largest) == (0, 0, pytest.approx(100))


def test_the_calibration_error_is_the_mean_gap_over_bins_whatever_its_sign():
    bins = pd.DataFrame({"arm": ["a", "a", "b"], "confidence": [0.5, 0.7, 0.9], "correct": [60.0, 60.0, 90.0]})
    assert readings.calibration_error(bins).to_dict() == {"a": 10.0, "b": 0.0}


def test_arms_of_equal_cost_are_those_of_as_many_passes_and_labels_in_unequal_steps(config):
    base = config.arm("full")
    arms = {"short": base, "long": replace(base, relative_steps=2.0), "longest": replace(base, relative_steps=3.0),
            "dear": replace(base, relative_steps=2.0), "few": replace(base, relative_steps=2.0, label_count=7)}
    passes = {"short": 1000.0, "long": 1019.0, "longest": 990.0, "dear": 1021.0, "few": 1000.0}
    provenance = pd.DataFrame({"arm": passes.keys(), "seed": 0, "image_passes": passes.values()})
    pairs = ablations.equal_cost_pairs(provenance, replace(config, arms=arms))
    assert set(pairs) == {("long", "short"), ("longest", "short")}

"""What is said of a training log's peaks, from logs made by hand."""

import math

import pandas as pd
import pytest

from ssl_pose.collapse import describe_collapse, diagnose
from ssl_pose.figures import TALLEST, draw_training


@pytest.mark.parametrize(("peaks", "line"), [
    ([0.4, 0.3, 0.05, 0.02], "fell to background after step 2 (mean peak 0.40 before, 0.020 at the end)"),
    ([0.4, 0.05, 0.3, 0.05], "fell to background after step 3 (mean peak 0.40 before, 0.050 at the end)"),
    ([0.4, 0.05, 0.1], ""),
    ([0.01, 0.15, 0.04], "never left the background (mean peak 0.040 at the end)"),
    ([0.4, 20.6, 0.4], "overshot at step 2 (mean peak 20.6, of 1)"),
    ([0.4, 1.6, 0.9], ""),
    ([], ""),
])
def test_a_collapse_is_a_fall_that_lasts_to_the_end_of_the_log_or_a_height_without_bound(peaks, line):
    assert describe_collapse([{"step": step, "peak": peak} for step, peak in enumerate(peaks, 1)]) == line
    assert describe_collapse([{"step": 1, "loss": 0.5}]) == ""


def logs() -> pd.DataFrame:
    """Of one student whose steps come in disorder, and of two that agree."""
    alone = pd.DataFrame({"step": [60, 20, 40, 80], "peak": [0.05, 0.5, 0.0999, 0.2], "kept": [0.0, 0.9, 0.1, 0.25]})
    pair = pd.DataFrame({"step": [20, 40], "peak": [0.3, 30.0], "kept": [0.5, 1.0], "agreement": [0.6, 0.75]})
    return pd.concat([alone.assign(arm="consistency", seed=1), pair.assign(arm="dual", seed=1)], ignore_index=True)


def test_a_run_is_told_by_its_first_lowest_and_last_peak_and_the_share_of_steps_in_the_background():
    alone, pair = diagnose(logs()).to_dict("records")
    assert alone["arm"] == "consistency"
    assert (alone["peak_first"], alone["peak_lowest"], alone["peak_last"]) == (0.5, 0.05, 0.2)
    assert (alone["kept_last"], alone["background"]) == (25.0, 50.0)  # 0.05 and 0.0999 are under a tenth
    assert math.isnan(alone["agreement_last"])  # one student has nobody to agree with
    assert (pair["agreement_last"], pair["background"], pair["peak_last"]) == (75.0, 0.0, 30.0)
    assert diagnose(logs().iloc[:0]).empty


def test_peaks_that_no_target_asks_for_leave_the_figure_and_flatten_nobody():
    shown = {"peak": "mean peak", "kept": "kept"}
    heights, shares = draw_training(logs(), {"consistency": "One", "dual": "Two"}, shown).axes
    assert heights.get_ylim() == (0, TALLEST)
    assert shares.get_ylim()[1] < TALLEST
    low = draw_training(logs().iloc[:4], {"consistency": "One"}, shown).axes[0]
    assert low.get_ylim()[1] < 0.6

"""From a results tree to ledger, tables, figures, page and README: known effects in, the same effects out."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_results import AP, fake_config, fake_pseudo_labels, store_pseudo_labels, write_fake_results

from ssl_pose import claims, figures, label_analysis, paper, pictures, reporting, results, statistics, tables
from ssl_pose.readme import claim_rows, markers, update_readme

MODULES = ("statistics", "paper", "results", "label_analysis", "claims", "tables", "figures", "pictures",
           "reporting")


@pytest.fixture(scope="module")
def config():
    return fake_config()


@pytest.fixture(scope="module")
def tree(tmp_path_factory, config) -> Path:
    return write_fake_results(tmp_path_factory.mktemp("results") / "fake", config)


@pytest.fixture(scope="module")
def ledger(tree, config) -> pd.DataFrame:
    return pd.DataFrame(claims.build_ledger(tree, config)["claims"]).set_index("id")


@pytest.fixture
def page_folder(tmp_path, tree, config, ledger) -> Path:
    """A folder with every table, figure and the ledger that the page shows."""
    for section in reporting.SECTIONS:
        for name, _ in section.tables:
            rows = pd.DataFrame({"row": [f"{name} & more"] * 2, "x_mean": 1.25, "claim": "a claim"})
            results.write_table(rows, tmp_path / "tables" / f"{name}.csv")
        for name, _, _ in section.figures:
            scores = results.load_scores(tree, config, ["supervised"])
            figures.save_figure(figures.draw_scores(scores), tmp_path / "figures" / f"{name}.png")
    claims.write_ledger(claims.build_ledger(tree, config), tmp_path / "claims.json")
    return tmp_path


def test_nothing_here_imports_torch():
    script = f"import sys; from ssl_pose import {', '.join(MODULES)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_scores_follow_the_grid_and_not_the_folder(tree, config):
    fewer = replace(config, arms={name: config.arms[name] for name in ("full", "supervised")})
    scores = results.load_scores(tree, fewer)
    assert list(scores.arm.unique()) == ["full", "supervised"]
    assert list(scores.seed) == [0, 1, 2, 0, 1, 2]
    assert scores.AP_ensemble.isna().tolist() == [False] * 3 + [True] * 3


def test_a_missing_run_is_named_in_one_line(tree, config):
    more_seeds = replace(config, seeds=(0, 7))
    with pytest.raises(results.ResultsError, match=r"run supervised, seed 7 has no metrics\.json") as error:
        results.load_scores(tree, more_seeds)
    assert "\n" not in str(error.value)


def test_effort_counts_what_every_process_of_a_run_held(tree, config):
    provenance = results.load_provenance(tree, config, ["full"])  # three runs of 61.5 s, of one thread each
    assert tables.effort_table(provenance)["hours of cores"].tolist() == pytest.approx([3 * 61.5 / 3600])
    on_gpus = provenance.assign(num_processes=[1, 2, 4], **{"hardware.gpu": "a GPU", "hardware.threads": 8})
    assert tables.effort_table(on_gpus)["hours of GPUs"].tolist() == pytest.approx([7 * 61.5 / 3600])
    assert tables.effort_table(on_gpus)["hours of training"].tolist() == pytest.approx([3 * 61.5 / 3600])


def test_a_truncated_file_is_named_in_one_line(tmp_path):
    (tmp_path / "metrics.json").write_text('{"AP": 1')
    with pytest.raises(results.ResultsError, match=r"metrics\.json is no valid JSON"):
        results.read_json(tmp_path / "metrics.json")


def test_pseudo_labels_come_as_errors_in_reference_lengths(tree, config):
    stored = pd.read_parquet(results.run_file(tree, "dual_student", 1, "pseudo_labels.parquet"))
    raw = fake_pseudo_labels("dual_student", 12, np.random.default_rng([sum(b"dual_student"), 1]))
    raw = raw[raw.visibility > 0]
    by_hand = ((raw.x_maximum - raw.true_x) ** 2 + (raw.y_maximum - raw.true_y) ** 2) ** 0.5 / 64 / 8
    read = results.load_pseudo_labels(tree, config, ["dual_student"])
    read = read[read.seed == 1]
    assert len(read) == len(stored) == len(raw)
    excess = read.error_maximum.to_numpy() - by_hand.to_numpy()
    assert ((excess > -1e-9) & (excess < 1e-3)).all()  # rounded up
    assert (read.confidence_maximum.to_numpy() <= raw.confidence_maximum.to_numpy().astype(float)).all()


def test_pseudo_labels_of_an_older_version_are_refused_in_one_line(config, tmp_path):
    tree = write_fake_results(tmp_path / "fake", config)
    path = results.run_file(tree, "dual_student", 1, "pseudo_labels.parquet")
    pd.read_parquet(path).drop(columns="image_id").to_parquet(path)
    with pytest.raises(results.ResultsError, match="has no image_id: an older version wrote it; make repro"):
        results.load_pseudo_labels(tree, config, ["dual_student"])


def test_both_readings_of_table_1_are_recomputed_from_the_stored_peaks(tree, config):
    labels = results.load_pseudo_labels(tree, config, ["dual_maximum", "teacher_student", "supervised"])
    again = label_analysis.pck_readings(labels, 0.3).set_index(["arm", "seed", "mode"])
    stored = results.load_pseudo_quality(tree, config, ["dual_maximum", "teacher_student", "supervised"])
    stored = stored.set_index(["arm", "seed", "mode"])[list(again.columns)]
    pd.testing.assert_frame_equal(again.sort_index(), stored.sort_index(), check_dtype=False)


def labels_by_hand() -> pd.DataFrame:
    """Four joints of one person, seen by two students; errors in reference lengths."""
    shared = {"arm": "a", "seed": 0, "person": 0, "joint": range(4)}
    first = pd.DataFrame(shared | {"network": 0, "error_maximum": [0.1, 0.1, 0.5, 0.2],
                                   "confidence_maximum": [0.9, 0.2, 0.6, 0.4], "uncertainty": [0.1, 0.1, 0.1, 0.2]})
    second = pd.DataFrame(shared | {"network": 1, "error_maximum": [0.3, 0.3, 0.1, 0.3],
                                    "confidence_maximum": [0.9, 0.8, 0.6, 0.4], "uncertainty": [0.3, 0.3, 0.2, 0.2]})
    return pd.concat([first, second], ignore_index=True)


def test_selection_by_hand():
    row = label_analysis.selection_by_margin(labels_by_hand(), "maximum", [0.05]).iloc[0]
    assert (row.own_0, row.own_1) == (75.0, 0.0)  # joints 0, 1 and 2; joint 3 is a tie
    assert row.pck_chosen == pytest.approx(200 / 3)  # errors .1, .1, .5
    assert row.pck_rejected == pytest.approx(100 / 3)  # errors .3, .3, .1
    assert row.chosen_closer == pytest.approx(200 / 3)
    assert row.pck_targets == 62.5  # right, right, wrong, and half of the tie
    assert row.pck_dual == 50.0


def test_the_guard_takes_a_blank_map_for_wholly_uncertain():
    labels = labels_by_hand()
    row = label_analysis.selection_by_margin(labels, "maximum", [0.05], guard_threshold=0.3).iloc[0]
    by_row = label_analysis.selection_by_margin(labels, "maximum", [0.05], labels.arm.map({labels.arm[0]: 0.3})).iloc[0]
    pd.testing.assert_series_equal(row, by_row)
    assert (row.own_0, row.own_1) == (50.0, 25.0)  # joint 1: the first student's peak is 0.2


def test_coverage_and_precision_by_hand():
    curve = label_analysis.coverage_and_precision(labels_by_hand(), "maximum", [0.0, 0.5, 0.85, 1.0])
    assert curve.coverage.tolist() == [100.0, 62.5, 25.0, 0.0]
    assert curve.precision.tolist()[:3] == [50.0, 40.0, 50.0]
    assert np.isnan(curve.precision.iloc[-1])


def test_thresholding_splits_the_joints_into_kept_and_dropped_by_hand():
    row = label_analysis.before_and_after(labels_by_hand(), "maximum", 0.5).iloc[0]
    assert (row.kept, row.pck_all, row.pck_kept) == (62.5, 50.0, 40.0)
    assert row.pck_dropped == pytest.approx(200 / 3)


def test_rank_correlation_of_a_monotone_and_of_a_constant_uncertainty():
    labels = labels_by_hand().assign(uncertainty=lambda rows: rows.error_maximum**2)
    assert label_analysis.rank_correlation(labels, "maximum").uncertainty.iloc[0] == pytest.approx(1.0)
    labels = labels.assign(uncertainty=0.1)
    assert np.isnan(label_analysis.rank_correlation(labels, "maximum").uncertainty.iloc[0])


def test_signs_of_a_wrong_peak_over_its_height_and_by_its_height_alone():
    labels = labels_by_hand().assign(uncertainty=0.1, confidence_maximum=lambda rows: 1 - rows.error_maximum)
    row = label_analysis.rank_correlation(labels, "maximum").iloc[0]
    assert (row.over_peak, row.low_peak) == pytest.approx((1.0, 1.0))


def test_students_are_chosen_by_uncertainty_over_the_peak_by_hand():
    labels = labels_by_hand().assign(uncertainty=0.1)
    row = label_analysis.selection_by_margin(labels, "maximum", [0.0], relative=True).iloc[0]
    assert (row.own_0, row.own_1) == (0.0, 25.0)  # joint 1: peaks of 0.2 and 0.8; elsewhere both are as high
    assert (row.pck_chosen, row.pck_rejected) == (0.0, 100.0)


def test_precision_at_equal_coverage_by_hand():
    row = label_analysis.precision_at_coverage(labels_by_hand(), "maximum", (0.25, 1.0)).iloc[0]
    assert (row.right_of_25, row.right_of_100) == (50.0, 50.0)  # the two peaks of 0.9: errors .1 and .3


def test_bins_of_uncertainty_hold_equally_many_joints(tree, config):
    labels = results.load_pseudo_labels(tree, config, ["full"])
    bins = label_analysis.error_by_uncertainty(labels, "maximum", num_bins=4)
    assert (bins.groupby("seed").bin.apply(list).map(sorted) == [[1, 2, 3, 4]] * 3).all()
    assert bins.sort_values("bin").groupby("seed").uncertainty.apply(lambda u: u.is_monotonic_increasing).all()


def test_deltas_are_half_of_the_papers_effects_over_its_headroom(ledger):
    deltas = ledger.delta  # 27.6, 10.4 and 4.1 % of 67.1 - 31.5, halved
    assert deltas["dual_student_over_teacher_student"] == pytest.approx(27.6 / 2, abs=0.05)
    assert deltas["teacher_student_refine_over_teacher_student"] == pytest.approx(10.4 / 2, abs=0.05)
    assert deltas["dual_student_refine_over_dual_student"] == pytest.approx(4.1 / 2, abs=0.05)
    assert deltas["maximum_over_average_pck"] == pytest.approx(100 * 2.1 / 36.5 / 2)
    assert deltas["full_over_dual_student_refine"] == deltas["dual_student_refine_over_dual_student"]


def test_the_ledger_holds_the_effects_that_were_put_in(ledger):
    entry = ledger.loc["dual_student_refine_over_dual_student"]
    assert entry.paper == 1.46
    assert entry.seeds == 3
    assert entry.headroom == pytest.approx(AP["all_labels"] - AP["supervised"], abs=1)
    assert entry.difference == pytest.approx(AP["dual_student_refine"] - AP["dual_student"], abs=0.7)
    assert entry.effect == pytest.approx(100 * entry.difference / entry.headroom)
    assert np.mean(entry.per_seed) == pytest.approx(entry.difference)
    low, high = entry.interval
    assert low < entry.effect < high
    assert (low + high) / 2 == pytest.approx(entry.effect)


def test_labels_and_arms_help_in_the_fake_tree(ledger):
    checks = ledger[ledger.family == "check"]
    assert len(checks) == 8 + 9  # semi-supervised over supervised, all labels over these and supervised
    assert (checks.verdict == "reproduced").all()


def test_a_family_is_judged_at_holms_levels(ledger):
    primary = ledger[ledger.family == "primary"]
    assert len(primary) == 8
    assert primary.level.min() == pytest.approx(0.05 / 8)
    assert primary.level.max() <= 0.05


def test_one_seed_leaves_every_claim_undecided_and_the_json_strict(tmp_path):
    config = fake_config(num_seeds=1)
    tree = write_fake_results(tmp_path / "fake", config)
    path = claims.write_ledger(claims.build_ledger(tree, config), tmp_path / "claims.json")
    entries = json.loads(path.read_text(), parse_constant=pytest.fail)["claims"]  # no NaN, no Infinity
    assert {entry["verdict"] for entry in entries} == {"undecided"}
    assert all(entry["interval"] is None and entry["seeds_needed"] is None for entry in entries)


def test_claims_whose_arms_are_not_in_the_grid_are_left_out(config):
    small = replace(config, arms={name: config.arms[name] for name in ("teacher_student", "dual_student")})
    ids = [claim.id for claim in claims.primary_claims(small)]
    assert ids[-1] == "dual_student_over_teacher_student"
    assert len(ids) == 5  # and Table 1, twice read
    assert claims.check_claims(small) == []


def test_a_grid_without_any_claim_has_an_empty_ledger_that_is_shown(tmp_path, tree, config, ledger):
    alone = replace(config, arms={"supervised": config.arms["supervised"]})
    path = claims.write_ledger(claims.build_ledger(tree, alone), tmp_path / "claims.json")
    empty = claims.read_ledger(path)
    assert list(empty.columns) == ["id", *ledger.columns] == claims.ENTRY
    assert len(tables.claim_table(empty)) == 0
    assert reporting.verdict_counts(empty) == {}
    assert figures.draw_claims(empty).axes


def test_without_headroom_there_is_no_effect_and_no_verdict(tmp_path):
    config = fake_config()
    tree = write_fake_results(tmp_path / "fake", config)
    for seed in config.seeds:
        path = results.run_file(tree, "all_labels", seed, "metrics.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"AP": 0.0}))
    by_id = {entry["id"]: entry for entry in claims.build_ledger(tree, config)["claims"]}
    entry = by_id["dual_student_over_teacher_student"]
    assert (entry["effect"], entry["interval"], entry["verdict"]) == (None, None, "undecided")
    assert by_id["maximum_over_average_pck"]["effect"] is not None  # its headroom is another


def test_every_notebook_says_the_ledgers_verdicts_of_its_claims(tree, config, ledger):
    topics = {topic: claims.verdict_lines(tree, config, topic)
              for topic in ("framework", "ensemble", "refinement", "selection")}
    assert sum(map(len, topics.values())) == (ledger.family == "primary").sum()
    assert [len(lines) for lines in topics.values()] == [1, 4, 2, 1]
    entry = ledger.loc["dual_student_over_teacher_student"]
    low, high = entry.interval
    assert topics["framework"] == [
        f"- **Dual-Student > Teacher-Student**: *{entry.verdict}* (3 seed(s) explore, the verdict is not the "
        f"evidence's); {entry.effect:+.1f} % of the headroom, interval [{low:.1f}, {high:.1f}] at Holm's level; an "
        f"effect within ±{entry.delta:.1f} % counts as absent."]
    single = replace(config, arms={name: config.arms[name] for name in ("teacher_student", "dual_student")})
    assert "points; no headroom is known" in claims.verdict_lines(tree, single, "framework")[0]
    assert claims.verdict_lines(tree, single, "selection") == []


def test_pairs_that_differ_in_threshold_and_refine_alone(config):
    assert tables.refine_pairs(config) == [
        ("teacher_student_refine", "teacher_student"),
        ("dual_student_refine", "dual_student"),
        ("dual_maximum_refine", "dual_maximum"),
    ]


def test_a_table_reads_as_people_write_it():
    frame = pd.DataFrame({"title": ["a|b", "c"], "AP_mean": [38.26, 1.0], "AP_std": [1.24, None],
                          "low": [0.94, None], "high": [13.4, None], "paper": [32.83, None], "edited": [True, False]})
    assert tables.to_markdown(frame).splitlines() == [
        "| title | AP | interval | paper | edited |",
        "| --- | --- | --- | --- | --- |",
        "| a\\|b | 38.3 ± 1.2 | [0.9, 13.4] | 32.83 | yes |",
        "| c | 1.0 | – | – | no |",
    ]


def test_the_ledgers_table_gives_the_seeds_needed_of_open_verdicts_alone(ledger):
    verdicts = [statistics.UNDECIDED, *[statistics.REPRODUCED, statistics.ABSENT] * len(ledger)][:len(ledger)]
    table = tables.claim_table(ledger.assign(verdict=verdicts, seeds_needed=88))
    assert table["seeds needed"].dropna().tolist() == [88]
    assert tables.readable(table)["seeds needed"].tolist() == ["88", *[tables.MISSING] * (len(ledger) - 1)]


def test_a_table_of_no_pairs_still_has_its_columns(tree, config):
    empty = tables.paired_table(results.load_scores(tree, config), [])
    assert len(empty) == 0
    assert "low" in empty.columns


def test_paired_differences_cancel_what_a_seed_does_to_all_arms(tree, config):
    scores = results.load_scores(tree, config)  # seeds differ by one point, paired noise is 0.2 an arm
    row = tables.paired_table(scores, [("full", "supervised")], paper=paper.TABLE_2).iloc[0]
    assert row.paper is None
    assert row.difference_std < 0.8 < scores[scores.arm == "full"].AP.std()
    assert row.difference_mean == pytest.approx(AP["full"] - AP["supervised"], abs=0.7)


def test_the_same_figure_has_the_same_bytes(tmp_path, tree, config):
    scores = results.load_scores(tree, config)
    pictures = [figures.save_figure(figures.draw_scores(scores, paper.TABLE_2), tmp_path / f"{i}.png")
                for i in range(2)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert b"Software" not in pictures[0].read_bytes()


def test_every_figure_of_runs_can_be_drawn(tmp_path, tree, config, ledger):
    dual = {name: arm.title for name, arm in config.arms.items() if arm.framework == "dual_student"}
    labels = results.load_pseudo_labels(tree, config, dual)
    examples = results.load_examples(tree, "full", 0)
    selection = label_analysis.selection_by_margin(labels, "maximum", [0.0, 0.1])
    drawn = [
        figures.draw_claims(ledger.reset_index()),
        figures.draw_ensembles(results.load_pseudo_quality(tree, config), dual, claims.READINGS, paper.TABLE_1),
        figures.draw_coverage(label_analysis.coverage_and_precision(labels, "none", [0.0, 0.3]), dual,
                              dict.fromkeys(dual, 0.3)),
        figures.draw_training(results.load_logs(tree, config, dual), dual, {"peak": "peak", "kept": "kept"}),
        figures.draw_selection(selection, 0.1),
        figures.draw_uncertainty(label_analysis.error_by_uncertainty(labels, "maximum"), dual),
        pictures.draw_heatmaps(examples["pseudo_images"], {"maximum": examples["maximum"]},
                              examples["true_pseudo_keypoint"]),
        pictures.draw_poses(examples["crops"], examples["true_keypoints"], examples["predicted_keypoints"],
                           examples["visibility"], ["" for _ in examples["oks"]], columns=4),
    ]
    for number, figure in enumerate(drawn):
        assert figures.save_figure(figure, tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


def test_an_arm_looks_the_same_in_every_figure_and_no_two_of_a_hundred_look_alike():
    titles = {f"arm_{number}": f"Arm {number}" for number in range(100)}
    all_arms, few = (pd.DataFrame({"arm": names}) for names in (list(titles), ["arm_41", "arm_3"]))
    looks = figures.arm_looks(all_arms, titles)
    assert figures.arm_looks(few, titles) == {name: looks[name] for name in ("arm_3", "arm_41")}
    drawn = [(look["color"], look["marker"]) for look in looks.values()]
    assert len(set(drawn)) == 100
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in pairwise(drawn))


@pytest.mark.parametrize("draw", [
    lambda curves, titles: figures.draw_coverage(curves, titles, dict.fromkeys(titles, 0.3)),
    lambda curves, titles: figures.draw_training(curves, titles, {"coverage": "kept"}),
], ids=["coverage", "training"])
def test_panels_keep_their_height_under_a_long_legend(draw):
    heights = []
    for count in (2, 31):
        titles = {f"arm_{number}": f"Arm {number}" for number in range(count)}
        curves = pd.DataFrame({"arm": list(titles), "mode": "none", "threshold": 0.3, "coverage": 50.0,
                               "precision": 50.0, "step": 1})
        figure = draw(curves, titles)
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


class PageReader(HTMLParser):
    """Collects tags with their attributes, and checks that what opens is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_self_contained_and_has_text_for_every_picture(tree, config, page_folder):
    page = reporting.render_report(config, tree, [page_folder])
    reader = PageReader()
    reader.feed(page)
    assert reader.open == []
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(pictures) == sum(len(section.figures) for section in reporting.SECTIONS)
    assert all(picture["alt"] and picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in reader.tags}
    assert not re.search(r"https?:|@import|url\(", page)
    assert "table_1 &amp; more" in page  # text is escaped


def test_what_has_nothing_to_show_is_left_out_of_the_page_and_named(tree, config, page_folder):
    for name in ("label_counts", "label_counts_paired", "ablations"):
        results.write_table(pd.DataFrame({"row": []}), page_folder / "tables" / f"{name}.csv")
    one_setting = pd.DataFrame({"claim": ["one", "another"], "value": [1.0, 2.0]})
    results.write_table(one_setting, page_folder / "tables" / "phases.csv")
    reader = PageReader()
    reader.feed(page := reporting.render_report(config, tree, [page_folder]))
    shown = {attributes.get("id") for tag, attributes in reader.tags if tag == "section"}
    assert {section.key for section in reporting.SECTIONS} - shown == {"label_counts", "phases"}
    assert "Nothing to show in this profile: What labels are worth; Where the claims hold" in page
    captions = {attributes.get("aria-label", "").removeprefix("Figure: ") for _, attributes in reader.tags}
    assert "Differences from the baseline" not in captions  # of the ablations, which have no row
    assert "Accuracy against compute" in captions


def test_a_hash_that_looks_like_a_number_stands_on_the_page_as_it_is(tree, config, page_folder):
    hashes = ["9761e763", "00001234", "12345678"]  # infinity, an integer with zeros, a large one
    results.write_table(pd.DataFrame({"data": hashes, "code": hashes}), page_folder / "tables" / "provenance.csv")
    page = reporting.render_report(config, tree, [page_folder])
    assert all(page.count(f"<td>{value}<") == 2 for value in hashes)  # and is not set flush right


def test_the_same_results_give_the_same_page(tree, config, page_folder):
    assert reporting.render_report(config, tree, [page_folder]) == reporting.render_report(config, tree, [page_folder])


def test_a_missing_figure_is_named_in_one_line(tree, config, page_folder):
    (page_folder / "figures" / "figure_1.png").unlink()
    with pytest.raises(results.ResultsError, match=r"the report needs figures/figure_1\.png") as error:
        reporting.render_report(config, tree, [page_folder])
    assert "\n" not in str(error.value)


def test_the_readme_block_is_replaced_between_its_markers_and_then_left_alone(tmp_path, tree, config):
    scores = results.load_scores(tree, config, paper.TABLE_2)
    quality = results.load_pseudo_quality(tree, config)
    results.write_table(tables.score_table(scores, paper.TABLE_2), tmp_path / "tables" / "table_2.csv")
    titles = {"dual_student": "Dual-Student", "full": "Whole"}
    readings = claims.READINGS | claims.OTHER_READINGS
    table_1 = tables.ensemble_table(quality[quality.arm.isin(titles)], titles, readings, paper.TABLE_1)
    results.write_table(table_1, tmp_path / "tables" / "table_1.csv")
    claims.write_ledger(claims.build_ledger(tree, config), tmp_path / "claims.json")
    readme = tmp_path / "README.md"
    begin, end = markers("results", config.profile)
    readme.write_text(f"# Title\n\n{begin}\nbefore this\n{end}\n\nlast\n")
    assert update_readme(readme, tmp_path, config)
    text = readme.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith(f"{end}\n\nlast\n")
    assert "before this" not in text
    assert "| Dual-Student | 42.67 |" in text
    assert "T&R helps Dual-Student" in text
    assert not update_readme(readme, tmp_path, config)
    refined = [line for line in text.splitlines() if claims.OTHER_READINGS["pck_refined"] in line]
    assert [line.split(" | ")[0] for line in refined] == ["| Dual-Student"]  # the arm that the ledger reads


def test_an_open_verdict_in_the_readme_says_how_many_seeds_would_close_it():
    rows = [("A > B", "undecided", 12.0), ("C > B", "undecided", None), ("D > B", "contradicted: absent", 4)]
    ledger = pd.DataFrame([
        {"title": title, "family": "primary", "source": "s", "paper": None, "difference": 1.0, "difference_std": 1.0,
         "effect": 1.0, "interval": [0.0, 2.0], "verdict": verdict, "seeds_needed": seeds, "measure": "AP",
         "delta": None, "id": title, "two_way": None}
        for title, verdict, seeds in rows
    ])
    verdicts = list(claim_rows(ledger).verdict)
    assert verdicts == ["undecided; 12 seeds would find an effect of delta", "undecided", "contradicted: absent"]
    unknown = ledger[ledger.seeds_needed.isna()].astype({"seeds_needed": object}).assign(seeds_needed=None)
    assert list(claim_rows(unknown).verdict) == ["undecided"]  # one seed: no spread, no number


def test_checks_that_fail_are_named_and_those_of_the_primary_family_are_not_counted():
    rows = [("A > B", "check", statistics.REPRODUCED), ("C > B", "check", statistics.UNDECIDED),
            ("D > B", "primary", statistics.REVERSED)]
    ledger = pd.DataFrame(rows, columns=["title", "family", "verdict"])
    assert reporting.checks_sentence(ledger).startswith("1 of 2 hold; not: C > B (undecided). A claim that rests")
    assert reporting.checks_sentence(ledger[ledger.title != "C > B"]) == "1 of 1 hold."
    assert reporting.checks_sentence(ledger[ledger.family == "primary"]).startswith("none, for their arms")


def test_reproduced_claims_that_say_less_than_the_word_are_named():
    rows = [("sound_over_weak", "primary", "AP", statistics.SMALLER), ("weak_over_sound", "primary", "AP", "undecided"),
            ("sound_over_other", "primary", "AP", statistics.REPRODUCED),
            (reporting.FAVOURED, "primary", "pck_above_threshold", statistics.REPRODUCED),
            ("weak_over_supervised", "check", "AP", statistics.REVERSED),
            ("sound_over_supervised", "check", "AP", statistics.REPRODUCED)]
    ledger = pd.DataFrame(rows, columns=["id", "family", "measure", "verdict"]).assign(title=lambda rows: rows.id)
    assert reporting.caveat_sentence(ledger) == (
        f"Of the reproduced claims, “{reporting.FAVOURED}” counts in favour of the maximum by construction; "
        "“sound_over_weak” rests on an arm of which a check does not hold.")
    assert reporting.caveat_sentence(ledger[2:3]) == ""


def test_verdicts_that_the_interval_over_photos_would_not_give_are_named():
    rows = [("A > B", statistics.ABSENT, [-6.0, 3.0], 5.0), ("C > D", statistics.REPRODUCED, [-0.1, 9.0], None),
            ("E > F", statistics.REVERSED, [-6.0, -1.0], 5.0), ("G > H", statistics.UNDECIDED, None, 5.0),
            ("I > J", statistics.REPRODUCED, [1.0, 4.0], 5.0)]
    ledger = pd.DataFrame(rows, columns=["title", "verdict", "two_way", "delta"])
    assert reporting.photos_sentence(ledger) == (
        "By the second interval, which draws photos too, “A > B”, “C > D” would be undecided; "
        "“I > J” would be reproduced (smaller).")
    assert reporting.photos_sentence(ledger[2:4]) == ""


def test_the_favoured_claim_is_one_of_the_ledgers(ledger):
    assert reporting.FAVOURED in ledger.index


def test_the_headroom_that_would_change_a_verdict_is_the_least_of_the_claims_on_ap():
    rows = [("AP", [-4.0, 6.0], 5.0), ("AP", [-1.0, 4.0], 5.0), ("AP", [2.0, 15.0], 5.0), ("pck", [-1.0, 5.1], 5.0)]
    ledger = pd.DataFrame(rows, columns=["measure", "interval", "delta"]).assign(family="primary", title=[*"ABCD"])
    assert "when it is 1.20 times as wide, is that of “A”" in reporting.headroom_sentence(ledger)
    assert "when it is 3.00 times as wide, is that of “C”" in reporting.headroom_sentence(ledger[1:])
    assert reporting.headroom_sentence(ledger[1:2]).startswith("No verdict on AP would change")
    assert reporting.headroom_sentence(ledger[3:]) == ""


def test_a_readme_shows_the_claims_alone_where_it_asks_and_no_profile_unasked(tmp_path, tree, config):
    claims.write_ledger(claims.build_ledger(tree, config), tmp_path / "claims.json")
    readme = tmp_path / "README.md"
    readme.write_text("{}\n{}\n".format(*markers("claims", config.profile)))
    assert update_readme(readme, tmp_path, config)
    text = readme.read_text()
    assert f"Profile `{config.profile}`, {len(config.seeds)} seeds" in text
    assert "T&R helps Dual-Student" in text
    assert "| Dual-Student | 42.67 |" not in text
    assert not update_readme(readme, tmp_path, replace(config, profile="another"))
    assert readme.read_text() == text


@pytest.mark.parametrize("order", [("begin",), ("end",), ("end", "begin"), ("begin", "end", "end")])
def test_a_readme_whose_markers_do_not_enclose_a_block_is_refused(tmp_path, config, order):
    lines = dict(zip(("begin", "end"), markers("results", config.profile), strict=True))
    (tmp_path / "README.md").write_text("\n".join(lines[name] for name in order))
    with pytest.raises(results.ResultsError, match=f"must hold <!-- results of {config.profile}:begin -->"):
        update_readme(tmp_path / "README.md", tmp_path, config)


def test_the_fake_labels_have_the_columns_of_the_format():
    labels = fake_pseudo_labels("dual_student", 2, np.random.default_rng(0))
    stored = store_pseudo_labels(labels)
    assert list(results.LABEL_COLUMNS[:-2]) == ["network", "image_id", "person", "joint", "uncertainty", *(
        f"{value}_{mode}" for mode in results.MODES for value in ("error", "confidence"))]
    assert set(results.LABEL_COLUMNS[:-2]) == set(stored)
    assert stored.error_none.dtype == np.uint16
    assert stored.uncertainty.dtype == np.float16

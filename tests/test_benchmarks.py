"""Benchmarks: what a grown ratio is, and that the document shows what the results say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch

import benchmarks.__main__ as main
from benchmarks import evaluation, growth, input_path, options, pipeline, targets, throughput
from benchmarks.document import DOCUMENT, markdown, refresh
from benchmarks.results import FOLDER, load, significant, store, unmeasured, worsened
from benchmarks.roofline import count
from benchmarks.step import FRAMEWORK_CASES, measure, on_a_cpu
from ssl_pose.profiles import open_profile
from ssl_pose.provenance import describe_hardware

RESULT = {"rows": [{"work": "step", "ms": 12.5}], "hardware": {"gpu": None, "cpu": "a CPU", "threads": 1},
          "versions": {"torch": "2.6"}, "code_sha": "abc"}


def test_a_ratio_has_worsened_when_it_grew_by_more_than_the_tolerance():
    kept = {"same": 1.0, "a little": 1.0, "much": 1.0, "better": 1.0, "gone": 1.0}
    fresh = {"same": 1.0, "a little": 1.24, "much": 1.3, "better": 0.5, "new": 9.0}
    assert worsened("step", fresh, kept, 0.25) == ["step: much is 1.3, was 1"]
    assert unmeasured("step", fresh, kept) == ["step: gone was 1 and is not measured here"]


def test_numbers_keep_three_digits_and_tables_have_a_cell_for_what_is_missing():
    assert significant(0.123456) == 0.123
    assert significant("text") == "text"
    table = markdown(pd.DataFrame([{"a": 1, "b": 2.5}, {"a": 2}])).splitlines()
    assert table == ["| a | b |", "| --- | --- |", "| 1 | 2.5 |", "| 2 |  |"]


def test_a_table_lies_between_its_marks_and_the_prose_around_it_stays(tmp_path: Path):
    (tmp_path / "step.json").write_text(json.dumps(RESULT))
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- step -->\nold\n<!-- /step -->\nafter\n")
    for _ in range(2):
        refresh(document, tmp_path)
        text = document.read_text()
        assert text.startswith("before\n<!-- step -->\nMeasured on a CPU, 1 thread, torch 2.6, code abc.")
        assert text.endswith("| step | 12.5 |\n<!-- /step -->\nafter\n")
        assert "old" not in text


def test_the_first_table_of_a_gpu_goes_below_that_of_the_cpu(tmp_path: Path):
    (tmp_path / "step.json").write_text(json.dumps(RESULT))
    (tmp_path / "step_gpu.json").write_text(json.dumps(RESULT))
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- step -->\n<!-- /step -->\nafter\n")
    for _ in range(2):
        refresh(document, tmp_path)
        assert re.findall("<!-- .* -->|after", document.read_text()) == [
            "<!-- step -->", "<!-- /step -->", "<!-- step_gpu -->", "<!-- /step_gpu -->", "after"]
        assert document.read_text().count("| step | 12.5 |") == 2


def test_every_result_has_its_place_in_the_document_and_the_document_is_up_to_date(tmp_path: Path):
    names = {path.stem for path in FOLDER.glob("*.json")}
    assert names == set(re.findall(r"<!-- (\w+) -->", DOCUMENT.read_text()))
    copy = tmp_path / "performance.md"
    copy.write_text(DOCUMENT.read_text())
    refresh(copy)
    assert copy.read_text() == DOCUMENT.read_text()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_it_came_about(path: Path):
    result = json.loads(path.read_text())
    assert {"git_sha", "code_sha", "versions", "hardware", "rows", "ratios"} <= result.keys()
    assert result["rows"]


def test_hardware_names_the_instructions_of_its_processor():
    """Two processors of one name differed by AVX-512, and with it by an order of magnitude in bf16."""
    assert describe_hardware()["cpu"].endswith(f" ({torch.backends.cpu.get_cpu_capability()})")


def test_bytes_are_those_that_operations_read_and_write_and_views_and_empty_tensors_are_none():
    values = torch.zeros(10, 3)

    def work() -> None:
        flat = (values + 1).view(30)  # reads and writes 120 bytes
        torch.empty(1000)
        flat.relu_()  # so does this, in place

    assert count(work) == (2, 4 * 120)


def test_a_backward_pass_moves_bytes_too():
    weights = torch.ones(10, requires_grad=True)
    loss = (2 * weights).sum()
    assert count(lambda: loss.backward())[1] >= 2 * 40  # at least the product's gradient, read and written


def test_the_pipeline_is_summed_by_kind_of_stage_and_compared_with_its_training():
    durations = {"data": 12.0, "burn_in@0": 20.0, "train@a-0": 60.0, "train@b-0": 40.0, "report": 18.0}
    rows, ratios = pipeline.summarise(durations, 90.0)
    assert ratios == {"all stages over training": 150 / 120, "wall clock over training": 90 / 120}
    minutes = {row["stage"]: (row["runs"], row["minutes"]) for row in rows}
    assert minutes["train"] == (2, pytest.approx(100 / 60))
    assert minutes["wall clock"] == (5, 1.5)
    assert pipeline.summarise(durations, None)[1] == {"all stages over training": 150 / 120}


def test_the_wall_clock_counts_only_for_a_run_of_all_cells(tmp_path: Path):
    path = tmp_path / "last_run.json"
    assert pipeline.read_wall_seconds(path, num_cells=2) is None
    path.write_text(json.dumps({"wall_seconds": 90.0, "stage_seconds": {"train@a-0": 60.0, "train@b-0": 40.0}}))
    assert pipeline.read_wall_seconds(path, num_cells=2) == 90.0
    assert pipeline.read_wall_seconds(path, num_cells=3) is None


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of that of the committed results."""
    monkeypatch.setattr(main, "FOLDER", tmp_path)
    monkeypatch.setattr(main, "load", lambda name, folder=tmp_path: load(name, folder))
    return tmp_path


@pytest.mark.parametrize(("measured", "status"), [([2.0, 1.1], 0), ([1.0], 0), ([2.0, 1.9, 1.8], 1)])
def test_what_has_grown_is_measured_again_and_the_least_counts(measured, status, kept, monkeypatch, capsys):
    left = list(measured)
    monkeypatch.setattr(main, "BENCHMARKS", {"fake": lambda device: ([{"work": "fake"}], {"ratio": left.pop(0)})})
    store("fake", [{"work": "fake"}], {"ratio": 1.0, "renamed": 2.0}, kept)
    assert main.check(["fake"]) == status
    assert left == []
    said = capsys.readouterr().err
    assert ("error: fake: ratio is 1.8, was 1" in said) == bool(status)
    assert said.startswith("warning: fake: renamed was 2 and is not measured here\n")


def test_what_was_never_measured_on_a_device_is_said_and_cannot_have_grown(kept, monkeypatch, capsys):
    monkeypatch.setattr(main, "BENCHMARKS", {"fake": lambda device: pytest.fail("measured")})
    assert main.check(["fake"]) == 0
    assert "warning: fake was never measured on such a device" in capsys.readouterr().err


def test_what_this_code_has_measured_is_not_missing(kept, monkeypatch):
    assert not main.is_measured("step")
    store(main.result_name("step"), [{"work": "step"}], {}, kept)
    assert main.is_measured("step")
    monkeypatch.setattr(main, "measured_code", lambda: "of other code")
    assert not main.is_measured("step")


def test_without_a_whole_run_the_pipeline_is_not_measured_and_what_git_holds_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "WORK", tmp_path / "work")
    main.measure(["pipeline"], tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert "run `make repro` first" in capsys.readouterr().out
    assert main.check(["pipeline"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "kept results are of" not in line]
    assert said == [f"warning: {line}" for line in unmeasured("pipeline", {}, load("pipeline")["ratios"])]
    assert said


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_check_on_another_processor_says_so_and_compares_no_precisions(elsewhere, kept, monkeypatch, capsys):
    fresh = {"cpu: the step as it is over in fp32": 9.0, "cpu: the step as it is over optimiser not fused": 1.0}
    monkeypatch.setattr(main, "BENCHMARKS", {"fake": lambda device: ([{"work": "fake"}], fresh)})
    store("fake", [{"work": "fake"}], dict.fromkeys(fresh, 1.0), kept)
    here = describe_hardware()
    monkeypatch.setattr(main, "describe_hardware", lambda: here | ({"cpu": "another"} if elsewhere else {}))
    assert main.check(["fake"]) == (0 if elsewhere else 1)
    said = capsys.readouterr().err
    assert said.count("hangs on instructions") == said.count("kept results are of") == elsewhere
    assert ("error: fake: cpu: the step as it is over in fp32 is 9, was 1" in said) != elsewhere


def test_the_kept_ratios_that_compare_precisions_are_those_of_the_options():
    found = {(path.stem, key) for path in FOLDER.glob("*.json") for key in load(path.stem)["ratios"]
             if main.compares_precisions(key)}
    assert {name for name, _ in found} == {"options"}
    assert {key.rpartition(" ")[2] for _, key in found} == {"bf16", "fp32"}


def test_what_was_measured_before_a_benchmark_failed_stands_in_the_document(kept, monkeypatch):
    def fail(device: torch.device) -> None:
        raise RuntimeError("no memory")

    refreshed = []
    monkeypatch.setattr(main, "BENCHMARKS", {"fake": lambda device: ([{"work": "fake"}], {}), "failing": fail})
    monkeypatch.setattr(main, "refresh", lambda: refreshed.extend(path.stem for path in kept.glob("*.json")))
    monkeypatch.setattr("sys.argv", ["benchmarks", "run", "fake", "failing"])
    with pytest.raises(RuntimeError, match="no memory"):
        main.main()
    assert refreshed == [main.result_name("fake")]


def test_on_a_lent_gpu_what_fails_keeps_nothing_else_from_its_turn(tmp_path: Path):
    """`make gpu` by a python that notes what it is asked for, and whose tests fail."""
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\ncase "$*" in *pytest*) exit 1;; esac\n')
    python.chmod(0o755)
    done = subprocess.run(["make", "gpu", f"PYTHON={python}", "JOBS=3", "DATA=photos"], cwd=FOLDER.parent.parent,
                          capture_output=True, text=True)
    assert done.returncode != 0
    assert asked.read_text().splitlines() == [
        "-m pytest -q tests/test_cuda.py", "-m benchmarks run --missing",
        "-m ssl_pose cells --profile gpu --jobs 3 --data photos"]


def test_a_large_network_on_a_cpu_takes_small_batches_and_the_step_is_measured_against_its_passes():
    config = open_profile("coco_partial_1k").config
    assert on_a_cpu(config).training.labeled_batch == 2
    small = open_profile("smoke").config
    assert on_a_cpu(small) == small
    rows = measure(small, torch.device("cpu"), num_views=(1,), rounds=1)
    assert [row["step"] for row in rows] == list(FRAMEWORK_CASES)
    assert [row["ratio"] for row in rows] == pytest.approx([row["whole ms"] / row["passes ms"] for row in rows])
    assert all(row["whole operations"] > row["passes operations"] > 0 for row in rows)
    assert all(row["whole GB"] > row["passes GB"] > 0 for row in rows)


@pytest.mark.parametrize("benchmark", [input_path, options, targets, throughput], ids=lambda module: module.__name__)
def test_a_benchmark_yields_rows_with_positive_times_and_ratios(benchmark, monkeypatch):
    smoke = open_profile("smoke")
    monkeypatch.setattr(benchmark, "open_profile", lambda name: smoke)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setattr(benchmark, "PROFILES", ("default",), raising=False)
    monkeypatch.setattr(benchmark, "BATCHES_A_WORKER", 1, raising=False)
    if benchmark is throughput:  # compiling takes half a minute
        monkeypatch.setattr(throughput, "compiled_passes", lambda config, device: (lambda: None, 0.0))
    if benchmark is targets:
        monkeypatch.setattr(targets, "compiled_targets", lambda work: work)
    rows, ratios = benchmark.run(torch.device("cpu"))
    assert all(row["ms"] > 0 for row in rows if row.get("ms") is not None)
    assert ratios
    assert all(0 < ratio < float("inf") for ratio in ratios.values())


def test_the_parts_of_the_targets_are_named_beside_the_whole(monkeypatch):
    monkeypatch.setattr(targets, "open_profile", lambda name: open_profile("smoke"))
    monkeypatch.setattr(targets, "compiled_targets", lambda work: work)
    monkeypatch.setattr(targets, "ROUNDS", 1)
    rows = {row["work"]: row for row in targets.run(torch.device("cpu"))[0]}
    assert all(rows[work]["GB/s"] > 0 for work in (targets.WHOLE, "targets, compiled"))
    assert sum(name.startswith("of these, ") and row["GB/s"] is None for name, row in rows.items()) == 6
    parts = [row for name, row in rows.items() if name.startswith("of these, ")]
    for counted in ("operations", "GB that they move"):  # the whole has a few more, between its parts
        assert 0.9 * rows[targets.WHOLE][counted] < sum(row[counted] for row in parts) <= rows[targets.WHOLE][counted]


def test_a_batch_is_counted_as_a_gpu_renders_it_whatever_fits_a_cache(monkeypatch):
    config = open_profile("smoke").config
    batch = input_path.our_batch(config, input_path.BATCH, torch.device("cpu"))
    parts = input_path.our_parts(config, torch.device("cpu"))
    expected = input_path.count_at_once(batch)
    monkeypatch.setattr(input_path.augment, "CACHED_FLOATS", 1)
    assert input_path.count_at_once(batch) == expected < count(batch)
    found = {name.removeprefix("ours, "): input_path.count_at_once(part)[0] for name, part in parts.items()}
    made_of = found["random numbers of the views"] + found["rendering"] + found["heatmaps"]
    assert 0.8 * expected[0] < made_of <= expected[0]  # the rest is the draw of the rows and the joints' weights
    rows = input_path.with_counts([{"path": "a", "ms": 1.0}, {"path": "b", "ms": 2.0}], {"a": (3, 4e9), "c": (5, 6e9)})
    assert rows == [{"path": "a", "ms": 1.0, "operations": 3, "GB that they move": 4.0}, {"path": "b", "ms": 2.0},
                    {"path": "c", "operations": 5, "GB that they move": 6.0}]


def test_bytes_to_move_are_five_and_one_maps_of_two_students():
    config = open_profile("smoke").config  # 64x48 px, a cell every 2 px
    assert targets.bytes_to_move(config, 3) == 2 * (5 + 1) * 3 * 17 * 32 * 24 * 4


def test_growth_has_a_row_a_count_and_one_a_size_of_packing(monkeypatch):
    monkeypatch.setattr(growth, "COUNTS", (10, 50_000))
    monkeypatch.setattr(growth, "NUM_PHOTOS", (1, 2))
    monkeypatch.setattr(growth, "TURNS", 1)
    rows, ratios = growth.run(torch.device("cpu"))
    assert [row["persons"] for row in rows] == [10, 50_000, 3, 6]
    assert all(row["step ms"] > row["at hand ms"] > 0 for row in rows[:2])
    assert all(row["persons/s"] > 0 for row in rows[2:])
    assert "packing a person of 2 times as many" in ratios
    assert 0.2 < ratios["resident KB a person"] < 1  # 442 bytes of numbers


def test_evaluation_is_compared_with_pycocotools(monkeypatch):
    monkeypatch.setattr(evaluation, "NUM_PERSONS", 130)
    rows, ratios = evaluation.run(torch.device("cpu"))
    assert [row["work"] for row in rows] == ["decoding", "scoring", "pycocotools"]
    assert ratios["decoding and scoring over pycocotools"] > 0

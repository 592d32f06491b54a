"""Benchmarks: what a grown ratio is, and that the document shows what the results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.document import DOCUMENT, markdown, refresh
from benchmarks.results import FOLDER, significant, worsened

RESULT = {"rows": [{"work": "step", "ms": 12.5}], "hardware": {"gpu": None, "cpu": "a CPU", "threads": 1},
          "versions": {"torch": "2.6"}, "code_sha": "abc"}


def test_a_ratio_has_worsened_when_it_grew_by_more_than_the_tolerance():
    kept = {"same": 1.0, "a little": 1.0, "much": 1.0, "better": 1.0, "gone": 1.0}
    fresh = {"same": 1.0, "a little": 1.24, "much": 1.3, "better": 0.5, "new": 9.0}
    assert worsened("step", fresh, kept, 0.25) == ["step: much is 1.3, was 1"]


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

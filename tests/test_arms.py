"""A new arm is a few lines in params.yaml, written for the user with every comment kept, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_pose.arms import add_arm
from ssl_pose.config import ConfigError, load_config

SMOKE = (Path(__file__).resolve().parent.parent / "profiles" / "smoke" / "params.yaml").read_text()


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMOKE)
    return tmp_path / "params.yaml"


def test_a_new_arm_adds_its_lines_and_touches_no_other(params: Path):
    add_arm(params, "strict", "dual_student_refine", {"confidence_threshold": "0.6"})
    lines = """\
  strict:
    title: Dual-Student + T&R, confidence threshold 0.6
    group: Table 2
    baseline: dual_student_refine
    target: threshold_and_refine
    confidence_threshold: 0.6
"""
    grid_end, arms_end = "  - all_labels\n", "    framework: supervised\n    labels: all\n"
    assert SMOKE.count(grid_end) == SMOKE.count(arms_end) == 1
    expected = SMOKE.replace(grid_end, f"{grid_end}  - strict\n").replace(arms_end, arms_end + lines)
    assert params.read_text() == expected
    arm = load_config(params).arm("strict")
    assert (arm.confidence_threshold, arm.target, arm.group) == (0.6, "threshold_and_refine", "Table 2")


@pytest.mark.parametrize(("name", "base", "options", "message"), [
    ("full", "dual_student", {}, "arm 'full' is in the grid already"),
    ("a/b", "dual_student", {}, "must be of letters, digits and _"),
    ("new", "best", {}, "unknown arm 'best'; the grid of params.yaml has: supervised"),
    ("new", "dual_student", {"tau": "0.3"}, "unknown key arms.new.tau; allowed: framework"),
    ("new", "dual_student", {"confidence_threshold": "3"}, r"must be in \[0.0, 1.0\], got 3"),
    ("new", "dual_student", {"confidence_threshold": "[1"}, "confidence_threshold is no valid YAML"),
])
def test_a_wrong_arm_is_refused_in_one_line_and_nothing_is_written(params, name, base, options, message):
    with pytest.raises(ConfigError, match=message):
        add_arm(params, name, base, options)
    assert params.read_text() == SMOKE

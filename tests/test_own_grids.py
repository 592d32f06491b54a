"""A grid of one's own, without arms that a notebook is about: it shows what there is and says what is missing."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
import yaml

from ssl_pose.config import load_config
from tests.fake_results import write_fake_results

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ("60_teacher_or_dual", "62_average_or_maximum", "64_threshold_and_refine", "66_selection", "74_ablations",
             "76_label_counts")
GRIDS = {
    "supervised alone": ["supervised"],
    "no dual student": ["teacher_student"],
    "no teacher-student": ["supervised", "dual_student", "all_labels"],
}
SAID = {
    "supervised alone": ("No arm of the grid belongs to Table 2: all arms are shown",
                         "The grid has no dual_student, whose networks Table 1 is read on: supervised stands in",
                         "No arm of the grid learns from pseudo-heatmaps: tables and figures stay empty",
                         "No arm of the grid has two students that teach each other: tables and figures stay empty"),
    "no dual student": ("The grid has no dual_student, whose networks Table 1 is read on: teacher_student stands in",
                        "No arm of the grid has two students that teach each other"),
    "no teacher-student": (),
}


def run_cells(name: str, parameters: dict) -> None:
    """Runs a notebook's code cells here, which is quicker than a kernel, with `parameters` after their cell."""
    space: dict = {}
    for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
            if "parameters" in cell["metadata"].get("tags", []):
                space |= parameters


@pytest.mark.parametrize("title", GRIDS)
def test_notebooks_show_what_a_grid_of_ones_own_has(tmp_path: Path, capsys, title: str):
    matplotlib.use("Agg")
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"profile": "fake", "grid": GRIDS[title]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    config = replace(load_config(tmp_path / "params.yaml"), seeds=(0, 1))
    write_fake_results(tmp_path / "results" / "fake", config)
    parameters = {"params_file": str(tmp_path / "params.yaml"), "workspace": str(tmp_path / "out"),
                  "overrides": {"seeds": [0, 1]}}
    for name in NOTEBOOKS:
        run_cells(name, parameters)
    said = capsys.readouterr().out
    assert all(line in said for line in SAID[title])
    assert ("stay empty" in said) == bool(SAID[title])
    made = {path.name for path in (tmp_path / "out").rglob("*.*")}
    assert {"table_2.csv", "table_1.csv", "threshold_effect.csv", "selection.csv", "selection.png", "figure_1.png",
            "coverage.png", "peaks.png", "uncertainty.csv", "ablations.csv"} <= made

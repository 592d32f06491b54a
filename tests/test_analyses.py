"""The analysis notebooks on grids that are not the default one: without its arms, or with a frozen teacher."""

import json
from pathlib import Path

import pytest
import yaml
from fake_results import REPOSITORY, write_fake_results
from matplotlib.figure import Figure

from ssl_pose.config import load_config
from ssl_pose.figures import save_figure
from ssl_pose.profiles import open_profile

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[679]*.ipynb"))


@pytest.fixture(scope="module")
def without_bounds(tmp_path_factory) -> Path:
    """The folder of a grid that has neither `supervised` nor `all_labels` nor an arm of Table 2."""
    raw = yaml.safe_load((open_profile("phases").folder / "params.yaml").read_text())
    raw["grid"] = [name for name in raw["grid"] if name not in ("supervised", "all_labels")]
    raw["predictions"] = {cell: chance for cell, chance in raw["predictions"].items() if "horizon" in cell}
    return write_profile(tmp_path_factory.mktemp("without_bounds"), raw)


@pytest.fixture(scope="module")
def with_frozen(tmp_path_factory) -> Path:
    """The folder of the default grid with a frozen teacher in Table 2."""
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    beside = {"group": "Table 2", "baseline": "teacher_student", "label_source": "frozen", "title": "Frozen teacher"}
    raw["arms"]["frozen"] = raw["arms"]["teacher_student"] | beside
    raw["grid"].append("frozen")
    return write_profile(tmp_path_factory.mktemp("with_frozen"), raw)


def write_profile(folder: Path, raw: dict) -> Path:
    """A params.yaml of two seeds, and the results of all its runs."""
    (folder / "params.yaml").write_text(yaml.safe_dump(raw | {"seeds": [0, 1]}))
    config = load_config(folder / "params.yaml")
    results = write_fake_results(folder / "results" / config.profile, config)
    for arm, method in config.arms.items():
        for seed in config.seeds:
            lower_other_network(results / "runs" / arm / f"seed-{seed}" / "metrics.json", method.reported_networks)
    for name in ("data_samples", "data_statistics"):
        save_figure(Figure(), results / "figures" / f"{name}.png")
    return folder


def lower_other_network(path: Path, reported: tuple[int, ...]) -> None:
    """Takes a point from the network of one student and its teacher that a run does not report."""
    record = json.loads(path.read_text())
    for number in {0, 1} - set(reported):
        if str(number) in record["networks"]:
            record["networks"][str(number)]["AP"] -= 1
    path.write_text(json.dumps(record))


def run_cells(notebook: Path, folder: Path) -> dict:
    """The names that a notebook leaves, run on a profile's results."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    space = {}
    for cell in cells:
        exec("".join(cell["source"]), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            space |= {"params_file": str(folder / "params.yaml"), "workspace": str(folder)}
    return space


def test_every_analysis_goes_through_a_grid_without_bounds(without_bounds):
    for notebook in NOTEBOOKS:
        run_cells(notebook, without_bounds)
    page = (without_bounds / "results/phases/report.html").read_text()
    assert "none (their arms are not in the grid)" in page
    assert "Nothing to show in this profile: What the runs say" in page


def test_a_frozen_teacher_counts_with_its_student(with_frozen):
    found = run_cells(next(path for path in NOTEBOOKS if path.stem.startswith("60")), with_frozen)
    networks = found["first"].groupby("arm").network.first()
    assert networks["frozen"] == 0
    assert networks["teacher_student"] == 1

"""Imports point one way, the reports need no training library, and no function grows long."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ssl_pose.projection import imported_modules

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssl_pose"
MODULES = sorted(PACKAGE.glob("*.py"))
LONGEST_FUNCTION = 50  # lines


# Data flows one way: a module imports only modules above it.
ORDER = """
files projection lifeline config seeding skeleton geometry heatmap metrics
draws render body clothing backdrop scene synthetic
coco fingerprints persons photos crops packing splits
augment strong_paths backbones precision model read_ahead batches pseudo_label losses frameworks
provenance schedules distributed launching
collapse loop training costs
predictions scoring population peaks pseudo_quality evaluation judging pseudo_export suppression inference published
challenge download
results paper statistics matching resampling label_analysis readings mistakes ablations
label_counts phases
claims regime tables figures pictures reporting readme overlays own_photos
own_data workspace made preparation exploring profiles arms logbook exporting scheduling
notebook notebook_rules pipeline
cells sweep planning __main__
"""
WITHOUT_TORCH = """
config skeleton metrics coco fingerprints persons photos crops packing splits
results paper statistics matching resampling label_analysis readings mistakes ablations
label_counts phases
collapse claims regime tables figures pictures reporting readme overlays download
workspace profiles projection notebook scheduling pipeline
"""


def test_imports_point_one_way():
    order = ORDER.split()
    assert sorted(order) == sorted(path.stem for path in MODULES if path.stem != "__init__")
    for place, module in enumerate(order):
        imported = imported_modules((PACKAGE / f"{module}.py").read_text(), PACKAGE) - {"ssl_pose"}
        below = imported - {f"ssl_pose.{name}" for name in order[:place]}
        assert not below, f"{module} imports {', '.join(sorted(below))}, which stands below it"


def test_what_reads_results_and_runs_the_pipeline_needs_no_torch():
    names = ", ".join(f"ssl_pose.{module}" for module in WITHOUT_TORCH.split())
    run = subprocess.run([sys.executable, "-c", f"import sys, {names}; print('torch' in sys.modules)"], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_are_documented_import_absolutely_and_keep_functions_short(path: Path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the projection follows absolute imports"
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_conda_users_get_the_dependencies_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == project["name"]
    python, pip, from_pip = environment["dependencies"]
    assert python == f"python{project['requires-python']}"
    assert (pip, from_pip) == ("pip", {"pip": ["-e .[dev]"]})


def test_the_lock_pins_every_dependency_with_hashes_and_names_no_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text()
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    for name in (re.match(r"[\w.-]+", line).group().replace(".", "-") for line in wanted):
        assert re.search(rf"^{name}==\S+.*\\\n +--hash=sha256:", lock, re.MULTILINE), name
    assert "://" not in lock


def test_the_ci_script_is_executable_and_calls_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text()

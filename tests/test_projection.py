"""A stage depends on the code that its notebook reaches, on nothing more and nothing less."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from ssl_pose.config import Config
from ssl_pose.projection import (
    code_cells,
    imported_modules,
    project,
    reached_modules,
    stage_notebooks,
    strip,
    write_projections,
)

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssl_pose"
NOTEBOOKS = stage_notebooks(ROOT / "notebooks")
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# A module may read sections that this notebook's path through it does not touch, or only to refuse a seed.
NOT_ON_THE_PATH = {"10_data": {"seeds"}, "12_data_figures": {"arms", "seeds"}, "30_burn_in": {"method", "seeds"},
                   "40_train": {"seeds"}}

SOURCE = '''"""A module."""
import math  # the standard library


class Circle(ValueError): """A one-line class."""


def area(radius):
    """Of a circle."""

    # pi r^2
    mark = "# this is text"
    return math.pi * radius**2, mark
'''

# Runs the imports of each notebook, then those inside the functions of whatever was loaded, and prints sys.modules.
# Each notebook has a process of its own, forked after the foreign libraries are in.
REALLY_IMPORTED = '''
import ast, json, os, sys
from pathlib import Path
import matplotlib.figure, pandas, pycocotools.cocoeval, seaborn, torch

def run_imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "ssl_pose" in ast.unparse(node):
            exec(ast.unparse(node), {})

def loaded():
    return {name for name in sys.modules if name.split(".")[0] == "ssl_pose"}

for notebook, source in json.load(sys.stdin).items():
    if os.fork():
        os.wait()
        continue
    run_imports(source)
    seen = set()
    while new := loaded() - seen:
        seen |= new
        for name in new:
            run_imports(Path(sys.modules[name].__file__).read_text())
    print(notebook, *sorted(seen), flush=True)
    os._exit(0)
'''


def stage_of(notebook: str) -> dict:
    return next(stage for stage in STAGES.values() if f" notebook {notebook} " in stage["cmd"])


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    """A package of three modules, of which `first` reaches `second` inside a function, and a notebook."""
    (tmp_path / "ssl_pose").mkdir()
    (tmp_path / "notebooks").mkdir()
    modules = {"__init__": "", "first": "def run():\n    from ssl_pose import second\n    return second.VALUE\n",
               "second": "VALUE = 1  # of the second\n", "third": "VALUE = 3\n"}
    for name, text in modules.items():
        (tmp_path / "ssl_pose" / f"{name}.py").write_text(text)
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["prose"]},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["seed: int = 0  # which run"]},
        {"cell_type": "code", "metadata": {}, "source": ["from ssl_pose.first import run\n", "run()"], "outputs": [1]},
    ]
    (tmp_path / "notebooks" / "10_one.ipynb").write_text(json.dumps({"cells": cells}))
    return tmp_path


def projected(folder: Path) -> str:
    return project(folder / "notebooks" / "10_one.ipynb", folder / "ssl_pose")


def test_comments_docstrings_and_blank_lines_are_left_out_and_text_stays():
    assert strip(SOURCE).splitlines() == [
        "import math", "class Circle(ValueError):", "def area(radius):", '    mark = "# this is text"',
        "    return math.pi * radius**2, mark",
    ]


def test_a_projection_holds_cells_with_their_tags_and_every_module_that_is_reached(project_folder: Path):
    assert projected(project_folder).splitlines() == [
        "# cell 0 parameters", "seed: int = 0", "", "# cell 1", "from ssl_pose.first import run", "run()", "",
        "# module ssl_pose", "", "", "# module ssl_pose.first", "def run():", "    from ssl_pose import second",
        "    return second.VALUE", "", "# module ssl_pose.second", "VALUE = 1",
    ]


def test_prose_comments_outputs_and_foreign_modules_change_no_projection(project_folder: Path):
    before = projected(project_folder)
    (project_folder / "ssl_pose" / "second.py").write_text('"""Now documented."""\n\nVALUE = 1\n')
    (project_folder / "ssl_pose" / "third.py").write_text("VALUE = 4\n")
    path = project_folder / "notebooks" / "10_one.ipynb"
    content = json.loads(path.read_text())
    content["cells"][0]["source"] = ["other prose"]
    content["cells"][2] |= {"outputs": [], "execution_count": 3}
    path.write_text(json.dumps(content))
    assert projected(project_folder) == before


def test_an_edit_to_a_module_that_is_reached_changes_the_projection(project_folder: Path):
    before = projected(project_folder)
    (project_folder / "ssl_pose" / "second.py").write_text("VALUE = 2\n")
    assert projected(project_folder) != before


def test_a_projection_that_would_not_change_is_not_written_again(project_folder: Path):
    folders = project_folder / "notebooks", project_folder / "ssl_pose", project_folder / "code"
    (path,) = write_projections(*folders)
    first = path.stat().st_mtime_ns
    write_projections(*folders)
    assert path.stat().st_mtime_ns == first


def test_every_form_of_import_is_seen(project_folder: Path):
    package = project_folder / "ssl_pose"
    forms = {"import ssl_pose.third": "third", "from ssl_pose import third": "third",
             "from ssl_pose.third import VALUE": "third"}
    for statement, name in forms.items():
        assert imported_modules(statement, package) == {"ssl_pose", f"ssl_pose.{name}"}, statement
    assert imported_modules("import json\nfrom pathlib import Path", package) == set()


def test_what_a_notebook_really_imports_is_what_its_projection_holds():
    sources = {path.stem: "\n".join(text for _, text in code_cells(path)) for path in NOTEBOOKS}
    run = subprocess.run([sys.executable, "-c", REALLY_IMPORTED], input=json.dumps(sources), cwd=ROOT, check=True,
                         capture_output=True, text=True)
    really = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert set(really) == set(sources)
    for notebook, source in sources.items():
        assert really[notebook].split() == reached_modules(source, PACKAGE), notebook


def test_every_notebook_is_a_stage_that_depends_on_its_own_projection_alone():
    for notebook in NOTEBOOKS:
        dependencies = [path for path in stage_of(notebook.stem)["deps"] if path.startswith("work/code/")]
        assert dependencies == [f"work/code/{notebook.stem}.py"]


def test_the_code_stage_declares_every_projection():
    declared = [path for out in STAGES["code"]["outs"] for path in out]
    assert declared == [f"work/code/{notebook.stem}.py" for notebook in NOTEBOOKS]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stage_declares_every_section_of_params_that_its_code_reads(notebook: Path):
    modules = project(notebook, PACKAGE).split("\n# module ")
    text = "\n".join(part for part in modules if not part.startswith("ssl_pose.config\n"))
    sections = {spec.name for spec in fields(Config)}
    read = set(re.findall(r"\bconfig\.(\w+)", text)) & sections
    declared = {name.partition(".")[0] for name in stage_of(notebook.stem)["params"]}
    assert read - declared - NOT_ON_THE_PATH.get(notebook.stem, set()) == set()

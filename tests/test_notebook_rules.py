"""The rules of notebooks: ours keep them, and each breach is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ssl_pose.notebook_rules import RuleError, breaches, check_notebooks

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONFIG = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
HOOKS = {hook["id"]: hook for hook in CONFIG["repos"][0]["hooks"]}
STRIP = HOOKS["nbstripout"]["entry"].removeprefix(".venv/bin/").split()  # with `python -m` before it
PARAMETERS = "seed: int = 0"


def write(path: Path, *cells: str, title: str = "# Why?", parameters: str = PARAMETERS, tags=("parameters",)) -> Path:
    first = new_code_cell(parameters, metadata={"tags": list(tags)})
    nbformat.write(new_notebook(cells=[new_markdown_cell(title), first, *map(new_code_cell, cells)]), path)
    return path


def test_ours_keep_the_rules():
    check_notebooks(NOTEBOOKS)


def test_the_hook_leaves_ours_as_they_are():
    done = subprocess.run([sys.executable, "-m", *STRIP, "--verify", *NOTEBOOKS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert {"ruff", "nbstripout", "notebooks", "codespell"} == HOOKS.keys()
    assert all(hook["language"] == "system" for hook in HOOKS.values()), "a hook that is fetched"


@pytest.mark.parametrize(("changes", "breach"), [
    ({"title": "# Because."}, "the first cell is a title that asks a question"),
    ({"tags": ()}, "the first cell of code, and no other, is tagged `parameters`"),
    ({"parameters": "seed: int = 0\nname = 'a'"}, "line 2 of the parameters has no type"),
    ({"cells": ("print(1)",)}, "the last cell of code asserts what must hold"),
    ({"cells": ("def f():\n    pass", "assert True")}, "cell of code 2 defines a function or class"),
    ({"cells": ("open('/data/photos')", "assert True")}, "cell of code 2 names an absolute path"),
    ({"cells": ("%matplotlib inline", "assert True")}, "is no notebook of plain Python"),
])
def test_each_breach_is_named(tmp_path, changes, breach):
    cells = changes.pop("cells", ("assert seed == 0",))
    found = list(breaches(write(tmp_path / "10_some.ipynb", *cells, **changes)))
    assert len(found) == 1
    assert breach in found[0]


def test_outputs_and_files_that_are_no_notebooks_are_named_together(tmp_path):
    good = write(tmp_path / "10_some.ipynb", "assert seed == 0")
    assert not list(breaches(good))
    content = nbformat.read(good, as_version=4)
    content.cells[-1].outputs = [new_output("stream", text="ran")]
    nbformat.write(content, good)
    (tmp_path / "20_other.ipynb").write_text("[]")
    with pytest.raises(RuleError, match=r"2 breaches .*10_some\.ipynb: cell of code 2 carries outputs.*20_other"):
        check_notebooks(sorted(tmp_path.glob("*.ipynb")))

"""The rules of a source notebook, which `make lint` and the pre-commit hook check; each breach is one line.

A notebook is an argument to read, not a program: a title that asks, one typed cell of parameters, calls into the
library, assertions at its end. It carries no output, so that a difference shows what somebody wrote.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ABSOLUTE_PATH = re.compile(r"""["'](/(home|root|Users|work|tmp|mnt|data|content)/|[A-Za-z]:\\\\)""")


class RuleError(ValueError):
    """A line for the user: which notebooks break which rules."""


def check_notebooks(paths: Iterable[Path]) -> None:
    """Raises `RuleError` with every breach in the notebooks at `paths`."""
    found = [f"{path.name}: {breach}" for path in paths for breach in breaches(path)]
    if found:
        raise RuleError(f"{len(found)} breaches of the rules of notebooks: {'; '.join(found)}")


def breaches(path: Path) -> Iterator[str]:
    """What is wrong with the notebook at `path`."""
    try:
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in code]
        trees = [ast.parse(source) for source in sources]  # a magic would be no Python
    except (ValueError, LookupError, TypeError, SyntaxError) as error:
        yield f"is no notebook of plain Python ({' '.join(str(error).split())})"
        return
    yield from _check_parameters(code, trees)
    if cells[0]["cell_type"] != "markdown" or "?" not in "".join(cells[0]["source"]).partition("\n")[0]:
        yield "the first cell is a title that asks a question"
    if not any(isinstance(node, ast.Assert) for tree in trees[-1:] for node in ast.walk(tree)):
        yield "the last cell of code asserts what must hold"
    for number, (cell, source, tree) in enumerate(zip(code, sources, trees, strict=True), start=1):
        if cell.get("outputs") or cell.get("execution_count") is not None:
            yield f"cell of code {number} carries outputs; strip them (nbstripout)"
        if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(tree)):
            yield f"cell of code {number} defines a function or class; put it into the library"
        if ABSOLUTE_PATH.search(source):
            yield f"cell of code {number} names an absolute path; take it from the workspace"


def _check_parameters(code: list[dict], trees: list[ast.Module]) -> Iterator[str]:
    tagged = [number for number, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", ())]
    if tagged != [0]:
        yield "the first cell of code, and no other, is tagged `parameters`"
        return
    for node in trees[0].body:
        if not isinstance(node, ast.AnnAssign):
            yield f"line {node.lineno} of the parameters has no type: write `name: int = 0`"

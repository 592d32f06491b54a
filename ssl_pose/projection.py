"""[I/O] What a notebook runs, as text without prose: the one file that its DVC stage depends on.

A projection holds the notebook's code cells and every module of this package that they reach, through imports
at the top of a module or inside a function. Comments, docstrings and blank lines are left out, so that an edit
to prose reruns nothing and an edit to a module reruns exactly the stages that reach it. The text is cut, not
printed anew from the syntax tree, so that it is the same under every version of Python.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from pathlib import Path

from ssl_pose.files import write_text

PACKAGE = "ssl_pose"
FOR_PEOPLE = ("80_explore", "82_own_photos")  # notebooks that are no stage of the pipeline


def write_projections(notebooks: Path, package: Path, out: Path) -> list[Path]:
    """Writes `<out>/<notebook>.py` for every stage's notebook; one that would not change is left alone."""
    written = []
    for notebook in stage_notebooks(notebooks):
        path, text = out / f"{notebook.stem}.py", project(notebook, package)
        if not path.exists() or path.read_text() != text:
            write_text(text, path)
        written.append(path)
    return written


def stage_notebooks(folder: Path) -> list[Path]:
    """The notebooks of the folder that are stages of the pipeline, in order."""
    return [path for path in sorted(folder.glob("*.ipynb")) if path.stem not in FOR_PEOPLE]


def project(notebook: Path, package: Path) -> str:
    """The projection of one notebook: its cells, then the modules that it reaches, by name."""
    cells = code_cells(notebook)
    parts = [f"# cell {index}{tags}\n{strip(source)}" for index, (tags, source) in enumerate(cells)]
    return "\n".join([*parts, *project_modules("\n".join(source for _, source in cells), package)])


def project_modules(source: str, package: Path) -> list[str]:
    """The modules that `source` reaches, each under its name."""
    return [f"# module {module}\n{strip(module_path(module, package).read_text())}"
            for module in reached_modules(source, package)]


def code_cells(notebook: Path) -> list[tuple[str, str]]:
    """(tags, source) of every code cell that is not empty; the tags as text, such as ` parameters`."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    sources = [("".join(f" {tag}" for tag in cell["metadata"].get("tags", ())), "".join(cell["source"]))
               for cell in cells]
    return [(tags, source) for tags, source in sources if source.strip()]


def reached_modules(source: str, package: Path) -> list[str]:
    """Names of the package's modules that `source` imports, directly or through one another, sorted."""
    reached, waiting = set(), imported_modules(source, package)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting |= imported_modules(module_path(module, package).read_text(), package)
    return sorted(reached)


def imported_modules(source: str, package: Path) -> set[str]:
    """The package's modules that the (absolute) import statements of `source` name, wherever these stand."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.split(".")[0] == PACKAGE and module_path(name, package).exists()}
    return ours | {PACKAGE} if ours else set()  # importing a module runs the package's __init__ first


def module_path(module: str, package: Path) -> Path:
    """The file of `ssl_pose` or `ssl_pose.<name>`; it need not exist."""
    return package / f"{module.removeprefix(PACKAGE).lstrip('.') or '__init__'}.py"


def strip(source: str) -> str:
    """`source` without comments, docstrings and blank lines; all other characters stay as they are."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for first, column, last in _docstrings(source):
        lines[first - 1:last] = [lines[first - 1][:column]] + [""] * (last - first)
    return "\n".join(line.rstrip() for line in lines if line.strip()) + "\n"


def _docstrings(source: str) -> list[tuple[int, int, int]]:
    """First line, its column, and last line of every docstring."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, owners)]
    texts = [node.body[0] for node in nodes if ast.get_docstring(node, clean=False) is not None]
    return [(text.lineno, text.col_offset, text.end_lineno) for text in texts]

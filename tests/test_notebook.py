"""The runner refuses what papermill lets pass, and leaves either a finished notebook or one clear line."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import time
from pathlib import Path

import nbformat
import pytest
import zmq.asyncio
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ssl_pose import notebook as runner
from ssl_pose.__main__ import main
from ssl_pose.notebook import NotebookError, parse_parameters, run_notebook

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = 'seed: int = 0  # which run\nname: str = "a"\nrate: float = 1.0\nfast: bool = False\nmore: dict = {}'


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a notebook of code cells, the first tagged `parameters`, where the runner looks for it."""
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    monkeypatch.chdir(tmp_path)

    def write_notebook(*cells: str, tags: tuple[str, ...] = ("parameters",), name: str = "10_some") -> Path:
        first = new_code_cell(PARAMETERS, metadata={"tags": list(tags)})
        content = new_notebook(cells=[new_markdown_cell("# Question?"), first, *map(new_code_cell, cells)])
        content.metadata["kernelspec"] = {"name": "elsewhere", "display_name": "Elsewhere", "language": "python"}
        nbformat.write(content, tmp_path / f"{name}.ipynb")
        return tmp_path / f"{name}.ipynb"

    return write_notebook


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_parameters_reach_the_cells_and_two_equal_runs_leave_equal_bytes(write, tmp_path: Path, capsys):
    write("print(seed, name, rate, fast, more)", "import os\nos.getcwd()")
    given = {"seed": "3", "name": "b", "rate": "2", "fast": "true", "more": '{"a.b": 1}'}
    for output in ("out/first.ipynb", "out/second.ipynb"):
        run_notebook("10_some", given, tmp_path / output)
    assert re.fullmatch(r"(notebook 10_some: \d+ s, out/(first|second).ipynb\n){2}", capsys.readouterr().out)
    first, second = (tmp_path / "out" / f"{name}.ipynb" for name in ("first", "second"))
    assert "3 b 2 True {'a.b': 1}" in first.read_text()
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == ["first.ipynb", "second.ipynb"]


def test_unknown_and_wrongly_typed_parameters_are_refused_before_anything_runs(write):
    source = write("raise SystemError")
    with pytest.raises(NotebookError, match="no parameter 'sed'; it has: seed, name, rate, fast, more"):
        parse_parameters(source, {"sed": "1"})
    for key, text, expected in [("seed", "1.5", "int"), ("seed", "true", "int"), ("fast", "1", "bool"),
                                ("rate", "1e-4", "float"), ("more", "[1]", "dict"), ("name", "3", "str")]:
        with pytest.raises(NotebookError, match=re.escape(f"parameter {key} must be {expected}, got '{text}'")):
            parse_parameters(source, {key: text})
    assert parse_parameters(source, {"name": "", "rate": "1.0e-4"}) == {"name": "", "rate": 1e-4}


def test_a_notebook_that_is_missing_or_has_no_parameters_cell_is_refused(write, tmp_path: Path):
    write("1", tags=())
    with pytest.raises(NotebookError, match="10_some has no cell tagged `parameters`"):
        run_notebook("10_some", {}, tmp_path / "out.ipynb")
    with pytest.raises(NotebookError, match="no notebook '11_other'; there are: 10_some"):
        run_notebook("11_other", {}, tmp_path / "out.ipynb")


def test_an_error_in_a_cell_is_one_line_and_leaves_the_last_result_alone(write, tmp_path: Path, capsys):
    write("from ssl_pose.config import load_config\nload_config('nowhere.yaml')", "print('never')")
    (tmp_path / "out.ipynb").write_text("of an earlier run")
    line = error_of(["notebook", "10_some", "-o", str(tmp_path / "out.ipynb")], capsys)
    assert line == ("error: notebook 10_some, In [2]: no parameters file nowhere.yaml; run from a folder that holds "
                    "params.yaml")
    assert (tmp_path / "out.ipynb").read_text() == "of an earlier run"
    assert "ConfigError" in (tmp_path / "out.failed.ipynb").read_text()


def test_a_bare_assertion_is_shown_by_its_line(write, tmp_path: Path, capsys):
    write("value = 3\nassert value == 4")
    line = error_of(["notebook", "10_some", "-o", str(tmp_path / "out.ipynb")], capsys)
    assert line == "error: notebook 10_some, In [2]: AssertionError: assert value == 4"


def test_leaving_through_sys_exit_is_an_error_though_papermill_calls_it_a_success(write, tmp_path: Path):
    write("import sys\nsys.exit(0)", "print('skipped')")
    with pytest.raises(NotebookError, match=r"10_some left through sys.exit in In \[2\]"):
        run_notebook("10_some", {}, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_a_kernel_that_does_not_start_in_time_is_one_line(write, tmp_path: Path, monkeypatch, capsys):
    """As on a machine whose cores all belong to others."""
    def starve(*_, start_timeout: int, **__):
        raise RuntimeError(f"Kernel didn't respond in {start_timeout} seconds")

    write("1")
    monkeypatch.setattr(runner.papermill, "execute_notebook", starve)
    line = error_of(["notebook", "10_some", "-o", str(tmp_path / "out.ipynb")], capsys)
    assert "10_some: its kernel did not start (Kernel didn't respond in 600 seconds); run fewer stages" in line


def test_an_answer_whose_signal_was_taken_is_found():
    """An inproc pair: what looks at the socket without asyncio between arrival and wake-up takes the signal."""
    async def answer() -> bytes:
        context = zmq.asyncio.Context()
        near, far = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        near.bind("inproc://near")
        far.connect("inproc://near")
        awaited = near.recv()
        await asyncio.sleep(0.05)
        zmq.Socket.shadow(far.underlying).send(b"reply")
        time.sleep(0.05)
        assert zmq.Socket.shadow(near.underlying).get(zmq.EVENTS) & zmq.POLLIN
        await asyncio.sleep(0.2)
        unnoticed = not awaited.done()
        runner.take_up(near)
        reply = await asyncio.wait_for(awaited, 5)
        context.destroy()
        assert unnoticed
        return reply

    assert asyncio.run(answer()) == b"reply"


def test_a_kernel_that_was_killed_is_one_line(write, tmp_path: Path, capsys):
    write("import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(NotebookError, match="10_some: its process was killed"):
        run_notebook("10_some", {}, tmp_path / "out.ipynb")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_an_argument_with_one_parameters_cell_and_assertions_at_its_end(source: Path):
    cells = json.loads(source.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [cell["cell_type"] for cell in cells[:2]] == ["markdown", "code"]
    assert "?" in cells[0]["source"][0], "the title asks a question"
    assert [cell["metadata"].get("tags") for cell in cells if "tags" in cell["metadata"]] == [["parameters"]]
    assert cells[1]["metadata"] == {"tags": ["parameters"]}
    assert "assert" in code[-1]
    for node in ast.walk(ast.parse("\n".join(code))):  # a magic would be no Python
        assert not isinstance(node, ast.FunctionDef | ast.ClassDef), "a notebook calls the library"
    for node in ast.parse(code[0]).body:
        assert isinstance(node, ast.AnnAssign), "parameters are annotated, for papermill --help-notebook"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_source_notebook_carries_no_outputs_and_no_kernel_of_its_own(source: Path):
    content = nbformat.read(source, as_version=4)
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"
    for cell in content.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert str(ROOT) not in cell.source

"""[I/O] The strict papermill runner that dvc.yaml calls: a notebook in, an executed notebook out, or one line.

papermill only warns about unknown parameters, calls a notebook that left through sys.exit(0) a success, and
writes timestamps and random ids into what it executed. Here the first two are errors and the last is cleaned
away, so that two equal runs leave equal bytes.
"""

from __future__ import annotations

import builtins
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import zmq.asyncio
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError

from ssl_pose.config import brief, parse_yaml
from ssl_pose.files import AGAIN, remedy
from ssl_pose.scheduling import OUT_OF_MEMORY, is_out_of_memory
from ssl_pose.workspace import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "dict": dict, "list": list}
START_TIMEOUT = 600  # s until a kernel answers: on a machine that is busy with other work it takes minutes
FORGET = ("papermill", "execution")  # metadata with timestamps and durations
SYSTEM_ERROR = re.compile(r"\[Errno (?P<number>\d+)\] ")  # how an OSError begins
ANSI_COLOR = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(ValueError):
    """A line for the user: which notebook, which cell, and the cause."""


def run_notebook(name: str, given: dict[str, str], output: Path) -> None:
    """Executes notebooks/<name>.ipynb with the parameters in `given` (YAML texts) and writes it to `output`.

    A failed notebook is kept beside `output` as <stem>.failed.ipynb; `output` itself is then left alone.
    """
    source = NOTEBOOKS / f"{name}.ipynb"
    if not source.exists():
        known = ", ".join(path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb")))
        raise NotebookError(f"no notebook {name!r}; there are: {known}")
    parameters = parse_parameters(source, given)
    output.parent.mkdir(parents=True, exist_ok=True)
    failed = output.with_suffix(".failed.ipynb")
    started = time.monotonic()
    execute(source, parameters, failed)
    notebook = nbformat.read(failed, as_version=4)
    check_finished(notebook, name)
    nbformat.write(clean(notebook), failed)
    failed.replace(output)
    print(f"notebook {name}: {time.monotonic() - started:.0f} s, {os.path.relpath(output)}", flush=True)


class PatientClient(PapermillNotebookClient):
    """papermill's client, which also finds an answer of the kernel whose arrival went unnoticed.

    nbclient answers an Output widget on the socket on which it awaits the cell's reply. A reply that comes at that
    moment wakes nobody, since the send takes the socket's one signal, and the cell would never end: on a busy machine
    a notebook with widgets hung once in some dozens of runs.
    """

    async def _async_check_alive(self) -> None:
        """Called once a second while a cell runs."""
        await super()._async_check_alive()
        take_up(self.kc.shell_channel.socket)


def take_up(socket: zmq.asyncio.Socket) -> None:
    """Hands what has come on `socket` to who awaits it: asking for events does so."""
    socket.get(zmq.EVENTS)


class PatientEngine(Engine):
    """papermill's engine with this client."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, *, start_timeout: int, extra_arguments: list[str],
        **_: Any,
    ) -> None:
        PatientClient(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, timeout=None,
                      extra_arguments=extra_arguments, log=logging.getLogger("papermill")).execute()


papermill_engines.register(PatientEngine.__name__, PatientEngine)


def execute(source: Path, parameters: dict[str, Any], output: Path) -> None:
    """Runs the notebook in this interpreter's own kernel, which imports the same package as we do."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it logs of a failure, the line below says
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    try:
        papermill.execute_notebook(str(source), str(output), parameters, kernel_name="python3", cwd=".",
                                   engine_name=PatientEngine.__name__, progress_bar=False,
                                   extra_arguments=["--IPKernelApp.log_level=50"],
                                   start_timeout=START_TIMEOUT)
    except PapermillExecutionError as error:
        raise NotebookError(f"notebook {source.stem}, In [{error.exec_count}]: {cause(error)}") from None
    except DeadKernelError:
        raise NotebookError(f"notebook {source.stem}: its process was killed; {OUT_OF_MEMORY}") from None
    except RuntimeError as error:  # before the first cell
        raise NotebookError(f"notebook {source.stem}: its kernel did not start ({error}); run fewer stages side by "
                            f"side (JOBS=1), {AGAIN}") from None


def cause(error: PapermillExecutionError) -> str:
    """The error of a cell as one line: our own and libraries' errors by their message alone."""
    text = " ".join(str(error.evalue).split())
    if not text:  # a bare assert: the line itself says what was expected
        marked = [line for line in ANSI_COLOR.sub("", "\n".join(error.traceback)).splitlines() if "-> " in line]
        text = " ".join(marked[-1].split()[2:]) if marked else ""
    if is_out_of_memory(error.ename, text):
        return f"out of memory ({text}); {OUT_OF_MEMORY}"
    if found := SYSTEM_ERROR.match(text):
        return f"{text[found.end():]}{remedy(int(found['number']))}"
    return f"{error.ename}: {text}" if hasattr(builtins, error.ename) else text


def parse_parameters(source: Path, given: dict[str, str]) -> dict[str, Any]:
    """The values of `given`, each of the type that the notebook's parameters cell states."""
    known = _inspect(source)
    if not known:
        raise NotebookError(f"notebook {source.stem} has no cell tagged `parameters`")
    values = {}
    for key, text in given.items():
        if key not in known:
            raise NotebookError(f"notebook {source.stem} has no parameter {key!r}; it has: {', '.join(known)}")
        value, expected = parse_yaml(text, f"notebook {source.stem}: parameter {key}"), known[key]["inferred_type_name"]
        if expected not in TYPES:
            raise NotebookError(f"notebook {source.stem}: parameter {key} has no type that can be given; annotate it "
                                f"in the parameters cell as one of {', '.join(TYPES)}")
        right = isinstance(value, TYPES[expected]) and isinstance(value, bool) == (expected == "bool")
        if expected == "str" and isinstance(value, str | None):
            right, value = True, value or ""
        if not right:
            raise NotebookError(f"notebook {source.stem}: parameter {key} must be {expected}, got {brief(text)}")
        values[key] = value
    return values


def _inspect(source: Path) -> dict[str, dict]:
    """What papermill finds in the parameters cell, by name."""
    try:
        nbformat.validate(nbformat.read(source, as_version=4))
        return papermill.inspect_notebook(str(source))
    except (ValueError, AttributeError, nbformat.ValidationError, RecursionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotebookError(f"notebook {source.stem} is no valid notebook ({first})") from None


def check_finished(notebook: nbformat.NotebookNode, name: str) -> None:
    """Raises if a cell left through sys.exit, which skips the cells after it and looks like a success."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                raise NotebookError(f"notebook {name} left through sys.exit in In [{cell.execution_count}]")


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy without what differs between two equal runs: timestamps, random ids, the Python version."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02d}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key not in FORGET}
    return notebook

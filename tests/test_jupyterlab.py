"""Each notebook by *Run All* in JupyterLab, in a real browser; and who may reach the server that `make lab` starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
import requests
from nbformat.reader import NotJSONError

from tests.browser import needs_browser, opened
from tests.test_notebook_rules import STRIP
from tests.test_pipeline import Copy

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
TOKEN = "of-this-test"
QUICK = "60_teacher_or_dual"
START_SECONDS, RUN_SECONDS = 180, 900  # of a machine that is busy with other work
REACTION_SECONDS = 60.0  # however busy the machine; docs/performance.md has the time on one that is not


@dataclass(frozen=True)
class Lab:
    process: subprocess.Popen
    address: str
    folder: Path

    def page(self, notebook: str) -> str:
        """Its address, in a workspace of its own: JupyterLab opens again what a workspace had open."""
        return f"{self.address}/lab/workspaces/{notebook}/tree/notebooks/{notebook}.ipynb?token={TOKEN}"

    def read(self, notebook: str) -> nbformat.NotebookNode:
        return nbformat.read(self.folder / "notebooks" / f"{notebook}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`make lab` in a copy of this repository, with a port and a token that we know."""
    folder = Copy(tmp_path_factory.mktemp("lab")).root
    (folder / ".venv").symlink_to(sys.prefix)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JUPYTER_PORT": str(port), "JUPYTER_PORT_RETRIES": "0", "JUPYTER_TOKEN": TOKEN,
                                "PYTHONPATH": str(folder), "BROWSER": "true", "OMP_NUM_THREADS": "1"}
    command = ["make", "--old-file", ".venv/.ready", "lab"]
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log,
                                   start_new_session=True)
    started = Lab(process, f"http://127.0.0.1:{port}", folder)
    try:
        await_server(started)
        yield started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def await_server(lab: Lab) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and lab.process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{lab.address}/api", timeout=5)
            return
        time.sleep(0.2)
    pytest.fail((lab.folder / "lab.log").read_text())


def run_all(lab: Lab, watched, notebook: str) -> nbformat.NotebookNode:
    """Chooses *Run All Cells* in the menu; the notebook as saved once its last cell, or one with an error, is done."""
    page = watched.page
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=1000 * START_SECONDS)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=1000 * START_SECONDS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        page.wait_for_timeout(500)
        page.keyboard.press("Control+s")
        try:
            saved = lab.read(notebook)
        except NotJSONError:  # the server writes in place, and it is half there
            continue
        code = [cell for cell in saved.cells if cell.cell_type == "code"]
        if code[-1].execution_count or errors_of(saved):
            return saved
    pytest.fail(f"{notebook} was not done after {RUN_SECONDS} s")


def errors_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [f"{output.ename}: {output.evalue}" for cell in notebook.cells for output in cell.get("outputs", ())
            if output.output_type == "error"]


@needs_browser
@pytest.mark.parametrize("name", [QUICK, *(pytest.param(name, marks=pytest.mark.soak) for name in NOTEBOOKS
                                           if name != QUICK)])
def test_a_notebook_runs_by_run_all_and_the_hook_gives_its_source_back(lab: Lab, name: str):
    with opened(lab.page(name), allowed=(lab.address, lab.address.replace("http", "ws"))) as watched:
        done = run_all(lab, watched, name)
        assert errors_of(done) == []
        assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code" and cell.source)
        assert watched.outside == []
        assert watched.page.get_by_text("Error displaying widget").count() == 0
    saved = lab.folder / "notebooks" / f"{name}.ipynb"
    subprocess.run([sys.executable, "-m", *STRIP, saved], check=True)
    assert saved.read_bytes() == (ROOT / "notebooks" / saved.name).read_bytes()


@needs_browser
@pytest.mark.soak
def test_a_widget_answers_while_somebody_moves_it(lab: Lab, capsys):
    with opened(lab.page("80_explore"), allowed=(lab.address, lab.address.replace("http", "ws"))) as watched:
        run_all(lab, watched, "80_explore")
        person = watched.page.get_by_role("slider").first
        person.scroll_into_view_if_needed()
        picture = watched.page.locator(".widget-output img").first
        reactions, seen = [], [picture.get_attribute("src")]
        for _ in range(5):
            began = time.monotonic()
            person.press("ArrowRight")
            while picture.get_attribute("src") == seen[-1]:
                assert time.monotonic() - began < REACTION_SECONDS
                watched.page.wait_for_timeout(10)
            reactions.append(time.monotonic() - began)
            seen.append(picture.get_attribute("src"))
    assert len(set(seen)) == len(seen)
    with capsys.disabled():
        print(f"a slider's picture came after {sorted(reactions)[2]:.2f} s (median of {len(reactions)})")


def test_it_listens_on_loopback_alone_and_asks_for_its_token(lab: Lab):
    children = psutil.Process(lab.process.pid).children(recursive=True)
    listening = [each.laddr.ip for child in children for each in child.net_connections("inet")
                 if each.status == psutil.CONN_LISTEN]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    assert requests.get(f"{lab.address}/api/contents", timeout=10).status_code == 403
    stranger = requests.get(f"{lab.address}/lab", timeout=10, allow_redirects=False)
    assert stranger.status_code == 302
    assert stranger.headers["Location"].startswith("/login")
    assert requests.get(f"{lab.address}/api/contents?token=guessed", timeout=10).status_code == 403
    assert requests.get(f"{lab.address}/api/contents?token={TOKEN}", timeout=10).status_code == 200

"""Killed at random moments and run again: nothing is lost, nothing half-written is read, the same bits come out.

The quick test kills the stages' own functions, in one process; the soak test kills `make repro` and `dvc repro` with
everything that they start. Moments are drawn from a seed, so that a failure can be run again.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from ssl_pose.config import override
from tests.test_pipeline import Copy

ROOT = Path(__file__).resolve().parent.parent
SMOKE = yaml.safe_load((ROOT / "profiles" / "smoke" / "params.yaml").read_text())
DEATHS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL)
SOAK_KILLS = 28
TINY = {
    "synthetic.num_train_photos": 24, "synthetic.num_val_photos": 6, "splits.label_count": 4,
    "training.burn_in_steps": 12, "training.steps": 16, "training.checkpoint_every": 3, "training.log_every": 2,
    "evaluation.num_pseudo_persons": 16,
}
COMPARED = ("metrics.json", "scores.json", "predictions.parquet", "pseudo_labels.parquet", "examples.npz", "log.jsonl")
PHASES = ("data", "packing", "training", "done")  # what STAGES prints as it comes to them
# The stages in one process, each left out if what it makes is there: all trust is in what a kill left.
STAGES = """
import sys, time
from ssl_pose.cells import ensure_burn_in, ensure_data, run_cell
from ssl_pose.preparation import pack_persons, render_photos, select_persons
from ssl_pose.workspace import open_workspace

here = open_workspace("params.yaml", ".")
print("data", flush=True)
if not here.coco.exists():
    render_photos(here)
print("packing", flush=True)
if not all(here.crops(split).exists() for split in ("train", "val")):
    pack_persons(here, select_persons(here)[0])
ensure_data(here)
print("training", flush=True)
run_cell(here, ("full", 0))
print("done", flush=True)
"""


def start(command: list[str], folder: Path, log: Path) -> subprocess.Popen:
    """The command in a process group of its own, finding this package and this interpreter."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(folder if (folder / "ssl_pose").is_dir() else ROOT), "PATH": path}
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, start_new_session=True, env=environment)


def contents(results: Path) -> dict[str, bytes]:
    """What must be bit-equal: everything measured and every table, but for the record of times and machines."""
    measured = [path for name in COMPARED for path in results.glob(f"runs/*/*/{name}")]
    tables = [path for path in results.glob("tables/*.csv") if path.stem != "provenance"]
    paths = [*measured, *tables, *results.glob("claims.json")]
    return {str(path.relative_to(results)): path.read_bytes() for path in sorted(paths)}


def left_behind(folder: Path, seconds: float = 30.0) -> list[psutil.Process]:
    """Processes that still work in `folder` after that time: a stage that outlived its driver."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in psutil.process_iter() if works_in(process, folder)]) \
            and time.monotonic() < deadline:
        time.sleep(0.2)
    return alive


def works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """Results of a run that nobody kills, and the seconds that it took."""
    folder = tiny_profile(tmp_path_factory.mktemp("undisturbed"))
    began = time.monotonic()
    process = start([sys.executable, "-c", STAGES], folder, folder / "log.txt")
    assert process.wait() == 0, (folder / "log.txt").read_text()
    return contents(folder / "results" / "smoke"), time.monotonic() - began


def tiny_profile(folder: Path) -> Path:
    (folder / "params.yaml").write_text(yaml.safe_dump(override(SMOKE, TINY)))
    return folder


@pytest.mark.parametrize("kills", [4, pytest.param(24, marks=pytest.mark.soak)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_bits_of_one_that_is_not(undisturbed, tmp_path, kills):
    expected, whole = undisturbed
    folder, moments, phases = tiny_profile(tmp_path), random.Random(1), Counter()
    deaths = itertools.cycle(DEATHS)
    while phases.total() < kills:
        process = start([sys.executable, "-c", STAGES], folder, folder / "log.txt")
        time.sleep(whole * moments.uniform(0.3, 0.8))  # the first third only imports
        phase = ["imports", *(word for word in (folder / "log.txt").read_text().split() if word in PHASES)][-1]
        process.send_signal(next(deaths))
        if process.wait():
            phases[phase] += 1
        else:  # it was done before the kill came
            assert contents(folder / "results" / "smoke") == expected
            start_anew(folder)
    process = start([sys.executable, "-c", STAGES], folder, folder / "log.txt")
    assert process.wait() == 0, (folder / "log.txt").read_text()
    assert contents(folder / "results" / "smoke") == expected
    assert not left_behind(folder, 5)
    print(f"survived {phases.total()} kills: {dict(phases)}")


def start_anew(folder: Path) -> None:
    for name in ("work", "results"):
        shutil.rmtree(folder / name)


def kill_driver(death: signal.Signals) -> Callable[[subprocess.Popen], None]:
    return lambda process: process.send_signal(death)


def kill_one_below(word: str, death: signal.Signals) -> Callable[[subprocess.Popen], None]:
    """Kills one process under the driver whose command line has `word`, such as DVC or a notebook's kernel."""

    def kill(process: subprocess.Popen) -> None:
        below = psutil.Process(process.pid).children(recursive=True)
        found = [child for child in below if any(word in part for part in child.cmdline())]
        (found or [psutil.Process(process.pid)])[-1].send_signal(death)

    return kill


def kill_all(process: subprocess.Popen) -> None:
    """As a machine that goes down: every process at once."""
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.kill()


MAKE_REPRO = [sys.executable, "-m", "ssl_pose", "repro", "--profile", "smoke", "--jobs", "2"]
DVC_REPRO = [sys.executable, "-m", "dvc", "repro"]
WAYS: list[tuple[str, list[str], Callable]] = [
    ("SIGKILL to make repro", MAKE_REPRO, kill_driver(signal.SIGKILL)),
    ("SIGTERM to make repro", MAKE_REPRO, kill_driver(signal.SIGTERM)),
    ("SIGKILL to a dvc under it", MAKE_REPRO, kill_one_below("dvc", signal.SIGKILL)),
    ("SIGKILL to a kernel under it", MAKE_REPRO, kill_one_below("ipykernel", signal.SIGKILL)),
    ("SIGKILL to all at once", MAKE_REPRO, kill_all),
    ("SIGKILL to dvc repro", DVC_REPRO, kill_driver(signal.SIGKILL)),
    ("SIGTERM to dvc repro", DVC_REPRO, kill_driver(signal.SIGTERM)),
]


def small_copy(folder: Path) -> Copy:
    """A repository whose smoke profile has four arms and tiny numbers."""
    copy = Copy(folder)
    grid = ["supervised", "teacher_student", "dual_maximum", "all_labels"]
    numbers = override(SMOKE, TINY | {"grid": grid})
    (copy.smoke / "params.yaml").write_text(yaml.safe_dump(numbers, sort_keys=False))
    return copy


def vanish(copy: Copy, moments: random.Random) -> str:
    """Removes a file that a stage made, so that a finished pipeline has work again."""
    made = [*copy.results.glob("runs/*/*/metrics.json"), *copy.smoke.glob("work/crops/*"),
            *copy.smoke.glob("work/runs/*/*/model.safetensors"), *copy.smoke.glob("work/burn_in/*.safetensors"),
            *copy.results.glob("tables/table_2.csv"), *copy.results.glob("report.html")]
    path = moments.choice(made)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return f"vanished: {path.relative_to(copy.smoke)}"


@pytest.mark.soak
def test_the_pipeline_survives_kills_at_random_moments(tmp_path_factory, capsys):
    undisturbed = small_copy(tmp_path_factory.mktemp("undisturbed"))
    began = time.monotonic()
    undisturbed.run("repro")
    expected, whole = contents(undisturbed.results), time.monotonic() - began
    copy, moments = small_copy(tmp_path_factory.mktemp("killed")), random.Random(6)
    log, kills, stages = copy.root / "log.txt", Counter(), Counter()
    while sum(kills.values()) < SOAK_KILLS:
        name, command, kill = WAYS[sum(kills.values()) % len(WAYS)]
        folder = copy.root if command is MAKE_REPRO else copy.smoke
        process = start(command, folder, log)
        try:
            process.wait(timeout=whole * moments.uniform(0.02, 0.2))
        except subprocess.TimeoutExpired:
            running = stage_at_work(process)
            kill(process)
            process.wait(60)
            kills[name] += 1
            stages[running] += 1
            report(capsys, f"kill {sum(kills.values())}: {name} during {running}")
        else:
            assert process.returncode == 0, log.read_text()
            assert contents(copy.results) == expected
            report(capsys, vanish(copy, moments))
        assert not left_behind(copy.root)
    copy.run("repro")
    assert contents(copy.results) == expected
    report(capsys, f"survived {sum(kills.values())} kills: {dict(kills)}; during {dict(stages)}")


def stage_at_work(process: subprocess.Popen) -> str:
    """The notebook that is being executed, by the command line of its runner."""
    for child in psutil.Process(process.pid).children(recursive=True):
        words = child.cmdline()
        if "notebook" in words[:-1]:
            return words[words.index("notebook") + 1]
    return "between stages"


def report(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(line, flush=True)

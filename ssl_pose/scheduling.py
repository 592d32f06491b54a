"""[I/O] Runs stages of a DVC pipeline side by side, each after those that it needs, with progress for people.

A person sees one bar: stage k of n, the time left, what is running. A log (no terminal, or CI set) gets one plain
line per finished stage. What a stage prints stands in work/logs/<stage>.log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tqdm import tqdm

from ssl_pose.config import GPU_SHARE
from ssl_pose.files import write_json

STAGE_MEMORY = 1.5e9  # bytes that a stage may need; fewer run side by side where they would not fit
GRACE_SECONDS = 15  # in which a stopped stage may save its state
POLL_SECONDS = 0.1
# Expected seconds of a stage that never ran here, by kind; only the first estimate of the time left rests on them.
GUESSED_SECONDS = {"data": 40, "burn_in": 20, "train": 60, "evaluate": 15, "cell": 80}
OTHER_SECONDS = 8
KILLED = re.compile(r"exited with (-9|137)$")  # DVC's words for a command that the system killed
OUT_OF_MEMORY = ("if memory ran out, lower the batch sizes in params.yaml or run fewer stages side by side (JOBS=1); "
                 "the same command goes on from here, but for runs of other numbers, which begin anew")

OUT_OF_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError")  # of Python and NumPy; of torch on a GPU


class PipelineError(ValueError):
    """A line for the user: which stage failed and why, or why nothing could start."""


def fitting_jobs(num_threads: int, device: str) -> int:
    """How many stages of `num_threads` threads fit side by side; one where they would share a GPU."""
    if device == "cuda" or (device == "auto" and shutil.which("nvidia-smi")):
        return 1
    cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    return max(1, min(cores // num_threads, int(psutil.virtual_memory().available / STAGE_MEMORY)))


def is_out_of_memory(name: str, text: str) -> bool:
    """Whether an error of class `name` that says `text` is that of a full memory, of the host or of a GPU."""
    return name in OUT_OF_MEMORY_ERRORS or "can't allocate memory" in text


def share_gpu(jobs: int, count: int) -> float:
    """Of a GPU's memory, what each of `count` works may take, `jobs` of which run side by side; our own part of it."""
    return float(os.environ.get(GPU_SHARE, "1")) / max(1, min(jobs, count))


def run_side_by_side(folder: Path, stages: dict[str, set[str]], jobs: int, num_threads: int, force: bool) -> None:
    """Runs `stages`, each after those that it maps to, `jobs` at a time; the first failure stops the others.

    Those on a GPU count on their share of its memory.
    """
    if not stages:
        return
    gpu_share = share_gpu(jobs, len(stages))
    progress = Progress(folder / "work" / "durations.json", list(stages), jobs)
    running: dict[str, subprocess.Popen] = {}
    done: set[str] = set()
    try:
        while len(done) < len(stages):
            waiting = [stage for stage in stages if stage not in done and stage not in running]
            ready = [stage for stage in waiting if stages[stage] <= done]
            for stage in sorted(ready, key=progress.expected, reverse=True)[:jobs - len(running)]:
                running[stage] = start_stage(folder, stage, num_threads, gpu_share, force)
                progress.started[stage] = time.monotonic()
            time.sleep(POLL_SECONDS)
            for stage in [stage for stage, process in running.items() if process.poll() is not None]:
                if running.pop(stage).returncode:
                    raise PipelineError(f"stage {stage} failed: {failure(log_file(folder, stage))}")
                done.add(stage)
                progress.finish(stage)
            progress.show(running)
    finally:
        stop(list(running.values()))
        progress.close()


def start_stage(folder: Path, stage: str, num_threads: int, gpu_share: float, force: bool) -> subprocess.Popen:
    """`dvc repro -s <stage>` in a process group of its own, printing to its log."""
    log = log_file(folder, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", *(["-f"] if force else []), stage]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # the stage's `python` is ours
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": str(num_threads), GPU_SHARE: str(gpu_share)}
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                stderr=subprocess.STDOUT, start_new_session=True)


def stop(processes: list[subprocess.Popen]) -> None:
    """Ends the stages as Ctrl-C would; kills what is left after the time of grace."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # ended by itself meanwhile
            os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def log_file(folder: Path, stage: str) -> Path:
    return folder / "work" / "logs" / f"{stage}.log"


def failure(log: Path) -> str:
    """The line of the log that says what went wrong: ours if there is one, else DVC's, and where to read more."""
    lines = log.read_text(errors="replace").splitlines()
    ours = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    theirs = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    cause = (ours or theirs or lines or ["it printed nothing"])[-1]
    if KILLED.search(cause):
        cause = f"it was killed; {OUT_OF_MEMORY}"
    return f"{cause} (log: {os.path.relpath(log)})"


class Progress:
    """Stage k of n and the time left, reckoned from the last run's durations of the same stages."""

    def __init__(self, record: Path, stages: list[str], jobs: int) -> None:
        self.record, self.jobs = record, jobs
        self.seconds = read_durations(record)
        self.left, self.total = list(stages), len(stages)
        self.started: dict[str, float] = {}
        plain = not sys.stderr.isatty() or "CI" in os.environ
        self.bar = None if plain else tqdm(total=self.total, unit="stage", bar_format="{bar:30} {desc}")

    def expected(self, stage: str) -> float:
        """Seconds that the stage should take: as last time, else as its kind did, else a guess."""
        kind = stage.partition("@")[0]
        alike = [seconds for name, seconds in self.seconds.items() if name.partition("@")[0] == kind]
        guess = sum(alike) / len(alike) if alike else GUESSED_SECONDS.get(kind, OTHER_SECONDS)
        return self.seconds.get(stage, guess)

    def time_left(self) -> float:
        """Seconds until all are done, if the machine is kept busy; at least those of the longest stage."""
        now = time.monotonic()
        each = [max(0.0, self.expected(stage) - (now - self.started.get(stage, now))) for stage in self.left]
        return max([sum(each) / self.jobs, *each])

    def show(self, running: dict[str, subprocess.Popen]) -> None:
        if self.bar is not None:
            number = min(self.total - len(self.left) + 1, self.total)
            text = f"stage {number} of {self.total}, {clock(self.time_left())} left: {', '.join(running)}"
            self.bar.set_description_str(text)

    def finish(self, stage: str) -> None:
        """`stage` is over; one that never started, a failed cell of a sweep, leaves no duration."""
        seconds = time.monotonic() - self.started.get(stage, time.monotonic())
        if stage in self.started:
            self.seconds[stage] = round(seconds, 1)
        self.left.remove(stage)
        if self.bar is not None:
            self.bar.update()
        else:
            print(f"[{self.total - len(self.left)}/{self.total}] {stage} {clock(seconds)}, "
                  f"about {clock(self.time_left()) if self.left else '0:00'} left", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        write_json(self.seconds, self.record)


def read_durations(record: Path) -> dict[str, float]:
    """Seconds of each stage when it last ran here; none where the record is missing or cut short."""
    try:
        return {str(stage): float(seconds) for stage, seconds in json.loads(record.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

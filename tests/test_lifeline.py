"""No work goes on behind the back of a rerun: stages end with their drivers, pools with their parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ssl_pose.lifeline import find_drivers

STAGE = """
import sys, time
sys.argv = ["stage"]
from ssl_pose import lifeline
lifeline.POLL_SECONDS = 0.05
lifeline.interrupt_without_drivers()
print("ready", flush=True)
time.sleep(60)
"""
DRIVER = """
import subprocess, sys
stage = subprocess.Popen([sys.executable, "-c", {stage!r}], stdout=subprocess.PIPE, text=True)
print(stage.stdout.readline().strip(), stage.pid, flush=True)
stage.wait()
"""
POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from ssl_pose.lifeline import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent)
    print("ready", pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 60).result()
"""


class Ancestor:
    def __init__(self, *words: str) -> None:
        self.words = words

    def cmdline(self) -> list[str]:
        return list(self.words)


def test_drivers_are_dvc_and_ours_and_what_lies_between_but_not_the_terminal():
    shell, dvc, ours, make, terminal = (
        Ancestor("/bin/sh", "-c", "python -m ssl_pose notebook 40_train"), Ancestor("python", "-m", "dvc", "repro"),
        Ancestor("python", "-m", "ssl_pose", "repro"), Ancestor("make", "repro"), Ancestor("bash"))
    assert find_drivers([shell, dvc, ours, make, terminal]) == [shell, dvc, ours]
    assert find_drivers([shell, Ancestor("python", "/usr/bin/dvc", "repro"), terminal])[1].words[1] == "/usr/bin/dvc"
    assert find_drivers([terminal]) == []


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_the_dvc_that_runs_it(death: signal.Signals):
    command = [sys.executable, "-c", DRIVER.format(stage=STAGE), "dvc"]  # its command line says dvc
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        word, number = driver.stdout.readline().split()
        assert word == "ready"
        driver.send_signal(death)
    assert gone(int(number))


def test_a_process_of_a_pool_ends_with_its_parent(tmp_path: Path):
    (tmp_path / "pool.py").write_text(POOL)
    with subprocess.Popen([sys.executable, tmp_path / "pool.py"], stdout=subprocess.PIPE, text=True) as parent:
        word, number = parent.stdout.readline().split()
        assert word == "ready"
        parent.kill()
    assert gone(int(number))


def gone(number: int, seconds: float = 10.0) -> bool:
    """Whether the process ends in time; one that nobody waits for stays as a zombie."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    os.kill(number, signal.SIGKILL)
    return False

"""[I/O] Work ends with those who asked for it, however they end: none goes on writing behind the back of a rerun.

A stage is run by DVC, which `make repro` runs; a kill -9 of either would leave the stage at work. So a stage looks
whether those that run it still live, and stops itself if not. A process that packs or renders for
another is killed by the system together with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

import psutil

PR_SET_PDEATHSIG = 1  # of prctl(2), Linux
POLL_SECONDS = 0.5
DRIVERS = ("dvc", "ssl_pose")  # words in the command lines of what runs stages


def end_with_parent() -> None:
    """From now on the system kills this process when its parent ends; for processes of a pool."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def interrupt_without_drivers() -> None:
    """From now on this process gets SIGTERM when one of those that run it as a stage ends."""
    drivers = find_drivers(psutil.Process().parents())
    if drivers:
        threading.Thread(target=_watch, args=(drivers,), daemon=True).start()


def find_drivers(ancestors: list[psutil.Process]) -> list[psutil.Process]:
    """Of `ancestors`, nearest first, those up to the farthest that is DVC or ours: not the user's shell or terminal."""
    ours = [place for place, ancestor in enumerate(ancestors) if _is_driver(ancestor)]
    return ancestors[: ours[-1] + 1] if ours else []


def _is_driver(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(word in DRIVERS or word.endswith(("/dvc", "/ssl_pose/__main__.py")) for word in words)


def _watch(drivers: list[psutil.Process]) -> None:
    while all(_lives(driver) for driver in drivers):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)  # as an interrupt: a script's background job may ignore SIGINT


def _lives(process: psutil.Process) -> bool:
    """A process that ended may remain as a zombie, until somebody asks how it went."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

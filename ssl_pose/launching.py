"""[I/O] Starts a run on several processes with torchrun, and what each of them does.

A run is never trained in the process that asks for it, such as a notebook's kernel: `launch` starts torchrun, passes
signals on, and turns what went wrong into one line. What the processes share stands in distributed.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ssl_pose.config import Config, TrainingConfig, parse_config
from ssl_pose.crops import CropSet, load_crops
from ssl_pose.distributed import Processes
from ssl_pose.files import write_json

REPOSITORY = Path(__file__).resolve().parent.parent


class ProcessError(ValueError):
    """A line for the user: why a run on several processes could not start, or what ended it."""


def launch(function: str, config: Config, crops: CropSet, labeled: np.ndarray, state: Path, **arguments: Any) -> None:
    """Runs training's `function` in `training.num_processes` processes, and waits for them.

    What they print is printed here; their tracebacks stand in `state`/processes/log.txt. SIGTERM is passed on.
    Raises `ProcessError` with one line if they could not start, stopped, or one of them died.
    """
    _check_devices(config.training)
    if crops.directory is None:
        raise ProcessError("training.num_processes is over 1, which needs crops as they were packed, not a selection")
    folder = state / "processes"
    shutil.rmtree(folder, ignore_errors=True)
    paths = {name: str(value) for name, value in arguments.items() if isinstance(value, Path)} | {"state": str(state)}
    values = {name: value for name, value in arguments.items() if name not in paths}
    job = {"function": function, "config": asdict(config), "crops": str(crops.directory), "launcher": os.getpid(),
           "labeled": np.flatnonzero(labeled).tolist(), "paths": paths, "values": values}
    write_json(job, folder / "job.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", str(config.training.num_processes), "-m", "ssl_pose", "worker", str(folder)]
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(config.training.num_threads)}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        if _wait(process):
            raise ProcessError(_failure(folder, config.training.num_processes, state))


def work(folder: Path, functions: dict[str, Callable]) -> None:
    """What each of the launched processes does: joins the others and runs the job in `folder`."""
    job = json.loads((folder / "job.json").read_text())
    arguments = {name: Path(value) for name, value in job["paths"].items()} | job["values"]
    try:
        config, crops = parse_config(job["config"]), load_crops(job["crops"])
        labeled = np.zeros(len(crops), bool)
        labeled[job["labeled"]] = True
        with _joined(config.training, job["launcher"]) as processes:
            functions[job["function"]](config=config, crops=crops, labeled=labeled, processes=processes, **arguments)
    except Exception as error:
        word = {"line": f"{type(error).__name__}: {error}", "time": time.time()}
        if isinstance(error, ValueError | OSError):
            word["ours"] = str(error)
        write_json(word, folder / f"rank-{os.environ['RANK']}.json")
        raise


@contextlib.contextmanager
def _joined(training: TrainingConfig, launcher: int) -> Iterator[Processes]:
    """The group of the processes that torchrun started; on GPUs each takes the one of its number."""
    on_gpu = _uses_gpu(training)
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    yield Processes(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"), launcher)
    dist.destroy_process_group()


def _uses_gpu(training: TrainingConfig) -> bool:
    return training.device == "cuda" or (training.device == "auto" and torch.cuda.is_available())


def _check_devices(training: TrainingConfig) -> None:
    if _uses_gpu(training) and torch.cuda.device_count() < training.num_processes:
        raise ProcessError(f"training.num_processes is {training.num_processes}, but {torch.cuda.device_count()} GPUs "
                           "are usable here: each process takes one; lower it, or set training.device to cpu")


def _wait(process: subprocess.Popen) -> int:
    """The exit status of `process`, whose lines are printed; SIGTERM and Ctrl-C reach it as SIGTERM."""
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _failure(folder: Path, count: int, state: Path) -> str:
    """Why the processes ended: our own line if one of them left it, else that one was killed, else the first error."""
    words = [json.loads(path.read_text()) for path in folder.glob("rank-*.json")]
    ours = [word["ours"] for word in words if "ours" in word]
    if ours:
        return ours[0]
    if len(words) < count:
        cause = f"one of the run's {count} processes was killed (out of memory?)"
    else:
        cause = " ".join(min(words, key=lambda word: word["time"])["line"].split())
    return f"{cause}; the last state is kept in {state}, run the same command again to continue (log: {folder}/log.txt)"

"""How long things take: alternately, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch

Work = Callable[[], object]
IN_A_ROW = {"cpu": 1, "cuda": 5}  # calls between two readings of the clock: a GPU's host runs ahead of it, as in a loop


def cpu_seconds(device: torch.device) -> float:
    """A clock for work on `device`: this process's time on the processor, or the wall's once a GPU is done.

    Time on the processor leaves out what other programs take of a busy machine, which ratios must not show.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def time_alternately(works: dict[str, Work], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a call of each of `works`, which take turns; each is called twice before the first round."""
    for work in works.values():
        work()
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, work in works.items():
                started = cpu_seconds(device)
                for _ in range(IN_A_ROW[device.type]):
                    work()
                seconds[name].append((cpu_seconds(device) - started) / IN_A_ROW[device.type])
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in seconds.items()}


def as_graph(work: Work, device: torch.device) -> Work:
    """`work` recorded once; replays it as one CUDA graph, without any launch from Python."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # what is made at the first calls must not be recorded
        for _ in range(3):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replay(kept: Work = work) -> None:  # the graph writes to memory that only `work` keeps
        graph.replay()

    return replay


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

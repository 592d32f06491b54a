"""[I/O] `make sweep`: the missing cells of a profile's grid on a Ray cluster, then told to DVC.

What is missing, DVC says. Data and splits are made here first; then every cell, burn-in to evaluation (cells.py), is a
Ray task on whichever host has room. The hosts share the repository's folder, by the same path, and its environment.
A cell whose process or host dies is tried again elsewhere and goes on from its last state; an error of the cell's own
is not repeated, and the other cells go on. The files are those of the stages, and `dvc commit` records them as done:
`make repro` then has only the tables and figures left to do.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssl_pose.cells import Cell, grid_cells, run_cell
from ssl_pose.config import GPU_SHARE, TrainingConfig
from ssl_pose.pipeline import (
    changed_stages,
    dvc,
    find_stale,
    mend,
    read_graph,
    run_stages,
    stale_stages,
    workspace_lock,
)
from ssl_pose.profiles import Profile
from ssl_pose.scheduling import PipelineError, Progress
from ssl_pose.training import choose_device
from ssl_pose.workspace import PIPELINE, Workspace, open_workspace

RETRIES = 3  # of a cell whose process or host died
POLL_SECONDS = 1.0
DATA_STAGES = ("data", "splits")  # what every cell needs


def sweep(profile: Profile, address: str = "", gpus: float = 0.0, data: str = "") -> None:
    """Runs the missing cells of `profile` on the Ray cluster at `address` (empty: on this machine alone).

    `gpus` is how many GPUs each of a cell's processes takes, 0.25 for four cells of one process side by side; 0: a
    whole one where the profile trains on GPUs. Raises `PipelineError` with one line if a cell failed, after all others
    are done.
    """
    with workspace_lock(profile.folder):
        mend(profile.folder)
        first = {stage: needs & {"data"} for stage, needs in find_stale(profile, data).items() if stage in DATA_STAGES}
        run_stages(profile, first, jobs=0)
        stale = set(stale_stages(read_graph(profile.folder), changed_stages(profile.folder)))
        os.chdir(profile.folder)  # paths of a workspace are relative
        here = open_workspace("params.yaml", PIPELINE)
        cells = missing_cells(here, stale)
        if not cells:
            print("every cell is up to date")
            return
        needs, done = resources(profile.config.training, gpus), []
        try:
            with cluster(address):
                side_by_side = cells_at_once(needs)
                forget(here, stale)  # not before it is sure that they can run
                failures = run_cells(cells, needs, side_by_side, Path.cwd(), done)
        finally:
            commit(Path.cwd(), done, stale)
    if failures:
        (arm, seed), cause = next(iter(failures.items()))
        raise PipelineError(f"{len(failures)} of {len(cells)} cells failed; {arm}, seed {seed}: {cause}")
    print(f"{len(done)} cells are done; `make repro PROFILE={here.config.profile}` makes the tables and figures")


def missing_cells(here: Workspace, stale: set[str]) -> list[Cell]:
    """The cells of the grid that DVC calls stale in any of their stages."""
    return [cell for cell in grid_cells(here) if set(stages_of(cell)) & stale]


def stages_of(cell: Cell) -> tuple[str, str, str]:
    arm, seed = cell
    return f"burn_in@{seed}", f"train@{arm}-{seed}", f"evaluate@{arm}-{seed}"


def outputs_of(here: Workspace, cell: Cell) -> tuple[list[Path], list[Path], list[Path]]:
    """The files that each of a cell's stages writes, in the order of `stages_of`."""
    model, folder = here.model(*cell), here.run(*cell)
    judged = ("metrics.json", "scores.json", "predictions.parquet", "pseudo_labels.parquet", "examples.npz")
    return ([here.burn_in(cell[1])], [model, folder / "train.json", folder / "log.jsonl"],
            [model.with_name("keypoints.json"), *(folder / name for name in judged)])


def forget(here: Workspace, stale: set[str]) -> None:
    """Removes what stale stages once wrote, as DVC does before it runs them; resume states stay, and know their own.

    All of it: by an old record beside weights that a killed cell had just saved, its next try would call itself done.
    """
    for cell in grid_cells(here):
        for stage, outputs in zip(stages_of(cell), outputs_of(here, cell), strict=True):
            if stage in stale:
                for output in outputs:
                    output.unlink(missing_ok=True)


def resources(training: TrainingConfig, gpus: float) -> dict[str, Any]:
    """What Ray sets aside for one cell; raises `PipelineError` where its processes cannot have `gpus` GPUs each.

    A process that trains on a GPU takes one core: `training.num_threads` is for those that train on a CPU.
    """
    name, count = training.device, training.num_processes
    on_gpu = gpus > 0 or name == "cuda" or (name == "auto" and choose_device(name).type == "cuda")
    if gpus % 1 and (gpus > 1 or count > 1):
        raise PipelineError(f"GPUS={gpus:g} for each of a cell's {count} processes: a part of a GPU is for cells of "
                            "one process, and above one Ray sets aside whole GPUs; use GPUS=1")
    cores = 1 if on_gpu and name != "cpu" else training.num_threads
    return {"num_cpus": cores * count, "num_gpus": (gpus or 1.0) * count if on_gpu else 0}


def room(nodes: Sequence[dict[str, Any]], needs: dict[str, Any]) -> int:
    """How many cells fit on the hosts that `ray.nodes()` tells of; a cell lies on one of them."""
    wanted = {kind: amount for kind, amount in (("CPU", needs["num_cpus"]), ("GPU", needs["num_gpus"])) if amount}
    return sum(min(int(node["Resources"].get(kind, 0) / amount) for kind, amount in wanted.items())
               for node in nodes if node["Alive"])


@contextlib.contextmanager
def cluster(address: str) -> Iterator[None]:
    """A connection to the cluster at `address`, or a cluster of this machine that ends with it."""
    try:
        import ray
    except ImportError:
        raise PipelineError("make sweep needs Ray, an extra: install the package as ssl_pose[sweep]") from None
    try:
        ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False)
    except ConnectionError as error:
        raise PipelineError(f"no Ray cluster answers at {address}: start one with `ray start --head` "
                            f"({' '.join(str(error).split())[:120]})") from None
    try:
        yield
    finally:
        ray.shutdown()


def cells_at_once(needs: dict[str, Any]) -> int:
    """How many cells run side by side on the cluster; raises `PipelineError` if no host has room for one."""
    import ray

    if count := room(ray.nodes(), needs):
        return count
    total = ray.cluster_resources()
    raise PipelineError(f"no cell fits on one host: each needs {needs['num_cpus']} cores and {needs['num_gpus']} "
                        f"GPUs, all hosts have {total.get('CPU', 0):g} and {total.get('GPU', 0):g}")


def run_cells(
    cells: list[Cell], needs: dict[str, Any], side_by_side: int, folder: Path, done: list[Cell]
) -> dict[Cell, str]:
    """Runs `cells` of the profile in `folder` on the cluster; fills `done`, returns the others with their cause."""
    import ray

    task = ray.remote(max_retries=RETRIES, **needs)(train_cell)
    waiting = {task.options(name=f"{arm}-{seed}").remote(str(folder), (arm, seed), needs["num_gpus"]):
               (arm, seed) for arm, seed in cells}
    progress = Progress(folder / "work" / "durations.json", [_label(cell) for cell in cells], side_by_side)
    failures: dict[Cell, str] = {}
    try:
        while waiting:
            for ended in ray.wait(list(waiting), timeout=POLL_SECONDS)[0]:
                cell = waiting.pop(ended)
                try:
                    progress.started[_label(cell)] = time.monotonic() - ray.get(ended)
                    done.append(cell)
                except ray.exceptions.RayError as error:
                    failures[cell] = cause(error)
                progress.finish(_label(cell))
            progress.show({})
    finally:
        progress.close()
    return failures


def train_cell(folder: str, cell: Cell, gpus: float) -> float:
    """One cell in a process of the cluster that has so many GPUs, or a share of one; returns its seconds."""
    began = time.monotonic()
    os.environ[GPU_SHARE] = str(gpus if 0 < gpus < 1 else 1)
    os.chdir(folder)
    run_cell(open_workspace("params.yaml", PIPELINE), cell)
    return time.monotonic() - began


def cause(error: Exception) -> str:
    """Why a cell failed, as one line: its own error, or that its process died too often."""
    origin = getattr(error, "cause", None)
    if origin is not None:
        return " ".join(str(origin).split())
    return f"its process died {RETRIES + 1} times ({type(error).__name__}); out of memory?"


def commit(folder: Path, done: list[Cell], stale: set[str]) -> None:
    """Tells DVC that the stages of the cells in `done` are up to date."""
    if stages := sorted({stage for cell in done for stage in stages_of(cell)} & stale):
        dvc(folder, "commit", "--force", *stages)


def _label(cell: Cell) -> str:
    return f"cell@{cell[0]}-{cell[1]}"

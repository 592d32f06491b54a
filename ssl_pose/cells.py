"""[I/O] Cells of the grid, each one (arm, seed), through the library alone: no notebook, no DVC, no network.

For machines that have neither, and for many cells at once: a process trains one cell after another and pays the
start-up once. The files are those of the stages `burn_in`, `train` and `evaluate`, so that `dvc commit` in the
profile's folder makes the pipeline see them as done. A cell that is done is left alone; one that was interrupted
goes on from its state.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from ssl_pose.config import GPU_SHARE
from ssl_pose.crops import CropSet, load_crops
from ssl_pose.judging import evaluate_run, evaluation_fingerprint
from ssl_pose.lifeline import end_with_parent
from ssl_pose.made import is_stale, made_with, note_made
from ssl_pose.pipeline import find_photos, workspace_lock
from ssl_pose.preparation import SPLITS, data_fingerprint, pack_persons, render_photos, select_persons
from ssl_pose.profiles import open_profile
from ssl_pose.scheduling import OUT_OF_MEMORY, PipelineError, fitting_jobs, is_out_of_memory, share_gpu
from ssl_pose.splits import arm_labels, make_split, read_split, split_fingerprint
from ssl_pose.training import burn_in, burn_in_fingerprint, run_fingerprint, train_run
from ssl_pose.workspace import PIPELINE, Workspace, open_workspace

Cell = tuple[str, int]  # arm, seed


def grid_cells(here: Workspace) -> list[Cell]:
    """Every cell of the profile, seed by seed, so that whole replicates are there first."""
    return [(arm, seed) for seed in here.config.seeds for arm in here.config.grid]


def is_trained(here: Workspace, cell: Cell) -> bool:
    """Whether the cell's weights and record are there, made with the numbers of this configuration.

    By whichever code: on a machine without DVC a new comment in the library must not throw a week's cells away. Where
    there is DVC, it compares the code without its prose and says what is stale.
    """
    record = here.run(*cell) / "train.json"
    return (here.model(*cell).exists() and record.exists()
            and json.loads(record.read_text())["config_sha"] == run_fingerprint(here.config, *cell))


def is_evaluated(here: Workspace, cell: Cell) -> bool:
    """Whether the cell's metrics are noted to be of these weights, judged by the numbers of this configuration.

    Metrics without a note, from git or of an older version, may be of any weights: they are made anew.
    """
    return made_with(here, here.run(*cell) / "metrics.json") == evaluation_fingerprint(here.config, *cell,
                                                                                       here.model(*cell))


def run_cell(here: Workspace, cell: Cell) -> Cell:
    """Burn-in if it is missing, training and evaluation of one cell; needs packed crops and the seed's split."""
    with _memory_told(cell):
        _train_and_judge(here, *cell)
    return cell


def _train_and_judge(here: Workspace, arm: str, seed: int) -> None:
    train = load_crops(here.crops("train"))
    split = read_split(here.split(seed), train)
    model, folder = here.model(arm, seed), here.run(arm, seed)
    if not is_trained(here, (arm, seed)):
        (folder / "metrics.json").unlink(missing_ok=True)  # of other weights
        start = ensure_burn_in(here, seed, train, split)
        labeled = arm_labels(here.config.arm(arm), split, train, here.config.splits, seed)
        train_run(here.config, arm, seed, train, labeled, start, model, folder, here.state(arm, f"seed-{seed}"))
    if not is_evaluated(here, (arm, seed)):
        evaluate_run(here.config, arm, seed, train, load_crops(here.crops("val")), split, model, folder)
        note_made(here, folder / "metrics.json", evaluation_fingerprint(here.config, arm, seed, model))


@contextmanager
def _memory_told(cell: Cell) -> Iterator[None]:
    """Makes the error of a full memory, of the host or of a GPU, one line for users."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not is_out_of_memory(type(error).__name__, text):
            raise
        raise PipelineError(f"{cell[0]}, seed {cell[1]}: out of memory ({text}); {OUT_OF_MEMORY}") from None


def ensure_data(here: Workspace) -> None:
    """Crops and splits where they are missing or of other numbers; what else their stages write, for the report, is
    left to them."""
    config = here.config
    if any(is_stale(here, here.crops(split) / "manifest.json", data_fingerprint(config)) for split in SPLITS):
        find_photos(here.root, config)
        render_photos(here)
        pack_persons(here, select_persons(here)[0])
    crops = load_crops(here.crops("train"))
    for seed in config.seeds:
        path, numbers = here.split(seed), split_fingerprint(crops, config.splits)
        if is_stale(here, path, numbers):
            make_split(path, crops, config.splits, seed)
            note_made(here, path, numbers)


def ensure_burn_in(here: Workspace, seed: int, train: CropSet, split: np.ndarray) -> Path:
    """The seed's burn-in; the first of several processes that ask makes it, the others wait."""
    path, numbers = here.burn_in(seed), burn_in_fingerprint(here.config, seed)
    with _one_at_a_time(path.with_suffix(".lock")):
        if is_stale(here, path, numbers):
            burn_in(here.config, seed, train, split, path, here.state("burn_in", f"seed-{seed}"))
            note_made(here, path, numbers)
    return path


def run_profile(
    name: str, jobs: int = 0, arms: Sequence[str] = (), evaluate_only: bool = False, data: str = ""
) -> None:
    """Runs every cell of a profile that is not done, `jobs` at a time (0: as many as fit), and says so.

    `arms` keeps only those named. With `evaluate_only`, cells that are not trained are left alone. Data and splits
    are made where they are missing or of other numbers; `data` is the COCO directory of a profile that reads photos.
    """
    profile = open_profile(name)
    for arm in arms:
        profile.config.arm(arm)  # refuses a name that is not in the grid
    with workspace_lock(profile.folder):
        if data:
            find_photos(profile.folder, profile.config, data)
        os.chdir(profile.folder)  # paths of a workspace are relative
        here = open_workspace("params.yaml", PIPELINE)
        ensure_data(here)
        cells = [cell for cell in grid_cells(here) if not arms or cell[0] in arms]
        cells = [cell for cell in cells if is_trained(here, cell)] if evaluate_only else cells
        waiting = [cell for cell in cells if not (is_trained(here, cell) and is_evaluated(here, cell))]
        training = profile.config.training
        jobs = jobs or fitting_jobs(training.num_threads * training.num_processes, training.device)
        for number, (arm, seed) in enumerate(run_cells(waiting, jobs), start=1):
            print(f"[{number}/{len(waiting)}] {arm}, seed {seed}", flush=True)
    print(f"{len(cells)} cells of {name} are done; `dvc commit` in {profile.folder.name} tells the pipeline")


def run_cells(cells: Sequence[Cell], jobs: int) -> Iterator[Cell]:
    """Runs `cells` of the current folder's profile in `jobs` processes; yields each as it ends.

    The first failure is raised after the cells that are under way have ended. Those on a GPU count on their share of
    its memory.
    """
    share = share_gpu(jobs, len(cells))
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of a process that runs torch
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(share,)) as pool:
        waiting = [pool.submit(_run_here, cell) for cell in cells]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BrokenProcessPool:
            raise PipelineError(f"a process that trains cells was killed; {OUT_OF_MEMORY}") from None
        except KeyboardInterrupt:  # SIGTERM too
            _stop(multiprocessing.active_children())
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _stop(workers: Sequence[BaseProcess]) -> None:
    """Ends processes, whose cells save their state; asked again, since each takes one cell more from its queue."""
    while alive := [worker for worker in workers if worker.is_alive()]:
        for worker in alive:
            worker.terminate()
        alive[0].join(timeout=1.0)


def _begin(gpu_share: float) -> None:
    """What a process does before its first cell."""
    end_with_parent()
    os.environ[GPU_SHARE] = str(gpu_share)


def _run_here(cell: Cell) -> Cell:
    return run_cell(open_workspace("params.yaml", PIPELINE), cell)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

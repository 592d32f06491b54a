"""Cells without notebooks and DVC: the pipeline's files, done cells left alone, changed numbers run anew."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import ssl_pose.cells as cells_module
from ssl_pose.cells import ensure_data, grid_cells, is_evaluated, is_trained, run_cell, run_cells, run_profile
from ssl_pose.coco import DataError, load_persons
from ssl_pose.config import GPU_SHARE, override
from ssl_pose.crops import load_crops
from ssl_pose.made import note_made
from ssl_pose.packing import pack_crops
from ssl_pose.pipeline import workspace_lock
from ssl_pose.preparation import pack_persons, select_persons
from ssl_pose.profiles import Profile
from ssl_pose.scheduling import PipelineError
from ssl_pose.splits import make_split, split_fingerprint, split_labels, write_split
from ssl_pose.training import burn_in, burn_in_fingerprint
from ssl_pose.workspace import PIPELINE, REPOSITORY, Workspace, open_workspace

SMALL = {
    "data.source": "coco", "splits.label_count": 2, "training.burn_in_steps": 2, "training.steps": 3,
    "training.labeled_batch": 2, "training.unlabeled_batch": 2, "model.width": 4, "evaluation.num_pseudo_persons": 3,
    "evaluation.num_views": 1,
}
RUN_FILES = ("train.json", "log.jsonl", "metrics.json", "scores.json", "predictions.parquet", "pseudo_labels.parquet",
             "examples.npz")


@pytest.fixture
def here(tmp_path: Path, coco_directory, monkeypatch) -> Workspace:
    """A folder with a profile whose data and splits are ready."""
    directory, folder = coco_directory(num_images=5), tmp_path / "profile"
    folder.mkdir()
    smoke = yaml.safe_load((REPOSITORY / "profiles" / "smoke" / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(override(smoke, SMALL)))
    monkeypatch.chdir(folder)
    here = open_workspace("params.yaml", PIPELINE)
    config = here.config
    for split in ("train", "val"):
        persons = load_persons(directory, f"{split}2017")
        pack_crops(directory, persons, here.crops(split), config.data.input_size, 1.5, 1.25)
    crops = load_crops(here.crops("train"))
    labeled = split_labels(crops.image_id, crops.annotation_id, 2, 0)
    write_split(here.split(0), crops, labeled, label_count=2, seed=0, method="hash", unit="image")
    return here


def test_a_cell_leaves_the_files_of_its_stages_and_is_done_but_once(here: Workspace):
    cell = ("dual_student_refine", 0)
    assert cell in grid_cells(here)
    assert not is_trained(here, cell)
    run_cell(here, cell)
    assert all((here.run(*cell) / name).exists() for name in RUN_FILES)
    assert here.model(*cell).with_name("keypoints.json").exists()
    assert is_trained(here, cell)
    assert is_evaluated(here, cell)
    before = here.model(*cell).stat().st_mtime_ns, (here.run(*cell) / "metrics.json").stat().st_mtime_ns
    run_cell(here, cell)
    assert before == (here.model(*cell).stat().st_mtime_ns, (here.run(*cell) / "metrics.json").stat().st_mtime_ns)


def test_the_cells_of_a_profile_are_not_run_twice_at_once(here: Workspace, monkeypatch):
    monkeypatch.setattr(cells_module, "open_profile", lambda name: Profile(Path.cwd(), here.config))
    with workspace_lock(Path.cwd()), pytest.raises(PipelineError, match="another run is at work in profile; wait"):
        run_profile("profile")


def test_photos_are_where_data_says_and_stay_there(here: Workspace, coco_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cells_module, "open_profile", lambda name: Profile(tmp_path / "profile", here.config))
    monkeypatch.setattr(cells_module, "run_cells", lambda cells, jobs: cells)
    shutil.rmtree("work")
    with pytest.raises(PipelineError, match="this profile reads photos: say where they are with DATA="):
        run_profile("profile")
    coco_directory(num_images=5, name="photos")
    monkeypatch.chdir(tmp_path)
    run_profile("profile", data="photos", arms=("full",))
    assert here.coco.resolve() == tmp_path / "photos"
    shutil.rmtree(here.crops("train"))
    run_profile("profile", arms=("full",))
    assert load_crops(here.crops("train"))
    assert capsys.readouterr().out.endswith("1 cells of profile are done; `dvc commit` in profile tells the pipeline\n")


def test_missing_data_and_splits_are_made_once_as_their_stages_make_them(here: Workspace, coco_directory):
    made = load_crops(here.crops("train")), here.split(0).read_bytes()
    shutil.rmtree("work")
    here.coco.parent.mkdir()
    here.coco.symlink_to(coco_directory(num_images=5, name="again"))
    ensure_data(here)
    again = load_crops(here.crops("train"), verify=True)
    assert again.content_sha256 == made[0].content_sha256
    assert here.split(0).read_bytes() == made[1]
    before = here.split(0).stat().st_mtime_ns, (here.crops("val") / "manifest.json").stat().st_mtime_ns
    ensure_data(here)
    assert before == (here.split(0).stat().st_mtime_ns, (here.crops("val") / "manifest.json").stat().st_mtime_ns)


def test_data_splits_and_burn_ins_of_other_numbers_are_made_anew(here: Workspace, coco_directory):
    shutil.rmtree("work")
    here.coco.parent.mkdir()
    here.coco.symlink_to(coco_directory(num_images=5, name="again"))
    ensure_data(here)
    run_cell(here, ("supervised", 0))
    burn_in, split = here.burn_in(0).read_bytes(), here.split(0).read_bytes()
    crops = len(load_crops(here.crops("train")))
    config = here.config
    for changes in ({"training": replace(config.training, burn_in_steps=3)},
                    {"splits": replace(config.splits, label_count=1)}):
        other = replace(here, config=replace(config, **changes))
        ensure_data(other)
        run_cell(other, ("supervised", 0))
        assert (here.split(0).read_bytes() != split) == ("splits" in changes)
        assert here.burn_in(0).read_bytes() != burn_in
    fewer = replace(here, config=replace(config, data=replace(config.data, max_train_persons=crops - 1)))
    ensure_data(fewer)
    assert len(load_crops(here.crops("train"))) == crops - 1


def test_what_the_stages_made_is_made_anew_for_other_numbers(here: Workspace, coco_directory):
    """Packed, drawn and burnt in as the notebooks do, with the notes that they leave."""
    here.coco.symlink_to(coco_directory(num_images=5, name="again"))
    pack_persons(here, select_persons(here)[0])
    config, crops = here.config, load_crops(here.crops("train"))
    split = make_split(here.split(0), crops, config.splits, 0)
    note_made(here, here.split(0), split_fingerprint(crops, config.splits))
    burn_in(config, 0, crops, split, here.burn_in(0), here.state("burn_in", "seed-0"))
    note_made(here, here.burn_in(0), burn_in_fingerprint(config, 0))
    before = here.burn_in(0).read_bytes()
    longer = replace(here, config=replace(config, training=replace(config.training, burn_in_steps=3)))
    run_cell(longer, ("supervised", 0))
    assert here.burn_in(0).read_bytes() != before
    larger = replace(here, config=replace(config, data=replace(config.data, input_size=(96, 64))))
    with pytest.raises(DataError, match=r"packed for an input of 64x48 .* ask for 96x64"):
        run_cell(larger, ("supervised", 0))
    ensure_data(larger)
    assert load_crops(here.crops("train")).input_size == (96, 64)


def test_a_cell_of_other_numbers_is_not_done_and_a_title_is_no_number(here: Workspace):
    cell = ("supervised", 0)
    run_cell(here, cell)
    longer = replace(here, config=replace(here.config, training=replace(here.config.training, steps=4)))
    assert not is_trained(longer, cell)
    arms = here.config.arms | {"supervised": replace(here.config.arm("supervised"), title="Labels alone")}
    assert is_trained(replace(here, config=replace(here.config, arms=arms)), cell)


def test_a_cell_that_is_trained_anew_is_judged_anew_though_the_clock_was_set_back(here: Workspace):
    cell = ("supervised", 0)
    run_cell(here, cell)
    metrics = here.run(*cell) / "metrics.json"
    metrics.write_text("of other weights")
    os.utime(metrics, (4_000_000_000, 4_000_000_000))  # written before the clock was set back
    longer = replace(here, config=replace(here.config, training=replace(here.config.training, steps=4)))
    run_cell(longer, cell)
    assert json.loads(metrics.read_text())


def test_a_cell_is_judged_anew_by_other_numbers_and_where_nothing_tells_of_which_weights_its_metrics_are(
    here: Workspace,
):
    cell = ("supervised", 0)
    run_cell(here, cell)
    metrics = here.run(*cell) / "metrics.json"
    first, weights = metrics.read_bytes(), here.model(*cell).read_bytes()
    other = replace(here, config=replace(here.config, evaluation=replace(here.config.evaluation, decoder="argmax")))
    assert is_trained(other, cell)
    assert not is_evaluated(other, cell)
    run_cell(other, cell)
    assert is_evaluated(other, cell)
    assert not is_evaluated(here, cell)
    assert here.model(*cell).read_bytes() == weights
    metrics.write_bytes(first)  # as git would bring it back
    assert not is_evaluated(here, cell)
    run_cell(here, cell)
    assert is_evaluated(here, cell)
    assert metrics.read_bytes() == first


def test_an_arm_with_a_label_count_of_its_own_is_burnt_in_and_judged_with_it(here: Workspace):
    arms = here.config.arms | {"supervised": replace(here.config.arm("supervised"), label_count=4)}
    more = replace(here, config=replace(here.config, arms=arms))
    run_cell(more, ("supervised", 0))
    record = json.loads((here.run("supervised", 0) / "train.json").read_text())
    assert record["num_labeled"] == 8  # four photos of two persons


def test_cells_side_by_side_end_as_the_same_cells_one_by_one(here: Workspace):
    cells = [("supervised", 0), ("teacher_student", 0)]
    assert sorted(run_cells(cells, jobs=2)) == sorted(cells)
    found = [here.model(*cell).read_bytes() for cell in cells]
    for cell in cells:
        here.model(*cell).unlink()
        run_cell(here, cell)
    assert found == [here.model(*cell).read_bytes() for cell in cells]


def told_gpu_share(cell: tuple[str, int]) -> float:
    return float(os.environ[GPU_SHARE])


@pytest.mark.parametrize(("jobs", "of_all", "share"), [(1, None, 1.0), (2, "0.5", 0.25), (8, None, 0.5)])
def test_cells_side_by_side_count_on_their_share_of_a_gpus_memory(jobs, of_all, share, monkeypatch):
    """Two processes that each saw the whole memory free would each take half of it."""
    monkeypatch.delenv(GPU_SHARE, raising=False)
    if of_all:
        monkeypatch.setenv(GPU_SHARE, of_all)
    monkeypatch.setattr(cells_module, "_run_here", told_gpu_share)
    assert list(run_cells([("supervised", 0), ("full", 0)], jobs)) == [share, share]


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB"), MemoryError("Unable to allocate 2 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes"),
], ids=["gpu", "numpy", "torch"])
def test_a_full_memory_is_one_line_with_what_to_lower(here: Workspace, monkeypatch, error: Exception):
    def full(*given):
        raise error

    monkeypatch.setattr(cells_module, "train_run", full)
    with pytest.raises(PipelineError, match=r"supervised, seed 0: out of memory .*llocat.*lower the batch") as told:
        run_cell(here, ("supervised", 0))
    assert "\n" not in str(told.value)


def test_another_error_of_torch_stays_what_it_is(here: Workspace, monkeypatch):
    monkeypatch.setattr(cells_module, "train_run", lambda *given: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        run_cell(here, ("supervised", 0))


def test_a_worker_that_is_killed_is_one_line(here: Workspace):
    def kill() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        workers[0].kill()

    threading.Thread(target=kill).start()
    with pytest.raises(PipelineError, match="a process that trains cells was killed; if memory ran out, lower"):
        list(run_cells([("supervised", 0), ("teacher_student", 0)], jobs=1))


def test_cells_that_are_told_to_stop_save_their_state_and_do_not_run_to_their_end(here: Workspace):
    """A run of a hundred thousand steps, which saves at its end or when it is stopped."""
    numbers = yaml.safe_load(Path("params.yaml").read_text())
    long = {"training.steps": 100_000, "training.checkpoint_every": 100_000, "training.log_every": 1}
    Path("params.yaml").write_text(yaml.safe_dump(override(numbers, long)))
    script = ("import signal; from ssl_pose.cells import run_cells; "
              "signal.signal(signal.SIGTERM, signal.default_int_handler); "
              "list(run_cells([('supervised', 0), ('teacher_student', 0)], 1))")
    running = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert next(line for line in running.stdout if line.startswith("supervised, seed 0: step"))
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) != 0
    assert list(here.state("supervised", "seed-0").iterdir())
    assert not here.model("supervised", 0).exists()
    assert not here.run("teacher_student", 0).exists()

"""The grid on a Ray cluster: what is missing runs, a killed worker's cell goes on, and DVC finds all up to date."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

import ssl_pose.sweep as sweep_module
from ssl_pose.cells import is_trained
from ssl_pose.config import GPU_SHARE, load_config
from ssl_pose.pipeline import changed_stages
from ssl_pose.profiles import Profile
from ssl_pose.scheduling import PipelineError
from ssl_pose.sweep import (
    cause,
    cells_at_once,
    cluster,
    forget,
    missing_cells,
    outputs_of,
    resources,
    room,
    run_cells,
    stages_of,
)
from ssl_pose.training import run_fingerprint
from ssl_pose.workspace import Workspace
from tests.test_pipeline import Copy

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("supervised", "teacher_student", "dual_student")


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    config = replace(load_config(ROOT / "params.yaml"), grid=("supervised", "full"), seeds=(0, 1))
    return Workspace(config, tmp_path, tmp_path, {})


def test_a_cell_is_missing_if_any_of_its_three_stages_is_stale(here: Workspace):
    assert stages_of(("full", 1)) == ("burn_in@1", "train@full-1", "evaluate@full-1")
    assert missing_cells(here, set()) == []
    assert missing_cells(here, {"evaluate@full-1", "report"}) == [("full", 1)]
    assert missing_cells(here, {"burn_in@0"}) == [("supervised", 0), ("full", 0)]


def test_what_stale_stages_wrote_is_removed_and_all_else_stays(here: Workspace):
    cell, other = (outputs_of(here, (arm, 0)) for arm in ("full", "supervised"))
    state = here.state("full", "seed-0") / "state.pt"
    for path in (state, *itertools.chain(*cell, *other)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    forget(here, {"train@full-0", "evaluate@full-0"})
    assert not [path for path in (*cell[1], *cell[2]) if path.exists()]
    assert all(path.exists() for path in (state, *cell[0], *itertools.chain(*other)))


def test_what_is_removed_of_a_stage_is_what_dvc_would_remove(here: Workspace):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, outputs in zip(("burn_in", "train", "evaluate"), outputs_of(here, ("full", 1)), strict=True):
        entries = stages[name]["outs"] + stages[name].get("metrics", [])
        told = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
        for word, value in (("profile", here.config.profile), ("item.arm", "full"), ("item.seed", "1")):
            told = {path.replace(f"${{{word}}}", value) for path in told}
        assert {str(path.relative_to(here.root)) for path in outputs} == told


def test_a_stale_cell_that_was_killed_between_its_weights_and_its_record_is_not_taken_for_trained(here: Workspace):
    cell = ("full", 0)
    model, record = here.model(*cell), here.run(*cell) / "train.json"
    for path in (model, record):
        path.parent.mkdir(parents=True, exist_ok=True)
    model.touch()
    record.write_text(json.dumps({"config_sha": run_fingerprint(here.config, *cell)}))
    assert is_trained(here, cell)
    forget(here, {"train@full-0"})  # stale by its data or its code: the numbers are the same
    model.touch()  # what the kill left
    assert not is_trained(here, cell)


def test_nothing_is_removed_where_no_cluster_is_reached(here: Workspace, tmp_path: Path, monkeypatch):
    stages = {stage for cell in (("full", 0), ("supervised", 0)) for stage in stages_of(cell)}
    for name, answer in {"find_stale": {}, "run_stages": None, "read_graph": {}, "changed_stages": set(), "mend": None,
                         "stale_stages": stages, "open_workspace": here}.items():
        monkeypatch.setattr(sweep_module, name, lambda *given, answer=answer, **options: answer)
    monkeypatch.chdir(tmp_path)
    outputs = [here.burn_in(0), here.model("full", 0), here.run("full", 0) / "metrics.json"]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PipelineError, match="needs Ray"):
        sweep_module.sweep(Profile(tmp_path, here.config))
    assert all(path.exists() for path in outputs)


def test_a_cell_takes_its_threads_and_the_share_of_a_gpu_that_was_asked_for():
    training = replace(load_config(ROOT / "params.yaml").training, device="cpu", num_threads=8, num_processes=3)
    assert resources(training, 0.0) == {"num_cpus": 24, "num_gpus": 0}
    assert resources(replace(training, device="auto"), 1.0) == {"num_cpus": 3, "num_gpus": 3.0}  # each process one
    assert resources(replace(training, device="cuda"), 0.0) == {"num_cpus": 3, "num_gpus": 3.0}
    assert resources(replace(training, num_processes=1), 0.5) == {"num_cpus": 8, "num_gpus": 0.5}  # trains on a CPU


def test_a_quarter_of_a_gpu_lets_four_cells_run_side_by_side_whatever_threads_a_cpu_would_use():
    training = replace(load_config(ROOT / "params.yaml").training, device="cuda", num_threads=8, num_processes=1)
    assert room([{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 1.0}}], resources(training, 0.25)) == 4


@pytest.mark.parametrize(("count", "gpus"), [(2, 0.5), (3, 0.5), (2, 1.5), (1, 1.5)])
def test_a_part_of_a_gpu_is_refused_where_a_cell_has_several_processes_or_takes_more_than_one(count: int, gpus: float):
    training = replace(load_config(ROOT / "params.yaml").training, device="cuda", num_processes=count)
    with pytest.raises(PipelineError, match=rf"^GPUS={gpus} for each of a cell's {count} processes: .*; use GPUS=1$"):
        resources(training, gpus)


def test_a_cell_fits_on_one_host_or_not_at_all():
    hosts = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}, {"Alive": True, "Resources": {"CPU": 6.0}},
             {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    assert room(hosts, {"num_cpus": 2, "num_gpus": 0}) == 2 + 3
    assert room(hosts, {"num_cpus": 1, "num_gpus": 0.5}) == 2
    assert room(hosts, {"num_cpus": 8, "num_gpus": 0}) == 0  # though both together have ten


def test_a_missing_ray_and_a_failed_cell_are_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PipelineError, match=r"needs Ray, an extra: install .* ssl_pose\[sweep\]"), cluster(""):
        pass
    own = RuntimeError("wrapped")
    own.cause = ValueError("full, seed 0: the loss became\ninfinite")
    assert cause(own) == "full, seed 0: the loss became infinite"
    assert cause(OSError()) == "its process died 4 times (OSError); out of memory?"


def shrink(copy: Copy) -> None:
    """Three arms, long enough to be killed in the middle."""
    path = copy.smoke / "params.yaml"
    text = re.sub(r"^grid:.*?\n\n", "grid:\n" + "".join(f"  - {arm}\n" for arm in ARMS) + "\n", path.read_text(),
                  flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^  steps: \d+", "  steps: 60", text, flags=re.MULTILINE)
    path.write_text(re.sub(r"^  checkpoint_every: \d+", "  checkpoint_every: 5", text, flags=re.MULTILINE))


def files_of(copy: Copy) -> dict[str, bytes]:
    """What cells leave, but for train.json, which tells times."""
    paths = [*copy.smoke.glob("work/runs/*/*/*"), *copy.smoke.glob("results/smoke/runs/*/*/*")]
    return {str(path.relative_to(copy.smoke)): path.read_bytes() for path in sorted(paths) if path.name != "train.json"}


def write_times(copy: Copy) -> dict[Path, int]:
    """When each network's weights were written."""
    return {path: path.stat().st_mtime_ns for path in copy.smoke.glob("work/**/*.safetensors")}


class Killer(threading.Thread):
    """Ends, as kill -9 does, the first Ray worker that has saved a state of its cell."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.killed = folder, ""

    def run(self) -> None:
        while not self.killed:
            time.sleep(0.05)
            for state in self.folder.glob("work/state/*/seed-0/state.pt"):
                cell = f"{state.parent.parent.name}-0"
                for process in psutil.process_iter(["cmdline"]):
                    if not self.killed and process.info["cmdline"] and f"ray::{cell}" in process.info["cmdline"][0]:
                        process.kill()
                        self.killed = cell


@pytest.mark.soak
def test_a_sweep_over_two_nodes_survives_a_kill_and_equals_the_serial_result(tmp_path: Path):
    from ray.cluster_utils import Cluster

    (tmp_path / "a").mkdir()
    swept = Copy(tmp_path / "a")
    shrink(swept)
    swept.dvc("repro", "splits")
    shutil.copytree(swept.root, tmp_path / "b", symlinks=True)
    os.environ["PYTHONPATH"] = str(swept.root)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        killer = Killer(swept.smoke)
        killer.start()
        printed = swept.run("sweep", "--address", nodes.address)
    finally:
        nodes.shutdown()
        del os.environ["PYTHONPATH"]
    assert killer.killed
    assert printed.splitlines()[-1].startswith("3 cells are done")
    assert not {stage for stage in changed_stages(swept.smoke) if stage.startswith(("burn_in", "train", "evaluate"))}
    times = write_times(swept)
    swept.dvc("repro", "--single-item", *sorted({stage for arm in ARMS for stage in stages_of((arm, 0))}))
    assert times == write_times(swept) != {}
    assert swept.run("sweep") == "every cell is up to date\n"
    subprocess.run([sys.executable, "-m", "ssl_pose", "cells", "--profile", "smoke", "--jobs", "1"], check=True,
                   cwd=tmp_path / "b", env=os.environ | {"PYTHONPATH": str(tmp_path / "b")})
    serial = Copy.__new__(Copy)
    serial.smoke = tmp_path / "b" / "profiles" / "smoke"
    assert files_of(swept) == files_of(serial)


def meet(here: object, cell: tuple[str, int]) -> None:
    """In place of a cell: waits until two have begun, and tells when it began and ended, and its share of a GPU."""
    began = time.time()
    Path(f"began-{cell[1]}").touch()
    while len(list(Path().glob("began-*"))) < 2 and time.time() < began + 60:
        time.sleep(0.05)
    told = [began, time.time(), float(os.environ[GPU_SHARE])]
    Path(f"told-{cell[1]}.json").write_text(json.dumps(told))


def cell_that_meets(folder: str, cell: tuple[str, int], gpus: float) -> float:
    sweep_module.open_workspace, sweep_module.run_cell = (lambda *given: None), meet  # in a process of the cluster
    return sweep_module.train_cell(folder, cell, gpus)


@pytest.mark.soak
def test_two_cells_of_half_a_gpu_run_side_by_side_on_one_and_a_third_waits(tmp_path: Path, monkeypatch):
    """The GPU is logical: Ray counts it out, and no cell touches it."""
    import ray

    training = replace(load_config(ROOT / "params.yaml").training, device="cuda", num_threads=8, num_processes=1)
    needs, cells, done = resources(training, 0.5), [("full", seed) for seed in range(3)], []
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))  # of the functions above
    monkeypatch.setattr(sweep_module, "train_cell", cell_that_meets)
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        assert cells_at_once(needs) == 2
        assert run_cells(cells, needs, 2, tmp_path, done) == {}
    finally:
        ray.shutdown()
    assert sorted(done) == cells
    began, ended, shares = zip(*(json.loads((tmp_path / f"told-{seed}.json").read_text()) for _, seed in cells),
                               strict=True)
    assert sorted(began)[1] < min(ended) <= max(began)
    assert shares == (0.5, 0.5, 0.5)

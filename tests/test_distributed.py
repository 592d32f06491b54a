"""A run on two processes takes the steps of one, resumes as one does, and ends as a whole when a process dies."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from ssl_pose.batches import draw_labeled, draw_unlabeled, open_pool
from ssl_pose.config import Config, ConfigError, load_config, parse_config
from ssl_pose.crops import load_crops
from ssl_pose.distributed import ALONE, Processes
from ssl_pose.frameworks import STEPS, Setting
from ssl_pose.launching import ProcessError
from ssl_pose.loop import Loop, TrainingError, optimise
from ssl_pose.model import build_model
from ssl_pose.training import burn_in, train_run
from tests.fake_crops import INPUT_SIZE, make_crops, pack

PARAMS = Path(__file__).parent.parent / "params.yaml"
LABELED = np.arange(24) < 8
ARMS = ("full", "teacher_student_refine", "supervised")


def small(steps: int = 24, num_processes: int = 2) -> Config:
    config = load_config(PARAMS)
    training = dataclasses.replace(
        config.training, burn_in_steps=3, steps=steps, labeled_batch=4, unlabeled_batch=4, log_every=3,
        checkpoint_every=2, num_threads=1, num_processes=num_processes, device="cpu",
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, input_size=INPUT_SIZE),
                               training=training, model=dataclasses.replace(config.model, width=4))


def one_step(processes: Processes, arm: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients and running statistics after one step of `arm`, and the means of what the step reports."""
    config = small()
    pool = open_pool(make_crops(8), torch.device("cpu"), rank=processes.rank, num_processes=processes.count)
    method, rows = config.arm(arm), torch.arange(8)
    students = [processes.join_batch_norm(build_model(config.model, seed=index)).train()
                for index in range(method.num_students)]
    for student in students:  # a blank map would hide what flows back
        nn.init.normal_(student.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    learners = [processes.join_gradients(student) for student in students]
    labeled = draw_labeled(pool, rows, config, 0, "run", 0)
    unlabeled = draw_unlabeled(pool, rows, method, config, 0, 0)
    teachers = [processes.join_batch_norm(build_model(config.model, seed=9)) for _ in students]
    model = config.model
    setting = Setting(method, model.heatmap_sigma, model.heatmap_stride, model.heatmap_alignment, "fp32")
    losses = STEPS[method.framework](learners, teachers, labeled, unlabeled, setting)
    losses["loss"].backward()
    found = {f"{i}.{name}": value.grad for i, student in enumerate(students)
             for name, value in student.named_parameters()}
    found |= {f"{i}.{name}": value for i, student in enumerate(students) for name, value in student.named_buffers()}
    return found, {name: processes.mean(value.detach()).item() for name, value in losses.items()}


def step_of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save({arm: one_step(Processes(rank, 2), arm) for arm in ARMS}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_gradients_and_batch_norm_of_two_processes_are_those_of_one_with_the_joined_batch(tmp_path: Path):
    torch.multiprocessing.spawn(step_of_two, (free_port(), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for arm in ARMS:
        expected, means = one_step(ALONE, arm)
        assert means == pytest.approx(first[arm][1], rel=1e-4)
        for name, value in expected.items():
            assert torch.equal(first[arm][0][name], second[arm][0][name]), f"{arm}: {name} differs between processes"
            scale = value.abs().max().clamp(min=1e-6)
            torch.testing.assert_close(first[arm][0][name] / scale, value / scale, atol=1e-4, rtol=0, msg=name)


def optimise_to(num_steps: int, state: Path, processes: Processes) -> str:
    """How a small loop ended that was to go to `num_steps` from the state in `state`."""
    network = nn.Linear(2, 1)
    loop = Loop({"student0": network}, torch.optim.Adam(network.parameters()), processes=processes)
    try:
        optimise(loop, lambda step: {"loss": network(torch.ones(1, 2)).sum()}, None, small().training, num_steps,
                 lambda step: 0.1, state, "key", "full, seed 0")
    except TrainingError as error:
        return str(error)
    return f"ended at step {loop.step}"


def optimise_of_two(rank: int, port: int, folder: Path, states: tuple[str, str]) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    (folder / f"told-{rank}.txt").write_text(optimise_to(5, folder / states[rank], Processes(rank, 2)))
    dist.destroy_process_group()


@pytest.mark.parametrize(("states", "told"), [
    (("whole", "whole"), r"ended at step 5"),
    (("whole", "cut_short"), r"full, seed 0: not all of its processes could read \S+/state\.pt, they stand at steps 0 "
                             r"and 2; run the same command again to continue, or delete that file to begin anew"),
])
def test_processes_go_on_from_the_same_step_or_not_at_all(states: tuple[str, str], told: str, tmp_path: Path):
    """Another's file stands for one that a process alone could not read: it would begin anew as the others go on."""
    optimise_to(2, tmp_path / "whole", ALONE)
    (tmp_path / "cut_short").mkdir()
    (tmp_path / "cut_short" / "state.pt").write_bytes((tmp_path / "whole" / "state.pt").read_bytes()[:100])
    torch.multiprocessing.spawn(optimise_of_two, (free_port(), tmp_path, states), nprocs=2)
    assert [re.fullmatch(told, (tmp_path / f"told-{rank}.txt").read_text()) is None for rank in range(2)] == [False] * 2


def run(config: Config, folder: Path, arm: str = "full") -> dict[str, bytes]:
    """Burn-in on one process and one run of `arm` on as many as `config` says; the bytes of its weights and log."""
    crops = load_crops(pack(make_crops(24), folder.parent / "crops"))
    start = folder / "burn_in.safetensors"
    if not start.exists():
        alone = dataclasses.replace(config.training, num_processes=1)
        burn_in(dataclasses.replace(config, training=alone), 0, crops, LABELED, start, folder / "state" / "burn_in")
    record = train_run(config, arm, 0, crops, LABELED, start, folder / "model.safetensors", folder,
                       folder / "state" / "run")
    assert record["num_processes"] == config.training.num_processes
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "log.jsonl")}


def rows_of(files: dict[str, bytes]) -> list[dict[str, float]]:
    return [json.loads(line) for line in files["log.jsonl"].splitlines()]


class AtStep(threading.Thread):
    """Calls `action` once the run below `folder` has saved a state of at least `step` steps."""

    def __init__(self, folder: Path, step: int, action: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.state, self.step, self.action = folder / "state" / "run" / "state.pt", step, action
        self.start()

    def run(self) -> None:
        while not self.state.exists() or torch.load(self.state, weights_only=True)["step"] < self.step:
            time.sleep(0.02)
        self.action()


def kill_one_process() -> None:
    workers = [child for child in psutil.Process().children(recursive=True) if "worker" in child.cmdline()
               and "torch.distributed.run" not in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a run on two processes that was left alone."""
    return run(small(), tmp_path_factory.mktemp("two") / "whole")


@pytest.mark.parametrize("arm", ["full", "teacher_student_refine"])  # two students, a student and its EMA teacher
def test_a_run_of_which_a_process_was_killed_ends_with_one_line_and_goes_on_to_the_same_bits(arm, tmp_path: Path):
    parts = tmp_path / "parts"
    killer = AtStep(parts, 2, kill_one_process)
    with pytest.raises(ProcessError, match=r"^one of the run's 2 processes was killed .* to continue \(log: \S+\)$"):
        run(small(), parts, arm)
    killer.join()
    assert not (parts / "model.safetensors").exists()
    assert run(small(), parts, arm) == run(small(), tmp_path / "whole", arm)


@pytest.mark.soak
def test_sigterm_stops_all_processes_after_the_same_step_and_the_run_goes_on_to_the_same_bits(whole, tmp_path: Path):
    parts = tmp_path / "parts"
    AtStep(parts, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(ProcessError, match=r"^full, seed 0 stopped by SIGTERM at step \d+; its state is saved"):
        run(small(), parts)
    assert not (parts / "model.safetensors").exists()
    assert run(small(), parts) == whole


def test_two_processes_log_what_one_does(whole, tmp_path: Path):
    """The first rows: later ones drift apart as rounding is amplified by training, which is no error."""
    alone = run(small(num_processes=1), tmp_path / "alone")
    for one, two in zip(rows_of(alone)[:3], rows_of(whole)[:3], strict=True):
        assert one == pytest.approx(two, rel=0.02)


def test_a_batch_that_the_processes_cannot_share_evenly_is_refused():
    with pytest.raises(ConfigError, match=r"training\.unlabeled_batch must be a multiple of num_processes, 3, got 4"):
        parse_config(dataclasses.asdict(dataclasses.replace(
            small(), training=dataclasses.replace(small().training, num_processes=3, labeled_batch=3))))


def test_a_configuration_survives_its_way_to_the_processes():
    assert parse_config(json.loads(json.dumps(dataclasses.asdict(small())))) == small()


def test_processes_need_packed_crops_and_a_gpu_each(tmp_path: Path):
    paths = [tmp_path / name for name in ("start", "model", "results", "state")]
    with pytest.raises(ProcessError, match="needs crops as they were packed"):
        train_run(small(), "full", 0, make_crops(24), LABELED, *paths)
    many = dataclasses.replace(small().training, device="cuda", num_processes=2 + torch.cuda.device_count(),
                               labeled_batch=2 + torch.cuda.device_count())
    with pytest.raises(ProcessError, match=r"num_processes is \d, but \d GPUs are usable here"):
        train_run(dataclasses.replace(small(), training=many), "full", 0, make_crops(24), LABELED, *paths)

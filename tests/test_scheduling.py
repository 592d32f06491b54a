"""Stages run side by side in the order of their dependencies; the first failure stops the others."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from ssl_pose import scheduling
from ssl_pose.config import GPU_SHARE
from ssl_pose.scheduling import PipelineError, Progress, clock, failure, run_side_by_side

Commands = dict[str, str]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Shell commands that stand in for `dvc repro -s <stage>`; each stage notes its start and its end."""
    given: Commands = {}
    (tmp_path / "work").mkdir()

    def start(folder: Path, stage: str, num_threads: int, gpu_share: float, force: bool) -> subprocess.Popen:
        log = scheduling.log_file(folder, stage)
        log.parent.mkdir(exist_ok=True)
        script = f"echo {stage} {gpu_share} >> shares\n"
        script += f"echo start {stage} >> order; {given.get(stage, 'sleep 0.2')} && echo end {stage} >> order"
        with log.open("w") as file:
            return subprocess.Popen(["sh", "-c", script], cwd=folder, stdout=file, stderr=file, start_new_session=True)

    monkeypatch.setattr(scheduling, "start_stage", start)
    return given


def run(folder: Path, stages: dict[str, set[str]], jobs: int = 2) -> list[str]:
    run_side_by_side(folder, stages, jobs, num_threads=1, force=False)
    return (folder / "order").read_text().splitlines()


def test_a_stage_starts_after_all_that_it_depends_on(commands: Commands, tmp_path: Path):
    order = run(tmp_path, {"last": {"left", "right"}, "left": {"first"}, "right": {"first"}, "first": set()})
    assert order[:2] == ["start first", "end first"]
    assert order[-2:] == ["start last", "end last"]


def test_independent_stages_run_side_by_side_but_no_more_than_fit(commands: Commands, tmp_path: Path):
    order = run(tmp_path, {name: set() for name in "abcd"}, jobs=2)
    running = most = 0
    for line in order:
        running += 1 if line.startswith("start") else -1
        most = max(most, running)
    assert most == 2


@pytest.mark.parametrize(("jobs", "of_all", "share"), [(1, "1", "1.0"), (2, "0.5", "0.25"), (9, "1", "0.25")])
def test_stages_side_by_side_count_on_their_share_of_a_gpus_memory(commands: Commands, tmp_path: Path, monkeypatch,
                                                                   jobs: int, of_all: str, share: str):
    """Stages that each saw the whole memory free would together take more than there is."""
    monkeypatch.setenv(GPU_SHARE, of_all)
    run(tmp_path, {name: set() for name in "abcd"}, jobs)
    assert sorted((tmp_path / "shares").read_text().splitlines()) == [f"{name} {share}" for name in "abcd"]


def test_a_stage_is_told_its_threads_and_its_share_of_a_gpu(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scheduling.subprocess, "Popen", lambda command, **how: how["env"])
    told = scheduling.start_stage(tmp_path, "train@full-0", 3, 0.25, force=False)
    assert (told["OMP_NUM_THREADS"], told[GPU_SHARE]) == ("3", "0.25")


def test_a_failure_names_the_stage_and_its_cause_and_stops_the_others(commands: Commands, tmp_path: Path):
    commands |= {"bad": "echo 'error: notebook 40_train, In [3]: the loss became NaN' && false", "slow": "sleep 60"}
    started = time.monotonic()
    with pytest.raises(PipelineError, match=r"stage bad failed: notebook 40_train, In \[3\]: .* NaN \(log: "):
        run(tmp_path, {"slow": set(), "bad": set(), "after": {"bad"}})
    assert time.monotonic() - started < 20
    order = (tmp_path / "order").read_text()
    assert "start after" not in order
    assert "end slow" not in order


def test_our_line_is_shown_before_that_of_dvc_and_a_silent_stage_says_so(tmp_path: Path):
    log = tmp_path / "stage.log"
    for text, shown in [("error: ours\nERROR: failed to reproduce\n", "ours"), ("noise\nERROR: theirs\n", "theirs"),
                        ("", "it printed nothing")]:
        log.write_text(text)
        assert failure(log).startswith(f"{shown} (log: ")


def test_time_left_rests_on_the_last_run_then_on_stages_of_the_same_kind(tmp_path: Path):
    record = tmp_path / "durations.json"
    record.write_text('{"train@a-0": 30, "train@b-0": 10}')
    progress = Progress(record, ["train@a-0", "train@b-0", "train@c-0", "report"], jobs=2)
    assert progress.expected("train@a-0") == 30
    assert progress.expected("train@c-0") == 20
    assert progress.expected("report") == scheduling.OTHER_SECONDS
    assert progress.time_left() == (30 + 10 + 20 + 8) / 2


def test_each_finished_stage_is_one_plain_line_where_no_person_watches(commands: Commands, tmp_path: Path, capsys):
    run(tmp_path, {"first": set(), "second": {"first"}})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/2] first 0:0")
    assert second.startswith("[2/2] second 0:0")
    assert clock(187) == "3:07"

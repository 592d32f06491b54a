"""The loop: same seed same bits, exact resume, and what happens when it must stop."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_pose.training as training_module
from ssl_pose.config import Config, load_config
from ssl_pose.crops import CropSet
from ssl_pose.model import load_networks
from ssl_pose.training import TrainingError, burn_in, train_run
from tests.fake_crops import INPUT_SIZE, make_crops

LABELED = np.arange(24) < 8


@pytest.fixture(scope="module")
def config() -> Config:
    config = load_config(Path(__file__).parent.parent / "params.yaml")
    training = replace(config.training, burn_in_steps=3, steps=8, labeled_batch=4, unlabeled_batch=4, log_every=3,
                       checkpoint_every=2, num_threads=1, device="cpu")
    model = replace(config.model, width=4)
    return replace(config, data=replace(config.data, input_size=INPUT_SIZE), training=training, model=model)


@pytest.fixture(scope="module")
def crops() -> CropSet:
    return make_crops(24)


def run(config: Config, crops: CropSet, folder: Path, arm: str = "full", seed: int = 0) -> dict[str, bytes]:
    """Burn-in and one run below `folder`; the bytes of the weights and of the log."""
    start = folder / "burn_in.safetensors"
    if not start.exists():
        burn_in(config, seed, crops, LABELED, start, folder / "state" / "burn_in")
    train_run(config, arm, seed, crops, LABELED, start, folder / "model.safetensors", folder, folder / "state" / arm)
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "log.jsonl")}


@pytest.mark.parametrize("arm", ["full", "teacher_student_refine", "all_labels"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(config, crops, tmp_path, arm):
    first, second = run(config, crops, tmp_path / "a", arm), run(config, crops, tmp_path / "b", arm)
    assert first == second
    assert run(config, crops, tmp_path / "c", arm, seed=1)["model.safetensors"] != first["model.safetensors"]


@pytest.mark.parametrize("arm", ["full", "teacher_student"])
@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(config, crops, tmp_path, monkeypatch, arm, killed_at):
    """Killed as by kill -9: no chance to save; the state of the last checkpoint is what there is."""
    whole = run(config, crops, tmp_path / "whole", arm)
    real = training_module.draw_labeled

    def killed(pool, rows, settings, seed, phase, step):
        if phase == "run" and step == killed_at:
            raise MemoryError
        return real(pool, rows, settings, seed, phase, step)

    monkeypatch.setattr(training_module, "draw_labeled", killed)
    with pytest.raises(MemoryError):
        run(config, crops, tmp_path / "parts", arm)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    monkeypatch.setattr(training_module, "draw_labeled", real)
    assert run(config, crops, tmp_path / "parts", arm) == whole


def test_sigterm_saves_the_state_says_so_and_the_run_goes_on_from_there(config, crops, tmp_path, monkeypatch):
    whole = run(config, crops, tmp_path / "whole")
    real, seen = training_module.draw_labeled, []

    def terminated(pool, rows, settings, seed, phase, step):
        seen.append(step)
        if phase == "run" and step == 4 and seen.count(4) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(pool, rows, settings, seed, phase, step)

    monkeypatch.setattr(training_module, "draw_labeled", terminated)
    with pytest.raises(TrainingError, match=r"full, seed 0 stopped by SIGTERM at step 5; its state is saved"):
        run(config, crops, tmp_path / "parts")
    seen.clear()
    assert run(config, crops, tmp_path / "parts") == whole
    assert seen[0] == 5


def test_a_state_of_other_numbers_is_not_continued(config, crops, tmp_path):
    run(config, crops, tmp_path)
    other = replace(config, training=replace(config.training, learning_rate=1.0e-4))
    fresh = run(other, crops, tmp_path / "fresh")
    (tmp_path / "burn_in.safetensors").write_bytes((tmp_path / "fresh" / "burn_in.safetensors").read_bytes())
    assert run(other, crops, tmp_path) == fresh


def test_divergence_is_named_and_leaves_the_last_good_state(config, crops, tmp_path, monkeypatch):
    real = training_module.draw_labeled

    def broken(pool, rows, settings, seed, phase, step):
        batch = real(pool, rows, settings, seed, phase, step)
        return replace(batch, heatmaps=batch.heatmaps * torch.nan) if phase == "run" and step >= 4 else batch

    monkeypatch.setattr(training_module, "draw_labeled", broken)
    with pytest.raises(TrainingError, match=r"full, seed 0: the loss became infinite or NaN by step 6;.*") as caught:
        run(config, crops, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()
    state = torch.load(tmp_path / "state" / "full" / "state.pt", weights_only=True)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["networks"]["student0"].values())


def test_a_truncated_state_is_started_anew(config, crops, tmp_path):
    whole = run(config, crops, tmp_path)
    state = tmp_path / "state" / "full" / "state.pt"
    state.write_bytes(state.read_bytes()[:500])
    assert run(config, crops, tmp_path) == whole


def test_teacher_student_saves_student_and_teacher_and_dual_student_both_students(config, crops, tmp_path):
    for arm, count in (("teacher_student", 2), ("full", 2), ("supervised", 1)):
        run(config, crops, tmp_path / arm, arm)
        assert len(load_networks(tmp_path / arm / "model.safetensors", config.model)) == count


def test_the_students_of_a_burn_in_differ(config, crops, tmp_path):
    longer = replace(config, training=replace(config.training, burn_in_steps=30))
    burn_in(longer, 0, crops, LABELED, tmp_path / "start.safetensors", tmp_path / "state")
    first, second = load_networks(tmp_path / "start.safetensors", config.model)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_the_record_says_what_it_takes_to_trust_a_run(config, crops, tmp_path):
    start = tmp_path / "burn_in.safetensors"
    burn_in(config, 0, crops, LABELED, start, tmp_path / "state" / "b")
    record = train_run(config, "full", 0, crops, LABELED, start, tmp_path / "m.safetensors", tmp_path, tmp_path / "s")
    assert record["num_labeled"] == 8
    assert record["num_unlabeled"] == 16
    assert record["data_sha"] == crops.content_sha256
    assert re.fullmatch(r"[0-9a-f]{16}", record["config_sha"])
    assert record["peak_memory_mib"] > 50
    assert torch.__version__.startswith(record["versions"]["torch"])


def test_a_gpu_that_is_not_there_is_one_line(config, crops, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    wanted = replace(config, training=replace(config.training, device="cuda"))
    with pytest.raises(TrainingError, match=r"training\.device is cuda but no GPU"):
        burn_in(wanted, 0, crops, LABELED, tmp_path / "start.safetensors", tmp_path / "state")


def test_a_full_disk_is_named_and_the_state_before_it_stays(config, crops, tmp_path, monkeypatch):
    real, saves = training_module.write_bytes, []

    def full(content, path):
        saves.append(path)
        if len(saves) > 3:  # two states of the burn-in, one of the run
            raise OSError(28, "No space left on device", str(path))
        return real(content, path)

    monkeypatch.setattr(training_module, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(config, crops, tmp_path)
    monkeypatch.setattr(training_module, "write_bytes", real)
    assert torch.load(tmp_path / "state" / "full" / "state.pt", weights_only=True)["step"] == 2
    assert run(config, crops, tmp_path) == run(config, crops, tmp_path / "whole")

"""The loop: same seed same bits, exact resume, and what happens when it must stop."""

import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_pose.loop as loop_module
import ssl_pose.training as training_module
from ssl_pose.config import FRAMEWORKS, Config, Framework, load_config
from ssl_pose.crops import CropSet
from ssl_pose.frameworks import STEPS, add_up, learn, make_pseudo_label
from ssl_pose.loop import TrainingError
from ssl_pose.model import load_networks
from ssl_pose.training import burn_in, count_passes, count_pool, count_steps, train_run
from tests.fake_crops import INPUT_SIZE, make_crops

LABELED, EVERYBODY = np.arange(24) < 8, np.ones(24, dtype=bool)


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


def run(
    config: Config, crops: CropSet, folder: Path, arm: str = "full", seed: int = 0, labeled: np.ndarray = LABELED
) -> dict[str, bytes]:
    """Burn-in and one run below `folder`; the bytes of the weights and of the log."""
    start = folder / "burn_in.safetensors"
    if not start.exists():
        burn_in(config, seed, crops, labeled, start, folder / "state" / "burn_in")
    train_run(config, arm, seed, crops, labeled, start, folder / "model.safetensors", folder, folder / "state" / arm)
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

    def killed(pool, rows, settings, seed, phase, step, *views):
        if phase == "run" and step == killed_at:
            raise MemoryError
        return real(pool, rows, settings, seed, phase, step, *views)

    monkeypatch.setattr(training_module, "draw_labeled", killed)
    with pytest.raises(MemoryError):
        run(config, crops, tmp_path / "parts", arm)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    monkeypatch.setattr(training_module, "draw_labeled", real)
    assert run(config, crops, tmp_path / "parts", arm) == whole


def test_sigterm_saves_the_state_says_so_and_the_run_goes_on_from_there(config, crops, tmp_path, monkeypatch):
    whole = run(config, crops, tmp_path / "whole")
    real, seen = training_module.draw_labeled, []

    def terminated(pool, rows, settings, seed, phase, step, *views):
        seen.append(step)
        if phase == "run" and step == 4 and seen.count(4) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(pool, rows, settings, seed, phase, step, *views)

    monkeypatch.setattr(training_module, "draw_labeled", terminated)
    with pytest.raises(TrainingError, match=r"full, seed 0 stopped by SIGTERM at step 5; its state is saved"):
        run(config, crops, tmp_path / "parts")
    seen.clear()
    assert run(config, crops, tmp_path / "parts") == whole
    assert seen[0] == 5


@pytest.mark.parametrize("arm", ["full", "pseudo_pose"])
def test_the_seconds_of_a_resumed_run_are_those_of_all_its_sessions(config, crops, tmp_path, monkeypatch, arm):
    """An hour is put into each state: the teacher's, where the arm has one, and the run's own."""
    frozen = replace(config.arm("teacher_student"), label_source="frozen")
    config = replace(config, arms=config.arms | {"pseudo_pose": frozen})
    run(config, crops, tmp_path, arm)
    record, states = tmp_path / "train.json", sorted((tmp_path / "state" / arm).rglob("state.pt"))
    assert len(states) == (2 if arm == "pseudo_pose" else 1)
    before = json.loads(record.read_text())["wall_seconds"]
    for state in states:
        content = torch.load(state, weights_only=True)
        assert 0 < content["seconds"] <= before + 0.1
        torch.save(content | {"seconds": 3600.0}, state)
    monkeypatch.setattr(training_module, "describe_code", lambda: time.sleep(0.1) or {})  # the record has tenths
    run(config, crops, tmp_path, arm)
    hours = 3600.0 * len(states)
    assert hours < json.loads(record.read_text())["wall_seconds"] < hours + 600


def test_a_state_of_other_numbers_is_not_continued(config, crops, tmp_path):
    run(config, crops, tmp_path)
    other = replace(config, training=replace(config.training, learning_rate=1.0e-4))
    fresh = run(other, crops, tmp_path / "fresh")
    (tmp_path / "burn_in.safetensors").write_bytes((tmp_path / "fresh" / "burn_in.safetensors").read_bytes())
    assert run(other, crops, tmp_path) == fresh


def test_divergence_is_named_and_leaves_the_last_good_state(config, crops, tmp_path, monkeypatch):
    real = training_module.draw_labeled

    def broken(pool, rows, settings, seed, phase, step, *views):
        batch = real(pool, rows, settings, seed, phase, step, *views)
        return replace(batch, heatmaps=batch.heatmaps * torch.nan) if phase == "run" and step >= 4 else batch

    monkeypatch.setattr(training_module, "draw_labeled", broken)
    with pytest.raises(TrainingError, match=r"full, seed 0: the loss became infinite or NaN by step 6;.*") as caught:
        run(config, crops, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()
    state = torch.load(tmp_path / "state" / "full" / "state.pt", weights_only=True)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["networks"]["student0"].values())


def test_a_weight_that_overflows_behind_a_finite_loss_is_named_too(config, crops, tmp_path, monkeypatch):
    real = loop_module.Meter.add

    def overflow(meter, losses):
        real(meter, losses)
        if meter.count == 2:
            for parameter in opened[-1].networks["student0"].parameters():
                parameter.data.fill_(torch.inf)

    opened, real_open = [], training_module.open_loop
    monkeypatch.setattr(training_module, "open_loop", lambda *given: opened.append(real_open(*given)) or opened[-1])
    monkeypatch.setattr(loop_module.Meter, "add", overflow)
    with pytest.raises(TrainingError, match=r"burn-in of seed 0: the weights became infinite or NaN by step 2;"):
        burn_in(config, 0, crops, LABELED, tmp_path / "start.safetensors", tmp_path / "state")
    assert not (tmp_path / "start.safetensors").exists()


@pytest.fixture
def collapsing(monkeypatch) -> None:
    """From step 4 of a run on, the peaks in the log are those of blank maps."""
    real = loop_module._log_row

    def row(loop, *given):
        return real(loop, *given) | {"peak": 0.4 if loop.step < 4 else 0.01}

    monkeypatch.setattr(loop_module, "_log_row", row)


@pytest.mark.usefixtures("collapsing")
def test_a_collapse_is_recorded_warned_of_and_the_run_goes_on(config, crops, tmp_path, capsys):
    run(config, crops, tmp_path)
    line = "fell to background after step 3 (mean peak 0.40 before, 0.010 at the end)"
    assert json.loads((tmp_path / "train.json").read_text())["collapse"] == line
    assert f"warning: full, seed 0: {line}" in capsys.readouterr().out
    kept = torch.load(tmp_path / "state" / "full" / "before_collapse.pt", weights_only=True)
    assert kept["step"] == 4  # the row of step 3 stood, that of step 6 lay


@pytest.mark.usefixtures("collapsing")
def test_a_collapse_stops_the_run_where_the_numbers_say_so(config, crops, tmp_path):
    strict = replace(config, training=replace(config.training, on_collapse="stop"))
    with pytest.raises(TrainingError, match=r"full, seed 0: fell to background after step 3 .*; the state from before"):
        run(strict, crops, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert torch.load(tmp_path / "state" / "full" / "state.pt", weights_only=True)["step"] == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no state at all", None], ids=["empty", "zip", "text", "cut"])
def test_a_state_that_cannot_be_read_is_started_anew(config, crops, tmp_path, content):
    whole = run(config, crops, tmp_path)
    state = tmp_path / "state" / "full" / "state.pt"
    state.write_bytes(state.read_bytes()[:500] if content is None else content)
    assert run(config, crops, tmp_path) == whole


def test_a_state_of_another_kind_is_started_anew_and_none_is_unpickled(config, crops, tmp_path):
    whole = run(config, crops, tmp_path)
    state = tmp_path / "state" / "full" / "state.pt"
    for content in ({"step": 3}, torch.zeros(2), Trap(tmp_path / "sprung")):
        torch.save(content, state)
        assert run(config, crops, tmp_path) == whole
    assert not (tmp_path / "sprung").exists()


class Trap:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_teacher_student_saves_student_and_teacher_and_dual_student_both_students(config, crops, tmp_path):
    for arm, count in (("teacher_student", 2), ("full", 2), ("supervised", 1)):
        run(config, crops, tmp_path / arm, arm)
        assert len(load_networks(tmp_path / arm / "model.safetensors", config.model)) == count


@pytest.mark.parametrize(("num_students", "label_source", "networks"), [
    (1, "student", (0,)), (1, "ema", (1,)), (2, "student", (0, 1)), (2, "ema", (0, 1)),
])
def test_a_framework_of_ones_own_trains_and_leaves_the_networks_that_are_scored(
    config, crops, tmp_path, monkeypatch, num_students, label_source, networks
):
    def mine(students, teachers, labeled, unlabeled, setting):
        labels = [make_pseudo_label(source, unlabeled, setting) for source in teachers or students]
        losses = [learn(student, labeled, unlabeled, label, setting)
                  for student, label in zip(students, labels, strict=True)]
        return add_up(losses, labels, setting)

    monkeypatch.setitem(FRAMEWORKS, "mine", Framework(num_students))
    monkeypatch.setitem(STEPS, "mine", mine)
    overrides = {"arms.dual_student.framework": "mine", "arms.dual_student.label_source": label_source}
    own = load_config(Path(__file__).parent.parent / "params.yaml", overrides).arm("dual_student")
    run(replace(config, arms=config.arms | {"dual_student": own}), crops, tmp_path, "dual_student")
    left = load_networks(tmp_path / "model.safetensors", config.model, torch.device("cpu"))
    assert own.label_networks == own.reported_networks == networks
    assert len(left) == max(networks) + 1


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


@pytest.mark.parametrize(("labels", "labeled"), [("few", EVERYBODY), ("all", LABELED)], ids=["split", "arm"])
def test_an_arm_that_learns_from_nobody_is_refused_in_one_line(config, crops, tmp_path, labels, labeled):
    full = replace(config.arm("full"), labels=labels)
    line = r"full, seed 0: learns from unlabelled people, but all are labelled; lower splits\.label_count"
    with pytest.raises(TrainingError, match=line):
        run(replace(config, arms=config.arms | {"full": full}), crops, tmp_path, labeled=labeled)
    run(config, crops, tmp_path, "supervised", labeled=labeled)


def test_epochs_of_a_pool_with_nobody_in_it_are_refused_in_one_line(config, crops, tmp_path):
    epochs = replace(config, training=replace(config.training, steps=0, epochs=3))
    with pytest.raises(TrainingError, match=r"supervised, seed 0: training\.epochs counts .* give training\.steps"):
        run(epochs, crops, tmp_path, "supervised", labeled=EVERYBODY)


def test_a_gpu_that_is_not_there_is_one_line(config, crops, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    wanted = replace(config, training=replace(config.training, device="cuda"))
    with pytest.raises(TrainingError, match=r"training\.device is cuda but no GPU"):
        burn_in(wanted, 0, crops, LABELED, tmp_path / "start.safetensors", tmp_path / "state")


def test_a_full_disk_is_named_and_the_state_before_it_stays(config, crops, tmp_path, monkeypatch):
    real, saves = loop_module.write_bytes, []

    def full(content, path):
        saves.append(path)
        if len(saves) > 3:  # two states of the burn-in, one of the run
            raise OSError(28, "No space left on device", str(path))
        return real(content, path)

    monkeypatch.setattr(loop_module, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(config, crops, tmp_path)
    monkeypatch.setattr(loop_module, "write_bytes", real)
    assert torch.load(tmp_path / "state" / "full" / "state.pt", weights_only=True)["step"] == 2
    assert run(config, crops, tmp_path) == run(config, crops, tmp_path / "whole")


def test_a_length_in_epochs_is_that_many_passes_over_the_pool_for_every_arm(config, crops, tmp_path):
    """16 of 24 persons are unlabelled and come 4 a step: 3 epochs are 12 steps, with a fall after 8."""
    training = replace(config.training, steps=0, epochs=3, schedule="milestones", milestones=(2,), warmup_steps=0,
                       log_every=1)
    epochs = replace(config, training=training)
    for arm in ("dual_student", "all_labels"):
        run(epochs, crops, tmp_path / arm, arm)
        rows = [json.loads(line) for line in (tmp_path / arm / "log.jsonl").read_text().splitlines()]
        rates = [row["learning_rate"] for row in rows]
        assert rates == pytest.approx([training.learning_rate] * 8 + [training.learning_rate / 10] * 4)
        assert json.loads((tmp_path / arm / "train.json").read_text())["steps"] == 12
        assert count_steps(epochs.training, epochs.arm(arm), count_pool(epochs, LABELED)) == 12


def test_the_passes_of_a_step_are_those_counted_by_hand(config):
    """32 persons of each kind; a pass with its backward one counts three."""
    training = replace(config.training, labeled_batch=32, unlabeled_batch=32)
    whole = replace(config.arm("dual_student"), num_views=4, ensemble="maximum")
    teacher = replace(config.arm("teacher_student"), num_views=0, ensemble="none")
    supervised = config.arm("supervised")
    assert count_passes(whole, training, 10, 99) == 10 * 2 * (5 * 32 + 3 * (32 + 32))
    assert count_passes(teacher, training, 10, 99) == 10 * (32 + 3 * (32 + 32))
    assert count_passes(replace(teacher, labeled_views="both"), training, 10, 99) == 10 * (32 + 3 * (64 + 32))
    assert count_passes(supervised, training, 10, 99) == 10 * 3 * 32
    assert count_passes(replace(supervised, labeled_views="both"), training, 10, 99) == 10 * 3 * 64


def test_a_state_of_other_numbers_is_refused_with_a_line(config, crops, tmp_path, capsys):
    run(config, crops, tmp_path)
    assert "begins anew" not in capsys.readouterr().out
    faster = replace(config, training=replace(config.training, learning_rate=2 * config.training.learning_rate))
    found = run(faster, crops, tmp_path)
    assert f"{tmp_path}/state/full/state.pt was made with other numbers, data or code" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "state" / "full").iterdir()] == ["state.pt"]  # one at its end is not kept
    (tmp_path / "fresh").mkdir()
    shutil.copy(tmp_path / "burn_in.safetensors", tmp_path / "fresh")
    assert found == run(faster, crops, tmp_path / "fresh")


def test_a_state_of_other_numbers_that_was_not_at_its_end_is_kept_and_can_be_gone_back_to(
    config, crops, tmp_path, monkeypatch, capsys
):
    whole, real = run(config, crops, tmp_path / "whole"), training_module.draw_labeled

    def killed(pool, rows, settings, seed, phase, step, *views):
        if phase == "run" and step == 5:
            raise MemoryError
        return real(pool, rows, settings, seed, phase, step, *views)

    monkeypatch.setattr(training_module, "draw_labeled", killed)
    with pytest.raises(MemoryError):
        run(config, crops, tmp_path)
    monkeypatch.setattr(training_module, "draw_labeled", real)
    run(replace(config, training=replace(config.training, crops_on_device="never")), crops, tmp_path)
    assert "the run begins anew, that state is kept as state-at-step-4.pt\n" in capsys.readouterr().out
    state = tmp_path / "state" / "full"
    (state / "state-at-step-4.pt").replace(state / "state.pt")
    assert run(config, crops, tmp_path) == whole
    assert "begins anew" not in capsys.readouterr().out


def test_a_state_is_of_other_code_where_a_module_of_training_changed_but_not_for_a_comment(tmp_path, monkeypatch):
    package = tmp_path / "ssl_pose"
    shutil.copytree(training_module.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(training_module, "PACKAGE", package)
    code = training_module._code.__wrapped__
    before = code()
    for module, text in (("loop", "# a comment"), ("figures", "NOT_REACHED = 1")):
        with (package / f"{module}.py").open("a") as file:
            file.write(f"{text}\n")
    assert code() == before
    with (package / "losses.py").open("a") as file:
        file.write("REACHED = 1\n")
    assert code() != before

"""Profiles: one word each; a derived one is its base with the lines that it changes, each with its source."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ssl_pose import profiles
from ssl_pose.config import ConfigError, load_config
from ssl_pose.profiles import compose, open_profile, profile_folders

ROOT = Path(__file__).resolve().parent.parent
DERIVED = [name for name, folder in profile_folders().items() if (folder / "changes.yaml").exists()]
COCO_PERSONS = 149_813  # of train2017


def test_a_profile_is_one_word():
    assert open_profile("default").folder == ROOT
    assert open_profile("smoke").config.profile == "smoke"
    with pytest.raises(ConfigError, match=r"unknown profile 'smok'; there are: default, .*coco_partial_1k, coco"):
        open_profile("smok")


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_profile_differs_from_its_base_by_what_it_says_and_is_not_committed(name: str):
    config, folder = open_profile(name).config, profile_folders()[name]
    changes = yaml.safe_load((folder / "changes.yaml").read_text())
    base = load_config(folder.parent / changes.pop("base") / "params.yaml", changes)
    assert config == base
    assert config.profile == name
    assert (folder / "params.yaml").read_text().startswith("# Composed of ../")
    assert subprocess.run(["git", "check-ignore", "-q", folder / "params.yaml"], cwd=ROOT).returncode == 0


def test_the_protocols_are_the_published_ones():
    counts = {name: open_profile(f"coco_partial_{name}").config for name in ("500", "1k", "5k", "10k")}
    assert [config.splits.label_count for config in counts.values()] == [500, 1000, 5000, 10_000]
    lengths = [(config.training.epochs, config.training.milestones) for config in counts.values()]
    assert lengths == [(30, (20, 25))] * 2 + [(100, (70, 90))] * 2
    one = counts["1k"]
    for config in counts.values():  # nothing else differs
        training = replace(config.training, epochs=30, milestones=(20, 25))
        assert replace(config, profile=one.profile, splits=one.splits, training=training) == one
    assert one.training.run_steps(COCO_PERSONS) == 140_450
    full = open_profile("coco_full").config
    assert (full.splits.label_count, full.data.unlabeled_photos) == (0, True)


@pytest.mark.parametrize("name", ["coco_partial_1k", *(name for name in DERIVED if name.startswith("coco"))])
def test_every_number_of_a_protocol_says_where_it_comes_from(name: str):
    """The source, or [A] for assumed, behind each number that shapes results; hardware and bookkeeping need none."""
    free = ("seeds", "max_", "num_", "canvas", "log_every", "checkpoint", "batch_size", "nested", "base", "detections",
            "pck_thresholds", "steps: 0", "epochs: 0", "final_learning_rate", "label_count: 0", "relative_steps: 1.0")
    lines = (profile_folders()[name] / ("changes.yaml" if name in DERIVED else "params.yaml")).read_text().splitlines()
    section, unsourced = "", []
    for line in lines:
        section = line if line and not line[0].isspace() else section
        words = line.strip()
        numeric = any(sign.isdigit() for sign in words.split("#")[0].partition(":")[2])
        shaping = not words.startswith(free) and not section.startswith(("views", "synthetic", "arms", "profile"))
        if numeric and shaping and not any(f"[{mark}]" in line for mark in "SXUA"):
            unsourced.append(words)
    assert not unsourced


def test_the_recipe_for_another_network_is_a_valid_profile(tmp_path):
    """That of docs/coco.md, as written there."""
    text = (ROOT / "docs" / "coco.md").read_text()
    name, changes = re.search(r"cat > profiles/(\w+)/changes.yaml <<'END'\n(.*?)END\n", text, re.DOTALL).groups()
    (tmp_path / name).mkdir()
    (tmp_path / name / "changes.yaml").write_text(changes)
    (tmp_path / "coco_partial_1k").symlink_to(ROOT / "profiles" / "coco_partial_1k")
    (tmp_path / name / "params.yaml").write_text(compose(tmp_path / name))
    config = load_config(tmp_path / name / "params.yaml")
    assert (config.profile, config.model.architecture, config.data.input_size) == (name, "hrnet_w48", (384, 288))


def test_what_cannot_be_composed_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "params.yaml").write_text("a:\n  b: 1.0e-4  # why\nc: [x]\n")
    folder = tmp_path / "derived"
    folder.mkdir()

    def composed(text):
        (folder / "changes.yaml").write_text(text)
        return compose(folder)

    assert composed("base: base\nc: [y]\n").splitlines()[1:] == ["a:", "  b: 1.0e-4  # why", "c: [y]"]
    for text, message in [("base: base\na.x: 1\n", "unknown key 'a.x'; its base has no such key"),
                          ("a.b: 1\n", "base must name a profile"), ("base: gone\n", "got 'gone'"),
                          ("base: [", "is no valid YAML"), ("3\n", "holds no keys")]:
        with pytest.raises(ConfigError) as caught:
            composed(text)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_composed_file_is_written_anew_only_where_it_differs(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "REPOSITORY", tmp_path)
    for name in ("coco_partial_1k", "coco_full"):
        (tmp_path / "profiles" / name).mkdir(parents=True)
        for file in ("params.yaml", "changes.yaml", "dvc.yaml"):
            if (ROOT / "profiles" / name / file).exists():
                (tmp_path / "profiles" / name / file).write_bytes((ROOT / "profiles" / name / file).read_bytes())
    path = tmp_path / "profiles" / "coco_full" / "params.yaml"
    open_profile("coco_full")
    before = path.stat().st_mtime_ns
    open_profile("coco_full")
    assert path.stat().st_mtime_ns == before
    path.write_text("")
    assert open_profile("coco_full").config.profile == "coco_full"

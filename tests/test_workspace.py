"""Where files lie: the pipeline's folder for stages, a folder of its own under scratch/ for Run All."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_pose import workspace as places
from ssl_pose.config import ConfigError
from ssl_pose.workspace import open_results, open_workspace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the parameters of the default and the smoke profile, and a notebook's folder as cwd."""
    for name in ("params.yaml", "profiles/smoke/params.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(places, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def test_run_all_makes_its_files_in_scratch_with_the_numbers_of_smoke(repository: Path):
    here = open_workspace()
    assert here.config.profile == "smoke"
    for path in (here.coco, here.crops("val"), here.split(0), here.model("full", 1), here.run("full", 1),
                 here.table("one"), here.figure("one"), here.state("full")):
        assert path.resolve().is_relative_to(repository / "scratch")


def test_other_numbers_get_another_folder_in_scratch(repository: Path):
    assert open_workspace(overrides={"training.steps": 7}).root != open_workspace().root
    assert open_workspace().root == open_workspace().root


def test_an_analysis_reads_the_committed_default_profile_and_writes_to_scratch(repository: Path):
    here = open_results()
    assert here.run("full", 0).resolve() == repository / "results" / "default" / "runs" / "full" / "seed-0"
    assert here.figure("one").resolve().is_relative_to(repository / "scratch")


def test_a_stage_reads_and_writes_in_the_folder_that_it_runs_in(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(repository / "profiles" / "smoke")
    for opened in (open_workspace("params.yaml", "."), open_results("params.yaml", ".")):
        assert opened.model("full", 1) == Path("work/runs/full/seed-1/model.safetensors")
        assert opened.run("full", 1) == Path("results/smoke/runs/full/seed-1")
        assert opened.table("table_1") == Path("results/smoke/tables/table_1.csv")
        assert opened.table("table_1").parent.is_dir()


def test_a_missing_file_is_an_error_in_the_pipeline(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(repository)
    here = open_workspace("params.yaml", ".")
    with pytest.raises(ConfigError, match="is missing; run the pipeline, which makes it with notebook 20_splits"):
        here.ensure(here.split(0), "20_splits")


def test_in_scratch_a_missing_file_is_made_by_its_notebook(repository: Path, monkeypatch: pytest.MonkeyPatch):
    here = open_workspace(overrides={"seeds": [0]})
    called = []
    monkeypatch.setattr(places.subprocess, "run", lambda command, **_: called.append(command) or Done())
    assert here.ensure(here.model("full", 1), "40_train", arm="full", seed=1) == here.model("full", 1)
    assert called[0][2:] == ["ssl_pose", "notebook", "40_train", "-p", "params_file", '""', "-p", "workspace",
                             '"scratch"', "-p", "overrides", '{"seeds": [0]}', "-p", "arm", '"full"', "-p", "seed", "1"]


class Done:
    """A process that ended well."""

    returncode = 0


def test_a_seed_that_is_none_of_the_profiles_is_refused_with_what_to_override(repository: Path):
    with pytest.raises(ConfigError, match=r"seed 1 is none .* \[0\]; give the .*`overrides` {\"seeds\": \[0, 1\]} too"):
        open_workspace(seed=1)
    assert not (repository / "scratch").exists()
    assert open_workspace(overrides={"seeds": [0, 1]}, seed=1).config.seeds == (0, 1)

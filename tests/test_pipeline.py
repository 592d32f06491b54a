"""The pipeline through DVC: what it declares, and a smoke run of all of it in a copy of this repository."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ssl_pose import pipeline
from ssl_pose.config import load_config
from ssl_pose.files import write_json
from ssl_pose.pipeline import (
    REBUILT,
    analysis_stages,
    changed_stages,
    link_coco,
    mend,
    read_graph,
    rebuild_report,
    record_run,
    reproduce,
    stale_stages,
    workspace_lock,
)
from ssl_pose.profiles import Profile, open_profile, profile_folders
from ssl_pose.results import ResultsError
from ssl_pose.scheduling import PipelineError
from tests.fake_results import fake_config, write_fake_results

ROOT = Path(__file__).resolve().parent.parent
PROFILES = [name for name in profile_folders() if name != "default"]
GRAPH = {"code": set(), "data": {"code"}, "data_figures": {"code", "data"}, "splits": {"code", "data"},
         "train@a-0": {"code", "splits"}, "train@b-0": {"code", "splits"}, "evaluate@a-0": {"train@a-0"},
         "evaluate@b-0": {"train@b-0"}, "report": {"code", "evaluate@a-0", "evaluate@b-0", "data_figures"}}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_its_numbers_and_links_to_the_one_pipeline(name: str):
    folder = open_profile(name).folder
    assert load_config(folder / "params.yaml").profile == folder.name == name
    for name in ("dvc.yaml", "notebooks", "ssl_pose", ".dvcignore"):
        assert (folder / name).is_symlink()
        assert (folder / name).resolve() == ROOT / name
    assert "analytics = false" in (folder / ".dvc" / "config").read_text()


@pytest.mark.parametrize("profile", ["smoke", "coco_sample"])
def test_results_that_prove_nothing_or_show_photos_are_not_committed(profile: str):
    for name in ("dvc.lock", f"results/{profile}/report.html", "work/crops"):
        path = f"profiles/{profile}/{name}"
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0, path
    assert "no_scm = true" in (ROOT / "profiles" / profile / ".dvc" / "config").read_text()


def test_what_changed_and_all_that_depends_on_it_is_stale_and_nothing_else():
    assert stale_stages(GRAPH, {"train@a-0"}) == {"train@a-0": set(), "evaluate@a-0": {"train@a-0"},
                                                  "report": {"evaluate@a-0"}}
    assert stale_stages(GRAPH, set()) == {}
    assert stale_stages(GRAPH, {"code"}).keys() == GRAPH.keys()


def test_the_report_is_rebuilt_without_photos_and_training():
    assert analysis_stages(GRAPH) == {"code": set(), "data_figures": {"code"}, "report": {"code", "data_figures"}}


def test_a_report_of_a_grid_that_has_grown_is_refused_before_anything_is_deleted(tmp_path: Path):
    results = write_fake_results(tmp_path / "results" / "fake", fake_config(num_seeds=1), num_persons=1)
    (results / "tables").mkdir()
    kept = [results / "tables" / "table_1.csv", results / "report.html"]
    for path in kept:
        path.write_text("held by git")
    line = r"10 of the grid's 20 runs .* first supervised, seed 1 has no train\.json in .*; run `make repro`"
    with pytest.raises(ResultsError, match=line):
        rebuild_report(Profile(tmp_path, fake_config(num_seeds=2)))
    assert all(path.read_text() == "held by git" for path in kept)


def test_a_second_run_at_once_is_refused(tmp_path: Path):
    with workspace_lock(tmp_path), pytest.raises(PipelineError, match="another run is at work in"), \
            workspace_lock(tmp_path):
        pass
    with workspace_lock(tmp_path):
        pass


def test_a_run_that_trained_leaves_what_it_took_and_one_that_did_not_leaves_that_alone(tmp_path: Path):
    write_json({"data": 40.0, "train@a-0": 60.5, "report": 3.0}, tmp_path / "work" / "durations.json")
    record_run(tmp_path, ["data", "train@a-0"], 101.23)
    record_run(tmp_path, ["report"], 3.2)
    assert json.loads((tmp_path / "work" / "last_run.json").read_text()) == {
        "wall_seconds": 101.2, "stage_seconds": {"data": 40.0, "train@a-0": 60.5}}


def test_what_a_kill_within_dvc_leaves_is_mended(tmp_path: Path):
    """DVC writes dvc.lock and rwlock in place: cut short anywhere, the whole entries stay and DVC reads them."""
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    rwlock, record = tmp_path / ".dvc" / "tmp" / "rwlock", tmp_path / "dvc.lock"
    whole = (ROOT / "dvc.lock").read_text()[:2500]
    for length in [*range(0, 2500, 61), *(place + 1 for place, letter in enumerate(whole) if letter == "\n")]:
        record.write_text(whole[:length])
        mend(tmp_path)
        stages = yaml.safe_load(record.read_text())["stages"] if record.exists() else {}
        begun = yaml.safe_load(whole.rpartition("\n")[0])["stages"]
        assert all(stage == begun[name] for name, stage in list(stages.items())[:-1])
        assert all({"cmd", "deps"} & stage.keys() for stage in stages.values())
    for content, stays in (('{"write": {}, "read": {}}', True), ('{"write": {"work": {"pi', False), ("", False)):
        rwlock.write_text(content)
        mend(tmp_path)
        assert rwlock.exists() == stays


def test_a_coco_directory_is_linked_and_the_link_is_kept(tmp_path: Path):
    (tmp_path / "work").mkdir()
    (tmp_path / "photos" / "annotations").mkdir(parents=True)
    with pytest.raises(PipelineError, match="say where they are with DATA="):
        link_coco(tmp_path, "")
    with pytest.raises(PipelineError, match="is no COCO directory: it has no folder `annotations`"):
        link_coco(tmp_path, str(tmp_path / "work"))
    link_coco(tmp_path, str(tmp_path / "photos"))
    link_coco(tmp_path, "")
    assert (tmp_path / "work" / "coco").resolve() == tmp_path / "photos"


def test_data_for_a_profile_that_renders_its_own_is_refused(tmp_path: Path):
    profile = Profile(tmp_path, load_config(ROOT / "profiles" / "smoke" / "params.yaml"))
    with pytest.raises(PipelineError, match="profile smoke renders its own data"):
        reproduce(profile, data="photos")


def test_the_photos_are_recorded_by_content(tmp_path: Path, coco_directory):
    records = []
    for name in ("here", "there"):
        folder = tmp_path / f"profile_{name}"
        (folder / "work").mkdir(parents=True)
        shutil.copy(ROOT / "profiles" / "coco_sample" / "params.yaml", folder)
        link_coco(folder, str(coco_directory(name=name)))
        pipeline.record_source(folder)
        records.append((folder / "work" / "source.json").read_text())
    assert records[0] == records[1]
    assert json.loads(records[0]).keys() == {"source", "sha256"}


class Copy:
    """A repository of its own with the files of this one, and its smoke profile."""

    def __init__(self, folder: Path) -> None:
        names = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True,
                               capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(ROOT / name):
                shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
        self.root, self.smoke = folder, folder / "profiles" / "smoke"
        self.results = self.smoke / "results" / "smoke"
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)

    def run(self, *command: str) -> str:
        """What `python -m ssl_pose <command> --profile smoke` prints; its error fails the test."""
        done = subprocess.run([sys.executable, "-m", "ssl_pose", *command, "--profile", "smoke"], cwd=self.root,
                              capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(self.root)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dvc(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=self.smoke, check=True, capture_output=True,
                       env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})

    def stale(self) -> set[str]:
        return set(stale_stages(read_graph(self.smoke), changed_stages(self.smoke)))

    def rebuilt_files(self) -> dict[str, bytes]:
        """Content of everything that an analysis writes."""
        paths = [path for name in REBUILT for path in [*sorted(self.results.glob(f"{name}/*")), self.results / name]]
        return {str(path.relative_to(self.results)): path.read_bytes() for path in paths if path.is_file()}


@contextlib.contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.write_text(before)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The copy after a smoke run: data, splits, burn-in, every arm, evaluation, tables, figures and the report."""
    copy = Copy(tmp_path_factory.mktemp("repository"))
    copy.run("repro")
    return copy


def test_a_smoke_run_makes_every_table_and_figure_and_a_second_one_does_nothing(copy: Copy):
    stages = yaml.safe_load((copy.smoke / "dvc.lock").read_text())["stages"]
    config = load_config(copy.smoke / "params.yaml")
    runs = len(config.grid) * len(config.seeds)
    assert sum(name.startswith("evaluate@") for name in stages) == runs
    declared = {out["path"] for stage in stages.values() for out in stage["outs"]}
    assert all((copy.smoke / path).exists() for path in declared)
    assert {f"results/smoke/{name}" for name in copy.rebuilt_files()} <= declared
    assert {"tables/table_1.csv", "tables/table_2.csv", "figures/figure_1.png", "figures/figure_2.png",
            "claims.json", "report.html"} <= copy.rebuilt_files().keys()
    record = (copy.smoke / "work" / "last_run.json").read_text()
    assert json.loads(record)["stage_seconds"].keys() >= stages.keys() - {"code", "source"}
    assert copy.run("repro") == "Everything is up to date: profiles/smoke/results/smoke\n"
    assert (copy.smoke / "work" / "last_run.json").read_text() == record  # of the last run that trained


def test_an_edit_to_a_comment_or_to_prose_reruns_the_projection_alone(copy: Copy):
    module, notebook = copy.root / "ssl_pose" / "training.py", copy.root / "notebooks" / "40_train.ipynb"
    with edited(module, "import copy\n", "import copy  # a comment\n"), edited(notebook, "unlabelled", "unlabeled"):
        assert changed_stages(copy.smoke) == {"code"}
        projection, end = copy.run("repro").splitlines()
        assert projection.startswith("[1/1] code")
        assert end.startswith("Everything is up to date")
    copy.dvc("repro", "-s", "code")


def test_an_edit_to_one_arm_reruns_that_arm_and_the_analyses(copy: Copy):
    title = "    title: Dual-Student + T&R\n"
    analyses = set(analysis_stages(read_graph(copy.smoke))) - {"code", "data_figures"}
    with edited(copy.smoke / "params.yaml", title, f"{title}    consistency_weight: 2.0\n"):
        assert copy.stale() == {"train@dual_student_refine-0", "evaluate@dual_student_refine-0"} | analyses
    assert copy.stale() == set()


def test_one_more_seed_runs_only_its_own_cells_and_the_analyses(copy: Copy):
    with edited(copy.smoke / "params.yaml", "seeds: [0]", "seeds: [0, 1]"):
        copy.dvc("repro", "-s", "source", "splits")  # `source` first, as the driver does
        cells = {stage for stage in copy.stale() if "@" in stage}
        assert cells
        assert all(stage.endswith(("@1", "-1")) for stage in cells)
    copy.dvc("repro", "-s", "source", "splits")
    assert copy.stale() == set()


def test_a_file_that_vanished_between_stages_is_made_again_with_all_that_depends_on_it(copy: Copy):
    analyses = set(analysis_stages(read_graph(copy.smoke))) - {"code", "data_figures"}
    model = copy.smoke / "work" / "runs" / "full" / "seed-0" / "model.safetensors"
    model.rename(copy.root / "elsewhere")
    assert copy.stale() == {"train@full-0", "evaluate@full-0"} | analyses
    (copy.root / "elsewhere").rename(model)
    assert copy.stale() == set()


@pytest.mark.parametrize("then", [0, 4_000_000_000], ids=["1970", "2096"])
def test_wherever_the_clock_stood_when_files_were_written_nothing_reruns(copy: Copy, then: int):
    for path in [*copy.smoke.rglob("*"), *copy.root.joinpath("ssl_pose").iterdir()]:
        if not path.is_symlink():
            os.utime(path, (then, then))
    assert copy.stale() == set()


def test_two_runs_at_once_are_one_run_and_one_line(copy: Copy):
    command = [sys.executable, "-m", "ssl_pose", "repro", "--profile", "smoke"]
    with workspace_lock(copy.smoke):
        done = subprocess.run(command, cwd=copy.root, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(copy.root)})
    assert done.returncode == 1
    assert done.stderr == "error: another run is at work in smoke; wait for it or stop it\n"


def run_alone(copy: Copy, name: str) -> subprocess.CompletedProcess:
    """One notebook without DVC; once more where its kernel and client wait for each other, which was seen once."""
    command = [sys.executable, "-m", "ssl_pose", "notebook", name]
    options = {"cwd": copy.root, "text": True, "capture_output": True,
               "env": os.environ | {"PYTHONPATH": str(copy.root)}}
    try:
        return subprocess.run(command, timeout=300, **options)
    except subprocess.TimeoutExpired:
        return subprocess.run(command, timeout=300, **options)


def test_every_notebook_runs_by_run_all_and_writes_to_scratch_alone(copy: Copy):
    """With the defaults of its parameters cell and without DVC: smoke's numbers, the committed default results."""
    def committed() -> dict[Path, bytes]:
        paths = [*(copy.root / "results").rglob("*"), *copy.smoke.joinpath("results").rglob("*")]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    before = committed()
    names = sorted(path.stem for path in (copy.root / "notebooks").glob("*.ipynb"))
    for name in names:
        done = run_alone(copy, name)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    assert sorted(path.stem for path in (copy.root / "scratch" / "notebooks").glob("*.ipynb")) == names
    assert committed() == before


def test_tables_figures_and_report_are_rebuilt_to_the_byte_from_what_git_holds(copy: Copy):
    before = copy.rebuilt_files()
    shutil.rmtree(copy.smoke / "work")
    shutil.rmtree(copy.smoke / ".dvc" / "cache", ignore_errors=True)
    copy.run("report")
    assert copy.rebuilt_files() == before

"""[I/O] The driver behind `make repro` and `make report`: DVC decides what is stale, this runs it side by side.

DVC runs stages one after another. Here each stale stage is a `dvc repro -s <stage>` of its own, started as soon
as the stages that it depends on are done, as many at a time as there are cores for. What is stale, in which order
and with which locks stays DVC's business; a plain `dvc repro` in the same folder does the same work serially.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssl_pose.config import Config, load_config
from ssl_pose.files import write_json, write_text
from ssl_pose.profiles import Profile
from ssl_pose.scheduling import PipelineError, fitting_jobs, read_durations, run_side_by_side
from ssl_pose.workspace import REPOSITORY

REBUILT = ("tables", "figures", "notebooks", "claims.json", "report.html")  # in results/<profile>, by analyses
PROJECTIONS = {"source", "code"}  # stages without a dependency on others
WHOLE = re.compile(r"^ +(size|nfiles): \d+\n\Z", re.MULTILINE)  # how a dvc.lock ends: with an output of a stage
EDGE = re.compile(r'^"(?P<first>[^"]+)"(?: -> "(?P<then>[^"]+)")?;$')  # of `dvc dag --dot`


def reproduce(profile: Profile, data: str = "", jobs: int = 0) -> None:
    """Runs every stage of the profile that is not up to date, and records what that took."""
    began = time.monotonic()
    with workspace_lock(profile.folder):
        mend(profile.folder)
        stages = find_stale(profile, data, jobs)
        run_stages(profile, stages, jobs)
        refresh_readme(profile)
        record_run(profile.folder, stages, time.monotonic() - began)
    print(f"Everything is up to date: {os.path.relpath(results_folder(profile))}")


def find_stale(profile: Profile, data: str = "", jobs: int = 0) -> dict[str, set[str]]:
    """The stages that must run, each with those of them that it waits for; reads the photos and the code anew."""
    folder = profile.folder
    find_photos(folder, profile.config, data)
    if profile.config.data.source == "coco" or profile.config.splits.file:
        run_stages(profile, {"source": set()}, jobs, force=True)  # have files from outside changed?
    graph, changed = read_graph(folder), changed_stages(folder)
    if first := changed & PROJECTIONS:  # seconds, after which most of what looked stale often is not
        run_stages(profile, {stage: set() for stage in first}, jobs)
        changed = changed_stages(folder)
    return stale_stages(graph, changed)


def record_run(folder: Path, stages: Iterable[str], wall_seconds: float) -> None:
    """Writes to work/last_run.json what a run of `stages` took, if any of them trained; `make bench` reads it."""
    if any(stage.startswith("train@") for stage in stages):
        durations = read_durations(folder / "work" / "durations.json")
        record = {"wall_seconds": round(wall_seconds, 1), "stage_seconds": {name: durations[name] for name in stages}}
        write_json(record, folder / "work" / "last_run.json")


def rebuild_report(profile: Profile, jobs: int = 0) -> None:
    """Deletes what the analysis stages wrote, then runs these stages alone: no training, no photos."""
    from ssl_pose.results import check_runs  # pandas: 1 s that other commands save

    results = results_folder(profile)
    with workspace_lock(profile.folder):
        check_runs(results, profile.config)  # before git's tables are gone: a grid may have grown since they were made
        mend(profile.folder)
        for path in (results / name for name in REBUILT):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        stages = analysis_stages(read_graph(profile.folder))
        run_stages(profile, stages, jobs, force=True)
        refresh_readme(profile)
    print(f"Rebuilt from what git holds: {os.path.relpath(results / 'report.html')}")


def refresh_readme(profile: Profile) -> None:
    """Puts the numbers of the profile into the README, if its markers ask for them."""
    readme = REPOSITORY / "README.md"
    if f" of {profile.config.profile}:begin -->" in readme.read_text(encoding="utf-8"):
        from ssl_pose.readme import update_readme  # pandas: 1 s that other commands save

        update_readme(readme, results_folder(profile), profile.config)


def results_folder(profile: Profile) -> Path:
    return profile.folder / "results" / profile.config.profile


def run_stages(profile: Profile, stages: dict[str, set[str]], jobs: int, force: bool = False) -> None:
    training = profile.config.training
    num_threads = training.num_threads
    jobs = jobs or fitting_jobs(num_threads * training.num_processes, training.device)
    run_side_by_side(profile.folder, stages, jobs, num_threads, force)


def analysis_stages(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """`code` and the stages that need neither photos nor weights, with what each waits for among these."""
    costly = upstream(graph, {stage for stage in graph if stage.startswith(("evaluate@", "splits"))}) - {"code"}
    return {stage: before - costly for stage, before in graph.items() if stage not in costly}


@contextlib.contextmanager
def workspace_lock(folder: Path) -> Iterator[None]:
    """Held while stages run; the system lets go of it when the process ends, however it ends."""
    path = folder / "work" / "repro.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineError(f"another run is at work in {folder.name}; wait for it or stop it") from None
        yield


def mend(folder: Path) -> None:
    """Repairs what a kill in the middle of DVC's own writing leaves: it writes these two files in place.

    What stages hold open (`rwlock`) is forgotten: nobody else is at work here. Of the record of finished stages
    (`dvc.lock`) the whole entries stay; stages without one run again, from their saved states.
    """
    rwlock, record = folder / ".dvc" / "tmp" / "rwlock", folder / "dvc.lock"
    with contextlib.suppress(FileNotFoundError):
        try:
            json.loads(rwlock.read_text())
        except ValueError:
            rwlock.unlink()
    if record.exists() and not WHOLE.search(text := record.read_text()):
        kept = whole_entries(text)
        write_text(kept, record) if kept else record.unlink()


def whole_entries(text: str) -> str:
    """The beginning of a dvc.lock that was cut short, up to the last stage that is whole; empty if none is."""
    stages = [line.start() for line in re.finditer(r"^  \S", text, re.MULTILINE)]
    return text[: stages[-1]] if len(stages) > 1 else ""


def find_photos(folder: Path, config: Config, data: str = "") -> None:
    """Links the user's COCO directory where the profile reads one; `data` for one that renders its own is refused."""
    if config.data.source == "coco":
        link_coco(folder, data)
    elif data:
        raise PipelineError(f"profile {config.profile} renders its own data; DATA is for profiles with data.source "
                            "coco, such as coco_sample")


def link_coco(folder: Path, data: str) -> None:
    """Makes work/coco a link to the user's COCO directory, or keeps the link of an earlier run."""
    link = folder / "work" / "coco"
    if data:
        target = Path(data).resolve()
        if not (target / "annotations").is_dir():
            raise PipelineError(f"DATA={data} is no COCO directory: it has no folder `annotations`")
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target)
    elif not link.exists():
        raise PipelineError("this profile reads photos: say where they are with DATA=<COCO directory>")


def record_source(folder: Path) -> None:
    """Writes work/source.json and work/split_source.json: what comes from outside, by content and never by path."""
    from ssl_pose.coco import UNLABELED_INFO  # NumPy, which other commands spare
    from ssl_pose.fingerprints import fingerprint_directory
    from ssl_pose.splits import fingerprint_splits

    config = load_config(folder / "params.yaml")
    data = config.data
    record = {"source": data.source}
    if data.source == "coco":
        unlabeled = (UNLABELED_INFO, data.detections) if data.unlabeled_photos else ()
        found = fingerprint_directory(folder / "work" / "coco", unlabeled=unlabeled,
                                      memory=folder / "work" / "fingerprints.json")
        record["sha256"] = found["sha256"]
    write_json(record, folder / "work" / "source.json")
    write_json(fingerprint_splits(config.splits.file, config.seeds, folder), folder / "work" / "split_source.json")


def read_graph(folder: Path) -> dict[str, set[str]]:
    """Every stage with the stages that it directly depends on."""
    graph: dict[str, set[str]] = {}
    for line in dvc(folder, "dag", "--dot").splitlines():
        if edge := EDGE.match(line.strip()):
            graph.setdefault(edge["first"], set())
            if edge["then"]:
                graph.setdefault(edge["then"], set()).add(edge["first"])
    return graph


def changed_stages(folder: Path) -> set[str]:
    return set(json.loads(dvc(folder, "status", "--json") or "{}"))


def stale_stages(graph: dict[str, set[str]], changed: set[str]) -> dict[str, set[str]]:
    """The changed stages and all that depend on them, each with those of its dependencies that run too."""
    stale = {stage for stage in graph if changed & (upstream(graph, {stage}) | {stage})}
    return {stage: before & stale for stage, before in graph.items() if stage in stale}


def upstream(graph: dict[str, set[str]], stages: set[str]) -> set[str]:
    """`stages` and all that they depend on, directly or through others."""
    found, waiting = set(), set(stages)
    while waiting:
        stage = waiting.pop()
        found.add(stage)
        waiting |= graph[stage] - found
    return found


def dvc(folder: Path, *arguments: str) -> str:
    """The standard output of one DVC command; its own last error line if it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise PipelineError(f"dvc {arguments[0]} failed: {(lines or [done.stderr.strip()])[-1]}")
    return done.stdout

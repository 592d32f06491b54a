"""Where the files of a profile lie, written once, for notebooks, pipeline and tests.

A workspace is a folder with `work/` (large, never committed) and `results/<profile>/` (small, in git). The
pipeline's workspace is the folder of a dvc.yaml, "."; *Run All* in JupyterLab gets one under `scratch/` that
carries a fingerprint of its parameters, so that it never meets the pipeline's files or those of other numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_pose.config import Config, ConfigError, fingerprint, load_config

REPOSITORY = Path(__file__).resolve().parent.parent
PIPELINE = "."  # the workspace of a stage: the folder of the dvc.yaml that runs it
SCRATCH = "scratch"  # the workspace of Run All


@dataclass(frozen=True)
class Workspace:
    """The numbers of a profile and the places of its files; paths are relative to the current folder."""

    config: Config
    root: Path  # the folder that is written to
    source: Path  # the folder whose results are read; differs from root for analyses in scratch
    parameters: dict[str, Any] = field(repr=False)  # what opened it, handed on to upstream notebooks

    @property
    def coco(self) -> Path:
        """The COCO directory: rendered here, or a link to the user's."""
        return self.root / "work" / "coco"

    @property
    def source_record(self) -> Path:
        """What the photos are, by content: written by the stage `source`."""
        return self.root / "work" / "source.json"

    def crops(self, split: str) -> Path:
        """Packed crops of split 'train' or 'val'."""
        return self.root / "work" / "crops" / split

    def split(self, seed: int) -> Path:
        return self.root / "work" / "splits" / f"seed-{seed}.json"

    def burn_in(self, seed: int) -> Path:
        return self.root / "work" / "burn_in" / f"seed-{seed}.safetensors"

    def model(self, arm: str, seed: int) -> Path:
        return self.root / "work" / "runs" / arm / f"seed-{seed}" / "model.safetensors"

    def state(self, *names: str) -> Path:
        """Folder of a run's resume state, which DVC does not know."""
        return self.root.joinpath("work", "state", *names)

    @property
    def results(self) -> Path:
        """Folder of the results that are read."""
        return self.source / "results" / self.config.profile

    @property
    def reports(self) -> Path:
        """Folder of the results that are written; the same as `results`, but for an analysis in scratch."""
        return self.root / "results" / self.config.profile

    def run(self, arm: str, seed: int) -> Path:
        """Folder of one run's log, record, metrics and predictions."""
        return self.results / "runs" / arm / f"seed-{seed}"

    def table(self, name: str) -> Path:
        return self.reports / "tables" / f"{name}.csv"

    def figure(self, name: str) -> Path:
        return self.reports / "figures" / f"{name}.png"

    def ensure(self, path: Path, notebook: str, **parameters: Any) -> Path:
        """`path`, after its notebook has run in scratch if it is missing; in the pipeline DVC has made it."""
        if path.exists():
            return path
        if self.root == Path(PIPELINE):
            raise ConfigError(f"{path} is missing; run the pipeline, which makes it with notebook {notebook}")
        given = {**self.parameters, **parameters}
        command = [sys.executable, "-m", "ssl_pose", "notebook", notebook]
        for name, value in given.items():
            command += ["-p", name, json.dumps(value)]
        print(f"{path.name} is missing: running notebook {notebook} first")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ConfigError((done.stderr.strip().splitlines() or [f"notebook {notebook} failed"])[-1])
        return path


def open_workspace(
    params_file: str = "", workspace: str = SCRATCH, overrides: dict | None = None, seed: int | None = None
) -> Workspace:
    """The workspace of a notebook that makes data, runs or metrics; without a file, smoke's numbers in scratch.

    A `seed` that is none of the profile's is refused before anything is made for it.
    """
    path = Path(params_file) if params_file else _relative(REPOSITORY / "profiles" / "smoke" / "params.yaml")
    return _open(path, workspace, overrides or {}, params_file, source=None, seed=seed)


def open_results(params_file: str = "", workspace: str = SCRATCH, overrides: dict | None = None) -> Workspace:
    """The workspace of a notebook that analyses runs; without a file, it reads the committed default profile."""
    path = Path(params_file) if params_file else _relative(REPOSITORY / "params.yaml")
    return _open(path, workspace, overrides or {}, params_file, source=path.parent)


def _open(
    path: Path, workspace: str, overrides: dict, params_file: str, source: Path | None, seed: int | None = None
) -> Workspace:
    config = load_config(path, overrides)
    if seed not in (*config.seeds, None):
        raise ConfigError(f"seed {seed} is none of the profile's seeds, {list(config.seeds)}; give the notebook's "
                          f'`overrides` {{"seeds": {sorted((*config.seeds, seed))}}} too')
    root = Path(workspace)
    if workspace == SCRATCH:
        root = _relative(REPOSITORY / SCRATCH / f"{config.profile}-{fingerprint(config)[:8]}")
    parameters = {"params_file": params_file, "workspace": workspace, "overrides": overrides}
    opened = Workspace(config, root, source or root, parameters)
    for folder in ("data", "splits", "tables", "figures"):
        (opened.reports / folder).mkdir(parents=True, exist_ok=True)
    return opened


def _relative(path: Path) -> Path:
    return Path(os.path.relpath(path))

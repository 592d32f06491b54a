"""[I/O] What the runs left under results/<profile>, as tidy tables.

A run is one (arm, seed) at runs/<arm>/seed-<seed>/. Runs are listed by the grid of the configuration, never
by what lies in the folder: a removed arm disappears, and a missing run is a `ResultsError` that names it.
Accuracies are percent. Coordinates leave here as float64: heatmap cells of the reference frame for pseudo
labels, reference px for examples. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssl_pose.config import Config
from ssl_pose.files import write_text
from ssl_pose.predictions import MODES, Predictions, from_thousandths, read_predictions

LABEL_COLUMNS = ["network", "image_id", "person", "joint", "uncertainty",
                 *(f"{value}_{mode}" for mode in MODES for value in ("error", "confidence")), "arm", "seed"]
LOG_COLUMNS = ["step", "kept", "peak", "arm", "seed"]  # that every log of an arm with pseudo-heatmaps has
RUN_FILES = ("train.json", "log.jsonl", "metrics.json", "predictions.parquet", "pseudo_labels.parquet", "examples.npz")


class ResultsError(ValueError):
    """A line for the user: which result is missing or broken, and what makes it."""


def run_directory(results: Path, arm: str, seed: int) -> Path:
    return Path(results) / "runs" / arm / f"seed-{seed}"


def grid(config: Config, arms: Iterable[str] | None = None) -> Iterator[tuple[str, int]]:
    """Every (arm, seed) of the profile, in the order of params.yaml; `arms` keeps only those named."""
    kept = None if arms is None else set(arms)
    for arm in config.arms:
        if kept is None or arm in kept:
            yield from ((arm, seed) for seed in config.seeds)


def run_file(results: Path, arm: str, seed: int, name: str) -> Path:
    """The path of one file of a run; raises `ResultsError` if it is not there."""
    path = run_directory(results, arm, seed) / name
    if not path.is_file():
        raise ResultsError(f"run {arm}, seed {seed} has no {name} in {results}: run `make repro` to the end")
    return path


def check_runs(results: Path, config: Config) -> None:
    """Raises `ResultsError` if a run of the grid lacks a file, naming the first such run and how many there are."""
    runs = list(grid(config))
    missing = {}
    for arm, seed in runs:
        lacking = [name for name in RUN_FILES if not (run_directory(results, arm, seed) / name).is_file()]
        if lacking:
            missing[arm, seed] = lacking[0]
    if missing:
        (arm, seed), name = next(iter(missing.items()))
        raise ResultsError(f"{len(missing)} of the grid's {len(runs)} runs are not whole; first {arm}, seed {seed} "
                           f"has no {name} in {results}; run `make repro` to the end")


def load_predictions(results: Path, config: Config, arm: str, seed: int) -> list[Predictions]:
    """What the reported networks of a run predict for the validation persons."""
    predictions = read_predictions(run_file(results, arm, seed, "predictions.parquet"))
    return [predictions[number] for number in config.arm(arm).reported_networks]


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ResultsError(f"no {path}: the stage that writes it has not run") from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is no valid JSON ({error}): run its stage again") from None


def load_scores(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a run: arm, title, seed and the headline AP, AR, PCK and AP_ensemble (None: one network)."""
    return pd.DataFrame([_score_row(results, config, arm, seed) for arm, seed in grid(config, arms)])


def load_networks(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a network of a run: arm, seed, network (0, 1; 2 is the average of the two) and its AP."""
    return pd.DataFrame(
        {"arm": arm, "seed": seed, "network": int(network), "AP": scores["AP"]}
        for arm, seed in grid(config, arms)
        for network, scores in read_json(run_file(results, arm, seed, "metrics.json"))["networks"].items()
    )


def load_pseudo_quality(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a (run, mode): the readings of the PCK of its pseudo-heatmaps, and how high and clean their peaks are."""
    rows = []
    for arm, seed in grid(config, arms):
        pseudo = read_json(run_file(results, arm, seed, "metrics.json")).get("pseudo") or {}
        rows += [{"arm": arm, "seed": seed, "mode": mode} | pseudo[mode] for mode in MODES if mode in pseudo]
    columns = ["arm", "seed", "mode", "pck", "pck_above_threshold", "pck_refined", "peer_accuracy", "kept",
               "mean_confidence", "second_peak", "num_peaks"]
    return pd.DataFrame(rows, columns=columns)


def load_provenance(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a run: arm, seed and what train.json recorded, nested keys joined by a dot."""
    records = [
        {"arm": arm, "seed": seed} | _flat(read_json(run_file(results, arm, seed, "train.json")))
        for arm, seed in grid(config, arms)
    ]
    return pd.DataFrame(records)


def load_logs(results: Path, config: Config, arms: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a logged training step: arm, seed, step, losses, kept, peak, agreement."""
    frames = []
    for arm, seed in grid(config, arms):
        path = run_file(results, arm, seed, "log.jsonl")
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines() if line]
        except ValueError as error:
            raise ResultsError(f"{path} has a line that is no JSON ({error}): train this run again") from None
        frames.append(pd.DataFrame(lines).assign(arm=arm, seed=seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=LOG_COLUMNS, dtype=float)


def load_pseudo_labels(results: Path, config: Config, arms: Iterable[str]) -> pd.DataFrame:
    """One row a labelled joint of a pool person, per label network of the runs of `arms`.

    Columns: arm, seed, network, image_id, person, joint, uncertainty, and for each mode `error_<mode>`, the distance of
    the peak from the hidden label in units of the person's reference length, and `confidence_<mode>`. Raises
    `ResultsError` where a column is missing.
    """
    frames = []
    for arm, seed in grid(config, arms):
        path = run_file(results, arm, seed, "pseudo_labels.parquet")
        stored = pd.read_parquet(path)
        if missing := {*LABEL_COLUMNS} - {*stored, "arm", "seed"}:
            raise ResultsError(f"{path} has no {', '.join(sorted(missing))}: an older version wrote it; make repro "
                               "evaluates its run again")
        values = {name: from_thousandths(stored[name]) for name in stored if name.startswith(("error", "confidence"))}
        frames.append(stored.assign(**values, uncertainty=stored.uncertainty.astype(float), arm=arm, seed=seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=LABEL_COLUMNS, dtype=float)


def load_examples(results: Path, arm: str, seed: int) -> dict[str, np.ndarray]:
    """The arrays of examples.npz of one run: crops, keypoints and heatmaps that the figures show."""
    with np.load(run_file(results, arm, seed, "examples.npz")) as stored:
        return {name: stored[name] for name in stored.files}


def load_persons(results: Path) -> pd.DataFrame:
    """The validation persons: data/val_persons.parquet, one row a person."""
    path = Path(results) / "data" / "val_persons.parquet"
    if not path.is_file():
        raise ResultsError(f"no {path}: the data stage that writes it has not run")
    return pd.read_parquet(path)


def write_table(frame: pd.DataFrame, path: Path) -> Path:
    """Writes a table as CSV, numbers to six significant digits; the same table gives the same bytes."""
    return write_text(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"), path)


def _score_row(results: Path, config: Config, arm: str, seed: int) -> dict[str, Any]:
    path = run_file(results, arm, seed, "metrics.json")
    metrics = read_json(path)
    try:
        scores = {"AP": metrics["AP"], "AR": metrics["AR"], "PCK": metrics["pck"]}
    except KeyError as error:
        raise ResultsError(f"{path} has no {error}: evaluate this run again") from None
    ensemble = {"AP_ensemble": metrics.get("AP_ensemble")}
    return {"arm": arm, "title": config.arm(arm).title, "seed": seed} | scores | ensemble


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

"""TensorBoard shows what the JSON lines hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssl_pose.config import load_config
from ssl_pose.logbook import write_events
from ssl_pose.results import ResultsError

CONFIG = load_config(Path(__file__).resolve().parent.parent / "profiles" / "smoke" / "params.yaml")


def test_every_number_of_a_log_is_a_point_of_a_curve(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = replace(CONFIG, seeds=(0, 1))
    rows = [{"step": step, "loss": 1 / step, "peak": 0.1 * step} for step in (5, 10, 20)]
    (tmp_path / "runs" / "full" / "seed-1").mkdir(parents=True)
    (tmp_path / "runs" / "full" / "seed-1" / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder,) = write_events(tmp_path, config, tmp_path / "events")
    assert folder == tmp_path / "events" / "full" / "seed-1"
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "peak"]
    points = [(point.step, point.value) for point in events.Scalars("loss")]
    assert points == [(row["step"], pytest.approx(row["loss"])) for row in rows]


def test_a_profile_without_runs_says_so(tmp_path: Path):
    with pytest.raises(ResultsError, match=r"no run in .* has a log\.jsonl: run `make repro` first"):
        write_events(tmp_path, CONFIG, tmp_path / "events")

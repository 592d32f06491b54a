"""[I/O] Training logs for TensorBoard, which is optional: each run's log.jsonl, written again as its event files.

Training itself knows nothing of it: the JSON lines are always there, and this reads them afterwards, or meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from ssl_pose.config import Config
from ssl_pose.results import ResultsError, load_logs, run_directory

NO_CURVE = ("step", "arm", "seed")


def write_events(results: Path, config: Config, out: Path) -> list[Path]:
    """Writes a folder of events per run of the grid that has a log, <out>/<arm>/seed-<n>; returns these folders."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise ResultsError("TensorBoard is not installed; `pip install tensorboard`, or read log.jsonl") from None
    written = []
    for arm in config.arms:
        for seed in config.seeds:
            if not (run_directory(results, arm, seed) / "log.jsonl").exists():
                continue
            one = Config(**{**vars(config), "arms": {arm: config.arms[arm]}, "seeds": (seed,)})
            folder = out / arm / f"seed-{seed}"
            writer = EventFileWriter(str(folder))
            for row in load_logs(results, one).to_dict("records"):
                values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()
                          if name not in NO_CURVE and value == value]
                writer.add_event(Event(step=int(row["step"]), summary=Summary(value=values)))
            writer.close()
            written.append(folder)
    if not written:
        raise ResultsError(f"no run in {results} has a log.jsonl: run `make repro` first")
    return written

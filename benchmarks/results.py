"""Results of benchmarks: printed as tables, kept as JSON with their provenance, compared by ratios."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_pose.files import write_json
from ssl_pose.provenance import describe_code, describe_hardware, describe_versions, hash_code

FOLDER = Path(__file__).resolve().parent / "results"


def measured_code() -> str:
    """Hash of what a result rests on: the library and the benchmarks."""
    return hash_code(*sorted(FOLDER.parent.glob("*.py")))


def store(name: str, rows: list[dict[str, Any]], ratios: dict[str, float], folder: Path = FOLDER) -> None:
    """Prints `rows` and writes them with the `ratios` (smaller is better) that `bench-check` compares."""
    content = {"name": name, **describe_code("benchmarks/*.py"), "code_sha": measured_code(),
               "versions": describe_versions(), "hardware": describe_hardware(),
               "rows": [{key: significant(value) for key, value in row.items()} for row in rows],
               "ratios": {key: significant(value) for key, value in ratios.items()}}
    write_json(content, folder / f"{name}.json")
    print(pd.DataFrame(content["rows"]).to_string(index=False), flush=True)


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def significant(value: Any) -> Any:
    """Numbers to three significant digits: what a second run would give too."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def compares_precisions(key: str) -> bool:
    """Whether the ratio `key` is one of two precisions: which is the faster, a processor's instructions decide."""
    return re.search(" over in (bf16|fp32)$", key) is not None


def processor(hardware: dict[str, Any]) -> str:
    """What ran the work of a result: of a GPU's the GPU, whatever its host is."""
    return hardware["gpu"] or hardware["cpu"]


def worsened(name: str, fresh: dict[str, float], kept: dict[str, float], tolerance: float) -> list[str]:
    """A line for each ratio of benchmark `name` that grew by more than the share `tolerance`."""
    return [f"{name}: {key} is {fresh[key]:.3g}, was {kept[key]:.3g}"
            for key in kept if key in fresh and fresh[key] > kept[key] * (1 + tolerance)]


def unmeasured(name: str, fresh: dict[str, float], kept: dict[str, float]) -> list[str]:
    """A line for each ratio of benchmark `name` that git holds and that nobody measured again."""
    return [f"{name}: {key} was {kept[key]:.3g} and is not measured here" for key in kept if key not in fresh]

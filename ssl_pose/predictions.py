"""[I/O] What networks predict for persons, as quantised arrays and as Parquet; NumPy and pyarrow only.

Coordinates are stored as integers in 1/64 px (q64), so that files stay small and that metrics computed from
them are the same whether they come from memory or from the file. Errors and confidences of pseudo-labels are
stored in thousandths. Persons are rows of the packed crops. Equal content gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from ssl_pose.coco import DataError
from ssl_pose.files import write_bytes
from ssl_pose.skeleton import NUM_KEYPOINTS

QUANTUM = 1 / 64  # px (or heatmap cells) per unit of a stored coordinate
MODES = ("none", "average", "maximum")  # how the views of one network become one pseudo-heatmap


@dataclass(frozen=True)
class Predictions:
    """What one network says of the N persons of a set of crops, in their order."""

    network: int  # 0 and 1 are the run's networks, 2 is the mean of their heatmaps
    keypoints: NDArray[np.int32]  # (N, K, 2) q64 canvas px
    confidence: NDArray[np.float16]  # (N, K)
    score: NDArray[np.float32]  # (N,) of the person


def quantize(points: NDArray) -> NDArray[np.int32]:
    """Coordinates in units of QUANTUM, rounded to the nearest."""
    return np.rint(np.asarray(points, np.float64) / QUANTUM).astype(np.int32)


def dequantize(points: NDArray[np.int32]) -> NDArray[np.float64]:
    """Coordinates as px (or cells), exactly what is stored."""
    return points * QUANTUM


def thousandths(values: NDArray, up: bool) -> NDArray[np.uint16]:
    """Values of at least 0 in thousandths, at most 65.535, rounded `up` or down.

    An error that is rounded up is at most a threshold of three decimals, and a confidence that is rounded down at least
    one, just where the value itself is.
    """
    rounded = (np.ceil if up else np.floor)(1000 * np.asarray(values, np.float64))
    return np.clip(rounded, 0, np.iinfo(np.uint16).max).astype(np.uint16)


def from_thousandths(values: NDArray[np.uint16]) -> NDArray[np.float64]:
    return values / 1000


def write_predictions(path: Path, predictions: Sequence[Predictions]) -> None:
    """One row a (network, person): network, person, score, x_0.. and y_0.. q64 canvas px, confidences c_0.. ."""
    columns = [
        {
            "network": np.full(len(part.score), part.network, np.int8),
            "person": np.arange(len(part.score), dtype=np.int32),
            "score": part.score,
            **_columns("x", part.keypoints[..., 0]),
            **_columns("y", part.keypoints[..., 1]),
            **_columns("c", part.confidence),
        }
        for part in predictions
    ]
    write_parquet(path, {name: np.concatenate([part[name] for part in columns]) for name in columns[0]})


def read_predictions(path: Path) -> list[Predictions]:
    """The predictions of each network in `path`; raises `DataError` for a file that is missing or broken."""
    try:
        table = parquet.read_table(path)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        points = np.stack([_joints(columns, "x"), _joints(columns, "y")], -1)  # (M * N, K, 2)
        confidence, network, score = _joints(columns, "c"), columns["network"], columns["score"]
    except FileNotFoundError:
        raise DataError(f"no predictions {path}; run the evaluate stage") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        cause = " ".join(str(error).split())
        raise DataError(f"{path} is truncated or holds no predictions ({cause}); run the evaluate stage") from None
    return [
        Predictions(int(n), points[network == n], confidence[network == n], score[network == n])
        for n in np.unique(network)
    ]


def write_parquet(path: Path, columns: Mapping[str, NDArray]) -> None:
    """A Parquet file of equally long columns, whole or not at all.

    Coordinates hardly repeat, so that packed differences take 40 % less than Parquet's usual dictionaries. Thousandths
    take least byte by byte: their upper bytes are few.
    """
    table, buffer = pa.table(dict(columns)), pa.BufferOutputStream()
    packed = {field.name: "BYTE_STREAM_SPLIT" if field.type == pa.uint16() else "DELTA_BINARY_PACKED"
              for field in table.schema if pa.types.is_integer(field.type)}
    parquet.write_table(table, buffer, compression="zstd", use_dictionary=False, column_encoding=packed)
    write_bytes(buffer.getvalue().to_pybytes(), path)


def _columns(prefix: str, values: NDArray) -> dict[str, NDArray]:
    """The K columns of `values` (N, K), called <prefix>_0, <prefix>_1, ... ."""
    return {f"{prefix}_{joint}": np.ascontiguousarray(values[:, joint]) for joint in range(values.shape[1])}


def _joints(columns: Mapping[str, NDArray], prefix: str) -> NDArray:
    return np.stack([columns[f"{prefix}_{joint}"] for joint in range(NUM_KEYPOINTS)], -1)

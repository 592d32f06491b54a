"""Person crops, packed once by packing.py as memory-mapped uint8 with the arrays that describe them.

A folder of packed crops holds `crops.npy` (N, Hc, Wc, 3) uint8 RGB, `persons.npz` and `manifest.json`.
A crop is stored on a *canvas* larger than the network's input, so that a view is one warp straight from it:
photo px --crop_matrix--> canvas px --canvas_to_reference--> px of the un-augmented input, the canvas' centred
window. Integer coordinates are pixel centres. `crop_matrix` is one scale and a shift: the box, made to the
input's aspect and enlarged by `box_padding`, just fills the input; its centre is the canvas' centre.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_pose.coco import DataError, hash_file
from ssl_pose.config import DataConfig
from ssl_pose.photos import canvas_size_for

if TYPE_CHECKING:
    import torch

SCHEMA = 1  # of the packed folder; a folder of another schema is refused
# name -> shape of one person's entry and dtype, in persons.npz
PERSON_ARRAYS = {
    "keypoints": ((17, 2), np.float32), "visibility": ((17,), np.uint8), "crop_matrix": ((3, 3), np.float64),
    "image_id": ((), np.int64), "annotation_id": ((), np.int64), "area": ((), np.float64),
    "box_xywh": ((4,), np.float64),
}


@dataclass(frozen=True)
class CropSet:
    """Packed crops of N persons, in the order of `PersonRecords`."""

    crops: np.ndarray  # (N, Hc, Wc, 3) uint8 RGB, memory-mapped
    keypoints: np.ndarray  # (N, 17, 2) float32, canvas px; meaningless where visibility is 0
    visibility: np.ndarray  # (N, 17) uint8
    crop_matrix: np.ndarray  # (N, 3, 3) float64, photo px -> canvas px
    image_id: np.ndarray  # (N,) int64
    annotation_id: np.ndarray  # (N,) int64
    area: np.ndarray  # (N,) float64, photo px^2
    box_xywh: np.ndarray  # (N, 4) float64, photo px
    mean_color: np.ndarray  # (3,) float32 in [0, 1], over all stored pixels
    canvas_size: tuple[int, int]  # height, width
    input_size: tuple[int, int]  # height, width
    annotations_sha256: str  # of the annotation file that the persons come from
    content_sha256: str  # of the pixels and the arrays
    directory: Path | None = None  # where they lie packed; None for a selection of them

    def __len__(self) -> int:
        return len(self.image_id)

    def subset(self, index: np.ndarray | slice) -> CropSet:
        """The persons at `index`; an index array copies their crops into memory, a slice stays mapped."""
        return replace(self, crops=self.crops[index], directory=None,
                       **{name: getattr(self, name)[index] for name in PERSON_ARRAYS})


def load_crops(directory: str | Path, verify: bool = False) -> CropSet:
    """The packed crops in `directory`, memory-mapped; `verify` also compares the hashes of all bytes."""
    directory = Path(directory)
    manifest = _read_manifest(directory)
    count, canvas_size = manifest["num_persons"], tuple(manifest["canvas_size"])
    try:
        crops = np.load(directory / "crops.npy", mmap_mode="r")
        with np.load(directory / "persons.npz") as archive:
            arrays = {name: archive[name] for name in PERSON_ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{directory} holds truncated or foreign crops ({error}); pack them again") from None
    expected = {"crops": ((*canvas_size, 3), np.uint8), **PERSON_ARRAYS}
    for name, array in {"crops": crops, **arrays}.items():
        shape, dtype = expected[name]
        if array.shape != (count, *shape) or array.dtype != dtype:
            raise DataError(f"{directory}: {name} is {array.dtype} {array.shape}, the manifest says "
                            f"{np.dtype(dtype)} {(count, *shape)}; pack the crops again")
    if verify:
        for name, digest in manifest["sha256"].items():
            if hash_file(directory / name) != digest:
                raise DataError(f"{directory / name} is not what was packed (sha256 differs); pack it again")
    return CropSet(
        crops=crops, **arrays, mean_color=np.array(manifest["mean_color"], dtype=np.float32),
        canvas_size=canvas_size, input_size=tuple(manifest["input_size"]),
        annotations_sha256=manifest["annotations_sha256"],
        content_sha256=hashlib.sha256("".join(sorted(manifest["sha256"].values())).encode()).hexdigest(),
        directory=directory,
    )


def check_size(crops: CropSet, data: DataConfig) -> None:
    """Raises `DataError` where `crops` were packed for another input or canvas than `data` asks for."""
    wanted = canvas_size_for(data.input_size, data.canvas_scale)
    if (crops.input_size, crops.canvas_size) != (data.input_size, wanted):
        raise DataError(f"{crops.directory or 'the crops'}: packed for an input of {_sides(crops.input_size)} on a "
                        f"canvas of {_sides(crops.canvas_size)}, but data.input_size and data.canvas_scale ask for "
                        f"{_sides(data.input_size)} on {_sides(wanted)}; run the data stage again, or set them back")


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def canvas_to_reference(canvas_size: tuple[int, int], input_size: tuple[int, int]) -> torch.Tensor:
    """(3, 3) float32 translation from canvas px to px of the input, the canvas' centred window."""
    import torch  # here: the processes that pack need none and start 2 s sooner

    matrix = torch.eye(3)
    matrix[0, 2] = (input_size[1] - canvas_size[1]) / 2
    matrix[1, 2] = (input_size[0] - canvas_size[0]) / 2
    return matrix


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"no packed crops in {directory}: no {path.name}; run the data stage") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is truncated ({error}); pack the crops again") from None
    needed = {"schema", "num_persons", "input_size", "canvas_size", "mean_color", "annotations_sha256", "sha256"}
    if not isinstance(manifest, dict) or not needed <= manifest.keys() or manifest["schema"] != SCHEMA:
        raise DataError(f"{path} is no manifest of packed crops, schema {SCHEMA}; pack the crops again")
    return manifest

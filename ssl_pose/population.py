"""Who is in the data: the table of validation persons, statistics of both splits, and a few crops to look at.

The data stage writes these beside the packed crops. They are small and stay in git, so that tables and figures can
be made again without photos. Coordinates are stored in whole 1/64 px of the canvas, so that scores computed from
the stored table are the same everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ssl_pose.coco import PersonRecords
from ssl_pose.crops import CropSet
from ssl_pose.predictions import quantize
from ssl_pose.scoring import reference_lengths
from ssl_pose.skeleton import KEYPOINT_NAMES, NUM_KEYPOINTS

BOX_HEIGHT_EDGES = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)  # photo px


def person_table(crops: CropSet, pck_reference: str) -> pd.DataFrame:
    """One row a person: ids, area, box, crop matrix, reference length of PCK (canvas px), points and visibility."""
    columns = {
        "person": np.arange(len(crops), dtype=np.int32),
        "image_id": crops.image_id, "annotation_id": crops.annotation_id, "area": crops.area.astype(np.float32),
        "reference_length": reference_lengths(crops, pck_reference),
    }
    columns |= {f"box_{name}": crops.box_xywh[:, i].astype(np.float32) for i, name in enumerate("xywh")}
    columns |= {f"m{row}{column}": crops.crop_matrix[:, row, column] for row in range(2) for column in range(3)}
    fixed = quantize(crops.keypoints)
    for joint in range(NUM_KEYPOINTS):
        columns[f"x_{joint}"], columns[f"y_{joint}"] = fixed[:, joint, 0], fixed[:, joint, 1]
        columns[f"v_{joint}"] = crops.visibility[:, joint].astype(np.int8)
    return pd.DataFrame(columns)


def summarize_persons(records: PersonRecords) -> dict[str, Any]:
    """Statistics of the packed persons of a split, as plain numbers and lists."""
    persons_per_photo = np.unique(records.image_id, return_counts=True)[1]
    visibility, boxes, sizes = records.visibility, records.box_xywh, records.photo_size
    ends = boxes[:, :2] + boxes[:, 2:]
    truncated = (boxes[:, :2] < 1).any(1) | (ends > sizes[:, ::-1] - 1).any(1)  # the box touches the border
    return {
        "num_photos": len(persons_per_photo), "num_persons": len(records), "selection": records.counts,
        "persons_per_photo": np.bincount(persons_per_photo).tolist(),
        "visibility": {name: np.bincount(visibility[:, joint], minlength=3).tolist()
                       for joint, name in enumerate(KEYPOINT_NAMES)},
        "box_height": np.histogram(boxes[:, 3], BOX_HEIGHT_EDGES)[0].tolist(),
        "box_height_edges": list(BOX_HEIGHT_EDGES),
        "truncated": round(float(truncated.mean()), 4),
    }


def sample_persons(crops: CropSet, count: int) -> dict[str, np.ndarray]:
    """`count` persons spread over the set: whole canvases, keypoints (canvas px) and visibility."""
    index = np.unique(np.linspace(0, len(crops) - 1, count).astype(int))
    chosen = crops.subset(index)
    return {"crops": chosen.crops, "keypoints": chosen.keypoints, "visibility": chosen.visibility}

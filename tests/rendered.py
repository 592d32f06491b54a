"""A COCO directory of rendered people with COCO's real dimensions and mix: 640x480, several persons a photo."""

import json
from pathlib import Path

import numpy as np

from ssl_pose.synthetic import write_benchmark

PHOTO_SIZE = (480, 640)


def render_coco(directory: Path, num_train: int = 8, num_val: int = 3, num_unlabeled: int = 3) -> Path:
    """train2017, val2017 and unlabeled2017 with crowds, persons without keypoints, and a detector's boxes.

    The photos without labels are rendered with another seed; their ids follow those of the others.
    """
    write_benchmark(directory, num_train, num_val, PHOTO_SIZE, persons_per_photo=3.0, seed=1)
    other = directory.with_name(f"{directory.name}_other")
    write_benchmark(other, num_unlabeled, 1, PHOTO_SIZE, persons_per_photo=3.0, seed=2)
    (other / "train2017").rename(directory / "unlabeled2017")
    hidden = json.loads((other / "annotations/person_keypoints_train2017.json").read_text())
    for entry in (*hidden["images"], *hidden["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] += 900_000
    (directory / "annotations/image_info_unlabeled2017.json").write_text(json.dumps({"images": hidden["images"]}))
    write_detections(directory, "unlabeled2017", hidden["annotations"])
    path = directory / "annotations/person_keypoints_val2017.json"
    val = json.loads(path.read_text())
    write_detections(directory, "val2017", val["annotations"])
    first = val["annotations"][0]
    val["annotations"] += [first | {"id": 10**9, "iscrowd": 1, "bbox": [0, 0, 640, 200], "area": 99_999.0},
                           first | {"id": 10**9 + 1, "keypoints": [0] * 51, "num_keypoints": 0}]
    path.write_text(json.dumps(val))
    return directory


def write_detections(directory: Path, split: str, annotations: list[dict]) -> None:
    """What a good detector might find: boxes a few px off, most of them twice, with scores."""
    random = np.random.default_rng(0)
    boxes = []
    for annotation in annotations:
        for score in random.uniform(0.5, 1.0, random.integers(1, 3)):
            box = np.array(annotation["bbox"]) + random.normal(0, 2, 4)
            box[2:] = np.maximum(box[2:], 4)
            boxes.append({"image_id": annotation["image_id"], "category_id": 1, "score": round(float(score), 3),
                          "bbox": box.round(2).tolist()})
    path = directory / "annotations" / f"person_detections_{split}.json"
    path.write_text(json.dumps(boxes))

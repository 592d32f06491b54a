"""COCO's own numbers: all of train2017's photos, masks and persons are read and packed within 2 GiB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PHOTOS, WITH_PERSONS = 118_287, 56_599  # of train2017; those with a person who has keypoints
ANNOTATIONS, PERSONS = 262_465, 149_813  # of person_keypoints_train2017.json; those that are kept
MASK = 60  # numbers of a mask, which makes the file about as large as COCO's, 239 MB
SIZE = (64, 48)  # width, height, px: of the photos, all of them the same
CODE = """
import json, resource, sys
from ssl_pose.coco import load_persons
from ssl_pose.packing import pack_crops
manifest = pack_crops(sys.argv[1], load_persons(sys.argv[1]), sys.argv[2], (32, 24), 1.25, 1.25)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"persons": manifest["num_persons"], "photos": manifest["num_photos"],
                  "selection": manifest["selection"], "GiB": peak}))
"""


def write_train2017(directory: Path) -> None:
    """train2017 by its numbers: persons first, each photo's share, then annotations without keypoints, and crowds."""
    (directory / "annotations").mkdir(parents=True)
    (directory / "train2017").mkdir()
    Image.new("RGB", SIZE, (90, 120, 60)).save(directory / "photo.jpg")
    for image in range(WITH_PERSONS):
        os.link(directory / "photo.jpg", directory / "train2017" / f"{image:012}.jpg")
    random = np.random.default_rng(0)
    points = [1, 2, 2] * 17
    with (directory / "annotations/person_keypoints_train2017.json").open("w") as file:
        images = [{"id": image, "file_name": f"{image:012}.jpg", "width": SIZE[0], "height": SIZE[1],
                   "coco_url": f"http://images.cocodataset.org/train2017/{image:012}.jpg"} for image in range(PHOTOS)]
        file.write(f'{{"images": {json.dumps(images)}, "categories": [{{"id": 1}}], "annotations": [')
        for number in range(ANNOTATIONS):
            kept = number < PERSONS
            mask = random.uniform(0, 640, MASK).round(2).tolist()
            annotation = {"segmentation": [mask * 2], "id": number, "image_id": number % WITH_PERSONS,
                          "category_id": 1, "iscrowd": int(number % 20 == 0 and not kept), "area": 300.0,
                          "bbox": [5, 4, 30, 40], "keypoints": points if kept else [0] * 51}
            file.write(f"{', ' if number else ''}{json.dumps(annotation)}")
        file.write("]}")


@pytest.mark.soak
def test_train2017_is_read_and_packed_within_two_gibibytes(tmp_path: Path):
    write_train2017(tmp_path / "coco")
    size = (tmp_path / "coco/annotations/person_keypoints_train2017.json").stat().st_size
    assert 200e6 < size < 400e6
    done = subprocess.run([sys.executable, "-c", CODE, tmp_path / "coco", tmp_path / "crops"], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    found = json.loads(done.stdout)
    print(found)
    assert (found["persons"], found["photos"]) == (PERSONS, WITH_PERSONS)
    assert found["selection"]["annotations"] == ANNOTATIONS
    assert found["selection"]["crowd"] + found["selection"]["no_keypoints"] == ANNOTATIONS - PERSONS
    assert found["GiB"] < 2

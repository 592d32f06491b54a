"""Fixtures that several test modules share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.rendered import render_coco

SPLITS = ("train2017", "val2017")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """What torch draws without a generator does not depend on which tests ran before."""
    torch.manual_seed(0)


def person(annotation_id: int, image_id: int) -> dict:
    """A person whose box and points lie well inside a photo of 48 x 80 (height x width)."""
    left = 10 + 3 * (annotation_id % 7)
    points = [[left + joint, 8 + 1.5 * joint, 2 if joint % 5 else joint // 5 % 2] for joint in range(17)]
    flat = [number for point in points for number in point]
    return {"id": annotation_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": 300.0,
            "bbox": [left - 2, 6, 20, 30], "keypoints": flat, "num_keypoints": sum(v > 0 for v in flat[2::3])}


@pytest.fixture
def coco_directory(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small COCO directory of PNG photos; `change` edits the training JSON before it is written."""

    def write(
        num_images: int = 3, persons_per_image: int = 2, photo_size: tuple[int, int] = (48, 80),
        change: Callable[[dict], None] = lambda data: None, name: str = "coco",
    ) -> Path:
        directory = tmp_path / name
        (directory / "annotations").mkdir(parents=True)
        for number, split in enumerate(SPLITS):
            (directory / split).mkdir()
            first, height, width = 100 * number + 1, *photo_size
            images = [{"id": first + i, "file_name": f"{first + i:06}.png", "height": height, "width": width}
                      for i in range(num_images)]
            for image in images:
                noise = np.random.default_rng(image["id"]).integers(0, 256, (height, width, 3), np.uint8)
                Image.fromarray(noise).save(directory / split / image["file_name"])
            # The annotations do not lie by image, as COCO's do not.
            persons = [person(1000 * first + row, images[row % num_images]["id"])
                       for row in range(num_images * persons_per_image)]
            data = {"images": images, "annotations": persons, "categories": [{"id": 1, "name": "person"}]}
            if split == "train2017":
                change(data)
            (directory / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(data))
        return directory

    return write


@pytest.fixture(scope="session")
def rendered_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO directory like the real one, to be left as it is: see tests/rendered.py."""
    return render_coco(tmp_path_factory.mktemp("rendered") / "coco")

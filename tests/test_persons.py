"""Who is packed: annotated persons first, then those that a detector found in photos without labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_pose.coco import DataError, load_persons
from ssl_pose.config import load_config
from ssl_pose.fingerprints import fingerprint_directory
from ssl_pose.persons import load_detections, training_persons

DATA = replace(load_config(Path(__file__).parents[1] / "params.yaml").data, source="coco")
FULL = replace(DATA, unlabeled_photos=True, detections="boxes.json")


@pytest.fixture
def directory(coco_directory) -> Path:
    """Three annotated photos and two without labels, the second listed first; five boxes, one of them of a dog."""
    directory = coco_directory(num_images=3)
    images = [{"id": number, "file_name": f"{number}.png", "height": 48, "width": 80} for number in (502, 501)]
    (directory / "unlabeled2017").mkdir()
    for image in images:
        Image.new("RGB", (80, 48)).save(directory / "unlabeled2017" / image["file_name"])
    (directory / "annotations/image_info_unlabeled2017.json").write_text(json.dumps({"images": images}))
    boxes = [box(501, [1, 2, 30, 40], 0.9), box(502, [-5, 10, 30, 60], 0.4), box(501, [3, 4, 9, 9], 0.99, category=18),
             box(502, [3.5, 4.5, 20, 10], 0.8), box(501, [0, 0, 80, 48], 0.1)]
    (directory / "boxes.json").write_text(json.dumps(boxes))
    return directory


def box(image_id, bbox, score, category=1):
    return {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score}


def test_detected_persons_have_boxes_and_no_keypoints_and_lie_by_photo(directory):
    persons = load_detections(directory, "unlabeled2017", directory / "boxes.json", 0.2)
    assert persons.image_id.tolist() == [502, 502, 501]
    assert persons.annotation_id.tolist() == [-2, -3, -1]
    assert persons.file_name == ("unlabeled2017/502.png",) * 2 + ("unlabeled2017/501.png",)
    assert persons.box_xywh.tolist() == [[0, 10, 25, 38], [3.5, 4.5, 20, 10], [1, 2, 30, 40]]
    assert persons.area.tolist() == [25 * 38, 200, 1200]
    assert persons.score.tolist() == [0.4, 0.8, 0.9]
    assert not persons.visibility.any()
    assert persons.counts == {"detections": 4, "low_score": 1, "persons": 3}


def test_a_detected_person_has_the_same_id_whatever_the_least_score(directory):
    every = load_detections(directory, "unlabeled2017", directory / "boxes.json", 0.0)
    few = load_detections(directory, "unlabeled2017", directory / "boxes.json", 0.5)
    assert set(few.annotation_id.tolist()) < set(every.annotation_id.tolist())
    rows = np.isin(every.annotation_id, few.annotation_id)
    np.testing.assert_array_equal(every.box_xywh[rows], few.box_xywh)


def test_training_persons_are_the_annotated_and_on_request_the_detected(directory):
    labeled, full = training_persons(directory, DATA), training_persons(directory, FULL)
    assert len(labeled) == 6
    assert full.annotation_id.tolist() == [*labeled.annotation_id.tolist(), -2, -3, -1, -4]
    assert (full.visibility > 0).any(1).tolist() == [True] * 6 + [False] * 4
    assert full.annotations_sha256 != labeled.annotations_sha256
    assert full.counts["persons"] == 6
    assert full.counts["detected_persons"] == 4
    few = training_persons(directory, replace(FULL, max_train_persons=2))
    assert few.annotation_id.tolist() == [*labeled.annotation_id.tolist()[:2], -2, -3]


def test_without_detections_the_error_names_the_format(directory):
    (directory / "boxes.json").unlink()
    with pytest.raises(DataError) as caught:
        training_persons(directory, FULL)
    assert "no detections file" in str(caught.value)
    assert '"bbox": [x, y, width, height], "score": 0.98' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    ("{}", "holds no detections"), ("[]", "holds no detections"), ("[1]", "holds no detections"),
    ('[{"image_id"', "no complete JSON"),
    ([box(77, [0, 0, 9, 9], 1.0)], "image_id 77 is no photo of unlabeled2017"),
    ([box("501", [0, 0, 9, 9], 1.0)], "entry 0 has no image_id or score"),
    ([box(501, [0, 0, 9, 9], None)], "entry 0 has no image_id or score"),
    ([box(501, [0, 0, 9], 0.5)], "annotation 0: bbox must be 4 numbers, got 3 values"),
    ([box(501, [0, 0, 0, 9], 0.5)], "annotation 0: bbox [0.0, 0.0, 0.0, 9.0] has no area"),
    ([box(501, [0, 0, 9, 9], 0.5, category=3)], "no entry has category_id 1"),
    ([box(501, [0, 0, 9, 9], -0.5)], "no box scores at least 0.0"),
])
def test_a_file_of_another_format_is_refused_in_one_line(directory, content, message):
    (directory / "boxes.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError) as caught:
        training_persons(directory, FULL)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_photos_in_both_sets_are_refused(directory):
    path = directory / "annotations/image_info_unlabeled2017.json"
    path.write_text(path.read_text().replace("501", "1"))
    (directory / "boxes.json").write_text((directory / "boxes.json").read_text().replace("501", "1"))
    (directory / "unlabeled2017/501.png").rename(directory / "unlabeled2017/1.png")
    with pytest.raises(DataError, match="image id 1 is in both sets of photos"):
        training_persons(directory, FULL)


def test_boxes_of_annotated_photos_are_read_too(directory):
    (directory / "boxes.json").write_text(json.dumps([box(101, [0, 0, 9, 9], 0.5)]))
    persons = load_detections(directory, "val2017", directory / "boxes.json", 0.0)
    assert persons.file_name == ("val2017/000101.png",)


def test_the_fingerprint_covers_photos_without_labels_where_they_are_used(directory):
    names = ("annotations/image_info_unlabeled2017.json", "boxes.json")
    with_them = fingerprint_directory(directory, unlabeled=names)["files"]
    assert with_them.keys() - fingerprint_directory(directory)["files"].keys() == {
        *names, "unlabeled2017/501.png", "unlabeled2017/502.png"}
    (directory / "boxes.json").unlink()
    with pytest.raises(DataError, match=r"no file .*boxes\.json"):
        fingerprint_directory(directory, unlabeled=names)


def test_taking_rows_keeps_them_together(directory):
    persons = load_persons(directory).take(np.array([4, 1]))
    assert persons.annotation_id.tolist() == [1002, 1003]
    assert persons.file_name == ("train2017/000003.png", "train2017/000001.png")
    assert len(persons.box_xywh) == len(persons.score) == 2

"""COCO directories: the standard selection, results that pycocotools loads, one line for everything broken."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from ssl_pose.coco import DataError, load_persons, write_results

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "coco17_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real photos is not on this machine")


def entry(key, value, row=0, of="annotations"):
    """A change of one entry of the JSON."""
    return lambda data: data[of][row].__setitem__(key, value)


def without(key, row=0, of="annotations"):
    return lambda data: data[of][row].pop(key)


def test_persons_lie_by_image_in_the_order_of_the_images(coco_directory):
    persons = load_persons(coco_directory(num_images=3, persons_per_image=2))
    assert persons.image_id.tolist() == [1, 1, 2, 2, 3, 3]
    assert persons.annotation_id.tolist() == [1000, 1003, 1001, 1004, 1002, 1005]
    assert persons.file_name[2] == "train2017/000002.png"
    assert persons.photo_size.tolist() == [[48, 80]] * 6


def test_points_and_flags_are_those_of_the_file(coco_directory):
    directory = coco_directory()
    persons = load_persons(directory, "val2017")
    listed = json.loads((directory / "annotations/person_keypoints_val2017.json").read_text())["annotations"]
    triples = np.array(listed[0]["keypoints"]).reshape(17, 3)
    np.testing.assert_array_equal(persons.keypoints[0], triples[:, :2])
    np.testing.assert_array_equal(persons.visibility[0], triples[:, 2])
    assert set(persons.visibility[0].tolist()) == {0, 1, 2}


def test_the_standard_selection_counts_what_each_rule_drops(coco_directory):
    def change(data):
        crowd, unseen, flat, other, *_ = data["annotations"]
        crowd.update(iscrowd=1, keypoints="a crowd's points are never read")
        unseen["keypoints"] = [0] * 51
        flat["area"] = 0
        other["category_id"] = 2

    persons = load_persons(coco_directory(change=change))
    assert persons.counts == {"annotations": 6, "other_category": 1, "crowd": 1, "no_keypoints": 1, "no_area": 1,
                              "persons": 2}
    assert len(persons) == 2


def test_a_box_is_clipped_to_its_photo(coco_directory):
    def change(data):
        data["annotations"][0]["bbox"] = [-10, -5, 30, 20]
        data["annotations"][1]["bbox"] = [70.5, 40, 20, 20]

    boxes = load_persons(coco_directory(num_images=6, persons_per_image=1, change=change)).box_xywh
    assert boxes[0].tolist() == [0, 0, 20, 15]
    assert boxes[1].tolist() == [70.5, 40, 9.5, 8]


BROKEN = {
    "16 keypoints": (entry("keypoints", [1] * 48), "annotation 1000: keypoints must be 51 numbers, got 48 values"),
    "no keypoints key": (without("keypoints"), "annotation 1000: keypoints must be 51 numbers, got None"),
    "text among numbers": (entry("bbox", [1, 2, "3", 4]), "annotation 1000: bbox must be 4 numbers, got"),
    "nan keypoint": (entry("keypoints", [float("nan"), 2, 2] * 17), "keypoints holds a number that is not finite"),
    "infinite box": (entry("bbox", [0, 0, float("inf"), 9]), "bbox holds a number that is not finite"),
    "visibility 3": (entry("keypoints", [1, 1, 3] * 17), "visibility of keypoint 0 is 3, not 0, 1 or 2"),
    "half visibility": (entry("keypoints", [1, 1, 0.5] * 17), "visibility of keypoint 0 is 0.5"),
    "no area key": (without("area"), "annotation 1000: area must be a finite number, got None"),
    "flat box": (entry("bbox", [5, 5, 10, 0]), "annotation 1000: bbox [5.0, 5.0, 10.0, 0.0] has no area"),
    "outlying box": (entry("bbox", [90, 5, 10, 9]), "lies outside its photo of 80 x 48 px"),
    "unknown image": (entry("image_id", 77), "annotation 1000: image_id 77 is not among the images"),
    "text as id": (entry("id", "1000"), "id of entry 0 must be an integer, got '1000'"),
    "same id twice": (entry("id", 1001), "annotation id 1001 occurs more than once"),
    "same image twice": (entry("id", 2, of="images"), "image id 2 occurs more than once"),
    "no name": (without("file_name", of="images"), "image 1: file_name must be a text, got None"),
    "name with ..": (entry("file_name", "../a.png", of="images"), "image 1: file_name '../a.png' leaves the photo"),
    "absolute name": (entry("file_name", "/a.png", of="images"), "image 1: file_name '/a.png' leaves the photo"),
    "width 0": (entry("width", 0, of="images"), "image 1: width must be a number of px, got 0"),
    "no images": (lambda data: data.pop("images"), "no COCO annotation file: it has no list 'images'"),
    "no annotations": (lambda data: data.pop("annotations"), "it has no list 'annotations'"),
    "no categories": (lambda data: data.pop("categories"), "it has no list 'categories'"),
    "list of numbers": (lambda data: data.update(annotations=[1, 2]), "it has no list 'annotations' of objects"),
    "no category person": (entry("id", 9, of="categories"), "categories has none with id 1"),
    "nobody": (lambda data: data.update(annotations=[]), "no person with keypoints is left"),
    "missing photo": (entry("file_name", "gone.png", of="images"), "missing photo"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_named_in_one_line(coco_directory, name):
    change, message = BROKEN[name]
    directory = coco_directory(change=change)
    with pytest.raises(DataError) as caught:
        load_persons(directory)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_directory_file_or_split_is_named(coco_directory, tmp_path):
    with pytest.raises(DataError, match=r"no COCO directory .*nowhere"):
        load_persons(tmp_path / "nowhere")
    directory = coco_directory()
    with pytest.raises(DataError, match=r"no annotation file .*person_keypoints_test2017\.json"):
        load_persons(directory, "test2017")


@pytest.mark.parametrize("text", ["", '{"images": [{"id": 1', "[1, 2]", "\x00\xff"])
def test_a_file_that_is_cut_short_or_no_coco_is_refused(coco_directory, text):
    directory = coco_directory()
    (directory / "annotations/person_keypoints_train2017.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"person_keypoints_train2017\.json is no "):
        load_persons(directory)


def test_results_load_in_pycocotools_and_keep_points_and_scores(coco_directory, tmp_path):
    directory = coco_directory()
    persons = load_persons(directory)
    scores = np.linspace(0.1, 0.9, len(persons))
    write_results(tmp_path / "results.json", persons.image_id, persons.keypoints + 0.1234, scores)
    truth = COCO(str(directory / "annotations/person_keypoints_train2017.json"))
    loaded = truth.loadRes(str(tmp_path / "results.json")).loadAnns(range(1, 7))
    assert [row["score"] for row in loaded] == scores.tolist()
    points = np.array([row["keypoints"] for row in loaded]).reshape(6, 17, 3)
    np.testing.assert_allclose(points[..., :2], persons.keypoints + 0.1234, atol=5e-4)
    assert not list(tmp_path.glob("*.partial"))


def test_results_that_are_not_finite_or_do_not_fit_are_refused_and_not_written(tmp_path):
    points = np.zeros((2, 17, 2))
    with pytest.raises(DataError, match="not finite"):
        write_results(tmp_path / "results.json", np.array([1, 2]), points, np.array([0.5, np.nan]))
    with pytest.raises(DataError, match="1 scores"):
        write_results(tmp_path / "results.json", np.array([1, 2]), points, np.array([0.5]))
    assert not list(tmp_path.iterdir())


@needs_sample
@pytest.mark.parametrize(("split", "count"), [("train2017", 282), ("val2017", 387)])
def test_real_persons_are_those_that_pycocotools_selects(split, count):
    persons = load_persons(SAMPLE, split)
    truth = COCO(str(SAMPLE / "annotations" / f"person_keypoints_{split}.json"))
    selected = truth.loadAnns(truth.getAnnIds(catIds=[1], iscrowd=False))
    expected = {row["id"] for row in selected if row["num_keypoints"] > 0}
    assert set(persons.annotation_id.tolist()) == expected
    assert len(persons) == persons.counts["persons"] == count
    dropped = sum(value for rule, value in persons.counts.items() if rule not in ("annotations", "persons"))
    assert persons.counts["annotations"] == len(truth.anns) == count + dropped

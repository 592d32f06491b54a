"""Label splits: sizes, disjointness, nesting and independence of machine and order are proved here."""

import hashlib
import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest

from ssl_pose.coco import DataError, load_persons
from ssl_pose.crops import load_crops
from ssl_pose.packing import pack_crops
from ssl_pose.splits import draw_labels, fingerprint_splits, read_split, split_labels, write_split


@pytest.fixture(scope="module")
def ids():
    """Image ids (600,), as in a file: 200 images of one to five persons; and annotation ids (600,)."""
    generator = np.random.default_rng(0)
    image_id = np.repeat(generator.permutation(10_000)[:200], [1, 5, 2, 4, 3] * 40)
    return image_id, generator.permutation(100_000)[:600]


@pytest.fixture
def crops(coco_directory, tmp_path):
    directory = coco_directory(num_images=5)
    pack_crops(directory, load_persons(directory), tmp_path / "crops", (64, 48), 1.0, 1.25)
    return load_crops(tmp_path / "crops")


@pytest.mark.parametrize("method", ["hash", "first"])
@pytest.mark.parametrize("unit", ["image", "person"])
@pytest.mark.parametrize("count", [1, 17, 200])
def test_exactly_label_count_units_are_labelled(ids, method, unit, count):
    labeled = split_labels(*ids, count, seed=0, method=method, unit=unit)
    counted = ids[0] if unit == "image" else ids[1]
    assert len(np.unique(counted[labeled])) == count


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_photo_is_in_both_streams_when_images_are_counted(ids, seed):
    labeled = split_labels(*ids, 40, seed=seed)
    assert not set(ids[0][labeled]) & set(ids[0][~labeled])


@pytest.mark.parametrize("method", ["hash", "first"])
@pytest.mark.parametrize("unit", ["image", "person"])
def test_smaller_splits_lie_inside_larger_ones(ids, method, unit):
    masks = [split_labels(*ids, count, 3, method, unit) for count in (5, 10, 50, 100, 200)]
    for small, large in itertools.pairwise(masks):
        assert (small <= large).all()
        assert small.sum() < large.sum()


def test_the_hash_draws_the_ids_of_smallest_sha256():
    image_id, annotation_id = np.array([7, 3, 7, 12]), np.array([1, 2, 3, 4])
    by_digest = sorted((3, 7, 12), key=lambda i: hashlib.sha256(f"5:{i}".encode()).hexdigest())
    assert by_digest == [12, 7, 3]
    assert split_labels(image_id, annotation_id, 1, seed=5).tolist() == [False, False, False, True]
    assert split_labels(image_id, annotation_id, 2, seed=5).tolist() == [True, False, True, True]


def test_the_order_of_the_persons_does_not_matter_to_the_hash(ids):
    order = np.random.default_rng(1).permutation(600)
    shuffled = split_labels(ids[0][order], ids[1][order], 40, seed=0)
    np.testing.assert_array_equal(shuffled, split_labels(*ids, 40, seed=0)[order])


def test_seeds_draw_different_and_evenly_spread_labels(ids):
    drawn = np.mean([split_labels(*ids, 50, seed, unit="person") for seed in range(200)], axis=0)
    assert drawn.mean() == pytest.approx(50 / 600)
    assert drawn.max() < 0.19  # five standard deviations of a share of 200 draws


def test_first_takes_the_head_of_the_file_whatever_the_seed(ids):
    persons = split_labels(*ids, 10, seed=9, method="first", unit="person")
    assert persons.tolist() == [True] * 10 + [False] * 590
    images = split_labels(*ids, 3, seed=9, method="first", unit="image")
    assert images.tolist() == [True] * (1 + 5 + 2) + [False] * 592


@pytest.mark.parametrize(("count", "unit", "message"), [
    (0, "image", "must be at least 1, got 0"),
    (-3, "image", "must be at least 1, got -3"),
    (201, "image", "label_count is 201, but there are only 200 images"),
    (601, "person", "label_count is 601, but there are only 600 persons"),
])
def test_none_or_too_many_labels_are_refused(ids, count, unit, message):
    with pytest.raises(DataError, match=message):
        split_labels(*ids, count, seed=0, unit=unit)


def test_an_unknown_method_is_refused(ids):
    with pytest.raises(DataError, match="must be hash or first, got 'last'"):
        split_labels(*ids, 3, seed=0, method="last")


def test_all_of_coco_splits_in_a_second():
    annotation_id = np.arange(150_000)
    start = time.process_time()
    labeled = split_labels(annotation_id // 3, annotation_id, 10_000, seed=0, unit="person")
    assert labeled.sum() == 10_000
    assert time.process_time() - start < 1


def test_an_exported_split_reads_back(crops, tmp_path):
    labeled = split_labels(crops.image_id, crops.annotation_id, 2, seed=1)
    path = tmp_path / "splits" / "seed-1.json"
    write_split(path, crops, labeled, label_count=2, seed=1, method="hash", unit="image")
    np.testing.assert_array_equal(read_split(path, crops), labeled)
    split = json.loads(path.read_text())
    assert {key: split[key] for key in ("method", "unit", "label_count", "seed")} == {
        "method": "hash", "unit": "image", "label_count": 2, "seed": 1}
    assert len(split["image_ids"]) == 2
    assert len(split["annotation_ids"]) == 4
    assert [file.name for file in path.parent.iterdir()] == ["seed-1.json"]


@pytest.mark.parametrize(("change", "message"), [
    ({"annotations_sha256": "0" * 64}, "made for other annotations"),
    ({"annotation_ids": [1, 2]}, "2 of its 2 persons are not among them"),
    ({"annotation_ids": []}, "does not fit the packed crops"),
    ({"image_ids": [77]}, "image_ids differ"),
    ({"annotation_ids": ["a"]}, "truncated or no split"),
    ({"annotation_ids": None}, "truncated or no split"),
])
def test_a_split_that_does_not_fit_is_refused_in_one_line(crops, tmp_path, change, message):
    path = tmp_path / "split.json"
    labeled = split_labels(crops.image_id, crops.annotation_id, 2, seed=1)
    write_split(path, crops, labeled, label_count=2, seed=1, method="hash", unit="image")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError) as caught:
        read_split(path, crops)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_cut_or_foreign_split_file_is_refused(crops, tmp_path):
    with pytest.raises(DataError, match="no split file"):
        read_split(tmp_path / "split.json", crops)
    for text in ('{"annotation_ids": [1', "{}", "[1]"):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(DataError, match="truncated or no split"):
            read_split(tmp_path / "split.json", crops)


def test_a_split_of_all_persons_does_not_fit_a_part_of_them(crops, tmp_path):
    labeled = np.ones(len(crops), bool)
    write_split(tmp_path / "s.json", crops, labeled, label_count=5, seed=0, method="first", unit="image")
    with pytest.raises(DataError, match="persons are not among them"):
        read_split(tmp_path / "s.json", crops.subset(slice(0, 4)))


def test_no_count_labels_all_that_are_annotated_and_detected_persons_never(crops):
    visibility = crops.visibility.copy()
    visibility[[1, 4]] = 0
    mixed = replace(crops, visibility=visibility)
    annotated = np.array([True, False, True, True, False, True, True, True, True, True])
    np.testing.assert_array_equal(draw_labels(mixed, 0, seed=3), annotated)
    np.testing.assert_array_equal(draw_labels(mixed, 8, seed=3, unit="person"), annotated)
    with pytest.raises(DataError, match="label_count is 9, but there are only 8 persons"):
        draw_labels(mixed, 9, seed=3, unit="person")
    few = draw_labels(mixed, 2, seed=3)
    assert len(np.unique(mixed.image_id[few])) == 2
    assert not few[[1, 4]].any()


def test_a_split_that_was_exported_is_imported_by_its_name(crops, tmp_path):
    labeled = draw_labels(crops, 2, seed=1)
    write_split(tmp_path / "seed-1.json", crops, labeled, label_count=2, seed=1, method="hash", unit="image")
    imported = draw_labels(crops, 2, 1, "file", "image", str(tmp_path / "seed-{seed}.json"))
    np.testing.assert_array_equal(imported, labeled)


@pytest.mark.parametrize(("key", "of", "unit"), [("annotation_ids", "annotation_id", "person"),
                                                 ("image_ids", "image_id", "image")])
def test_a_list_of_ids_is_a_split(crops, tmp_path, key, of, unit):
    """As others publish theirs: nothing but ids, of persons or of photos."""
    ids = np.unique(getattr(crops, of))[:2]
    (tmp_path / "split.json").write_text(json.dumps({key: ids.tolist()}))
    labeled = draw_labels(crops, 2, 0, "file", unit, str(tmp_path / "split.json"))
    np.testing.assert_array_equal(labeled, np.isin(getattr(crops, of), ids))


@pytest.mark.parametrize(("split", "message"), [
    ({"image_ids": [1, 2, 99]}, "1 of its 3 image_ids are not among the annotated persons, the first of them 99"),
    ({"image_ids": [1]}, "labels 1 images, splits.label_count says 2; make them agree"),
    ({"image_ids": [1, 2], "annotations_sha256": "0"}, "was made for other annotations"),
    ({"images": [1]}, "is no split"),
    ([1, 2], "is no split"),
    ({"image_ids": ["a"]}, "is no split"),
])
def test_a_file_that_does_not_fit_is_refused_in_one_line(crops, tmp_path, split, message):
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataError) as caught:
        draw_labels(crops, 2, 0, "file", "image", str(tmp_path / "split.json"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_imported_splits_are_known_by_content(tmp_path):
    assert fingerprint_splits("", [0, 1], tmp_path) == {}
    with pytest.raises(DataError, match=r"no split file .*s-1\.json, which splits.file names"):
        fingerprint_splits("s-{seed}.json", [1], tmp_path)
    for seed in (0, 1):
        (tmp_path / f"s-{seed}.json").write_text(str(seed))
    assert fingerprint_splits("s-{seed}.json", [1, 0], tmp_path) == {
        f"s-{seed}.json": hashlib.sha256(str(seed).encode()).hexdigest() for seed in (0, 1)}

"""The benchmark as a COCO directory: loads in pycocotools, same bytes for the same arguments, whole or not at all."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssl_pose import synthetic
from ssl_pose.skeleton import KEYPOINT_NAMES
from ssl_pose.synthetic import BenchmarkError, write_benchmark

SIZE = (64, 96)  # height, width


def fingerprint(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """A benchmark of 20 + 9 photos, and its counts."""
    directory = tmp_path_factory.mktemp("benchmark") / "coco"
    return directory, write_benchmark(directory, 20, 9, SIZE, 3.0, seed=4)


def load(directory, split="train2017"):
    return COCO(str(directory / "annotations" / f"person_keypoints_{split}.json"))


def test_pycocotools_loads_it_and_every_photo_has_the_size_that_it_says(benchmark):
    directory, counts = benchmark
    for split, photos in (("train2017", 20), ("val2017", 9)):
        coco = load(directory, split)
        assert counts[split]["photos"] == len(coco.imgs) == photos
        assert counts[split]["persons"] == len(coco.anns) > photos
        assert coco.loadCats(1)[0]["keypoints"] == list(KEYPOINT_NAMES)
        assert {path.name for path in (directory / split).iterdir()} == {i["file_name"] for i in coco.imgs.values()}
        for image in coco.imgs.values():
            with Image.open(directory / split / image["file_name"]) as photo:
                assert photo.size == (image["width"], image["height"]) == (96, 64)
                assert photo.mode == "RGB"


def test_annotations_keep_the_rules_of_coco(benchmark):
    for annotation in load(benchmark[0]).anns.values():
        x, y, v = np.array(annotation["keypoints"]).reshape(17, 3).T
        left, top, width, height = annotation["bbox"]
        assert annotation["num_keypoints"] == (v > 0).sum()
        assert set(v) <= {0, 1, 2}
        assert (x[v == 0] == 0).all()
        assert (y[v == 0] == 0).all()
        assert ((x[v > 0] >= -0.5) & (x[v > 0] <= 95.5) & (y[v > 0] >= -0.5) & (y[v > 0] <= 63.5)).all()
        assert ((x[v > 0] >= left - 0.6) & (x[v > 0] <= left + width + 0.6)).all()
        assert 0 <= left <= left + width <= 95
        assert 0 <= top <= top + height <= 63
        assert 0 < annotation["area"] <= (width + 2) * (height + 2)
        assert annotation["num_keypoints"] == 0 or (v == 2).sum() >= 3


def test_ids_of_photos_and_persons_are_unique_over_both_splits(benchmark):
    train, val = (load(benchmark[0], split) for split in ("train2017", "val2017"))
    assert not set(train.imgs) & set(val.imgs)
    assert not set(train.anns) & set(val.anns)


def test_perfect_predictions_reach_an_ap_of_1(benchmark):
    coco = load(benchmark[0])
    results = [
        {name: annotation[name] for name in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
        for annotation in coco.anns.values()
        if annotation["num_keypoints"] > 0
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_the_same_arguments_give_the_same_bytes_for_any_batch_and_any_number_of_processes(
    benchmark, tmp_path, monkeypatch
):
    write_benchmark(tmp_path / "processes", 20, 9, SIZE, 3.0, seed=4, num_workers=2)
    assert fingerprint(tmp_path / "processes") == fingerprint(benchmark[0])
    monkeypatch.setattr(synthetic, "PHOTOS_AT_A_TIME", {"cpu": 3})
    write_benchmark(tmp_path / "batches", 20, 9, SIZE, 3.0, seed=4)
    assert fingerprint(tmp_path / "batches") == fingerprint(benchmark[0])


def test_a_smaller_benchmark_is_the_beginning_of_a_larger_one(benchmark, tmp_path):
    write_benchmark(tmp_path / "small", 5, 2, SIZE, 3.0, seed=4)
    small, large = fingerprint(tmp_path / "small"), fingerprint(benchmark[0])
    photos = [name for name in small if name.endswith(".jpg")]
    assert len(photos) == 7
    assert all(small[name] == large[name] for name in photos)
    annotations, longer = (list(load(path).anns.values()) for path in (tmp_path / "small", benchmark[0]))
    assert annotations == longer[: len(annotations)]


def test_another_seed_gives_other_photos_and_the_splits_differ(benchmark, tmp_path):
    write_benchmark(tmp_path / "other", 1, 1, SIZE, 3.0, seed=5)
    assert not set(fingerprint(tmp_path / "other").values()) & set(fingerprint(benchmark[0]).values())
    assert len(set(fingerprint(benchmark[0]).values())) == 20 + 9 + 2


def test_progress_counts_photos_up_to_the_total(tmp_path):
    calls = []
    write_benchmark(tmp_path / "coco", 10, 3, (32, 48), 1.0, 0, progress=lambda *call: calls.append(call))
    assert calls == [(8, 13), (10, 13), (13, 13)]


def test_an_interrupted_benchmark_leaves_nothing_behind_and_keeps_the_old_one(tmp_path, monkeypatch):
    directory = tmp_path / "coco"
    write_benchmark(directory, 1, 1, (32, 48), 1.0, seed=0)
    before = fingerprint(directory)
    monkeypatch.setattr(synthetic, "_write_annotations", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_benchmark(directory, 2, 1, (32, 48), 1.0, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]
    assert fingerprint(directory) == before


def test_an_older_benchmark_is_replaced_but_nothing_else_is(tmp_path):
    directory = tmp_path / "coco"
    write_benchmark(directory, 2, 1, (32, 48), 1.0, seed=0)
    write_benchmark(directory, 1, 1, (32, 48), 1.0, seed=0)
    assert len(list((directory / "train2017").iterdir())) == 1
    path = directory / "annotations" / "person_keypoints_val2017.json"
    path.write_text(json.dumps({"info": {"description": "COCO 2017 Dataset"}}))
    with pytest.raises(BenchmarkError, match="holds something else"):
        write_benchmark(directory, 1, 1, (32, 48), 1.0, seed=0)
    assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, (32, 48), 1.0, 0), "numbers of photos"),
        ((1, 1, (16, 48), 1.0, 0), "photo_size"),
        ((1, 1, (32, 48), 0.5, 0), "persons_per_photo"),
    ],
)
def test_arguments_that_cannot_be_rendered_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(BenchmarkError, match=message):
        write_benchmark(tmp_path / "coco", *arguments)
    assert not any(tmp_path.iterdir())

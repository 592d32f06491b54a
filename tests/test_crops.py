"""Packed crops: what is packed is read as it was described, and what is broken is refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssl_pose.coco import DataError, hash_file
from ssl_pose.config import load_config
from ssl_pose.crops import canvas_to_reference, check_size, load_crops
from ssl_pose.photos import canvas_size_for
from tests.fake_crops import make_crops
from tests.packed import INPUT_SIZE, pack

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"


def test_the_input_is_the_canvas_centred_window_by_whole_pixels():
    for input_size, scale in [((64, 48), 1.5), ((64, 48), 1.0), ((256, 192), 1.25), ((96, 64), 1.37)]:
        size = canvas_size_for(input_size, scale)
        matrix = canvas_to_reference(size, input_size)
        assert (np.subtract(size, input_size) % 2 == 0).all()
        assert matrix[:2, 2].tolist() == [-(size[1] - input_size[1]) / 2, -(size[0] - input_size[0]) / 2]
        assert matrix[:2, :2].tolist() == [[1, 0], [0, 1]]


def test_packed_arrays_load_as_they_were_described(coco_directory, tmp_path):
    directory = coco_directory()
    manifest = pack(directory, tmp_path / "crops")
    loaded = load_crops(tmp_path / "crops", verify=True)
    assert len(loaded) == manifest["num_persons"] == 6
    assert manifest["num_photos"] == 3
    assert manifest["selection"]["persons"] == 6
    assert isinstance(loaded.crops, np.memmap)
    assert loaded.crops.shape == (6, 96, 72, 3)
    assert (loaded.canvas_size, loaded.input_size) == ((96, 72), INPUT_SIZE)
    annotations = directory / "annotations/person_keypoints_train2017.json"
    assert loaded.annotations_sha256 == hash_file(annotations)
    np.testing.assert_allclose(loaded.mean_color, loaded.crops.mean(axis=(0, 1, 2)) / 255, rtol=1e-6)
    row = json.loads(annotations.read_text())["annotations"][3]
    assert loaded.annotation_id[1] == row["id"]
    expected = (loaded.crop_matrix[1] @ [*row["keypoints"][:2], 1])[:2]
    np.testing.assert_allclose(loaded.keypoints[1, 0], expected, rtol=1e-6)


def test_a_subset_keeps_rows_together(coco_directory, tmp_path):
    pack(coco_directory(), tmp_path / "crops")
    loaded = load_crops(tmp_path / "crops")
    part = loaded.subset(np.array([4, 1]))
    assert part.annotation_id.tolist() == loaded.annotation_id[[4, 1]].tolist()
    np.testing.assert_array_equal(part.crops[0], loaded.crops[4])
    assert len(loaded.subset(slice(2, 5))) == 3


def cut_file(name, size):
    return lambda folder: os.truncate(folder / name, size)


def foreign_manifest(folder):
    (folder / "manifest.json").write_text('{"schema": 99}')


def fewer_persons(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "num_persons": 5}))


BROKEN_FOLDERS = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json; run the data stage"),
    "cut manifest": (cut_file("manifest.json", 40), "manifest.json is truncated"),
    "foreign manifest": (foreign_manifest, "no manifest of packed crops"),
    "cut crops": (cut_file("crops.npy", 1000), "truncated or foreign crops"),
    "empty crops": (cut_file("crops.npy", 0), "truncated or foreign crops"),
    "no crops": (lambda folder: (folder / "crops.npy").unlink(), "truncated or foreign crops"),
    "cut arrays": (cut_file("persons.npz", 500), "truncated or foreign crops"),
    "other arrays": (lambda folder: np.savez(folder / "persons.npz", x=np.ones(3)), "truncated or foreign crops"),
    "another count": (fewer_persons, "the manifest says uint8 (5, 96, 72, 3)"),
}


def test_crops_of_another_input_or_canvas_than_the_configuration_asks_for_are_refused_in_one_line():
    crops, data = make_crops(1), replace(load_config(PARAMS).data, input_size=(48, 32))
    check_size(crops, data)
    for other, asked in (({"input_size": (64, 48)}, "64x48 on 96x72"), ({"canvas_scale": 1.25}, "48x32 on 60x40")):
        with pytest.raises(DataError, match=rf"input of 48x32 on a canvas of 72x48, .* {asked}; run the data stage"):
            check_size(crops, replace(data, **other))


@pytest.mark.parametrize("kind", BROKEN_FOLDERS)
def test_truncated_or_foreign_folders_are_refused_in_one_line(coco_directory, tmp_path, kind):
    change, message = BROKEN_FOLDERS[kind]
    pack(coco_directory(), tmp_path / "crops")
    change(tmp_path / "crops")
    with pytest.raises(DataError) as caught:
        load_crops(tmp_path / "crops")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_changed_pixel_is_found_by_verify(coco_directory, tmp_path):
    pack(coco_directory(), tmp_path / "crops")
    stored = np.load(tmp_path / "crops" / "crops.npy", mmap_mode="r+")
    stored[3, 2, 1, 0] ^= 1
    stored.flush()
    load_crops(tmp_path / "crops")
    with pytest.raises(DataError, match=r"crops\.npy is not what was packed"):
        load_crops(tmp_path / "crops", verify=True)

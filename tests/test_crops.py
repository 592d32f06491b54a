"""Packed crops: pixels and `crop_matrix` agree to a tenth of a pixel, every kind of photo packs, bytes repeat."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_pose import crops as crops_module
from ssl_pose.coco import DataError, hash_file
from ssl_pose.crops import canvas_to_reference, load_crops, pack_crops
from ssl_pose.photos import FILL_COLOR, canvas_size_for, crop_matrices, cut_person, read_photo

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "coco17_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real photos is not on this machine")
INPUT_SIZE = (64, 48)
FILES = ("crops.npy", "persons.npz", "manifest.json")


def pack(directory, out, split="train2017", **options):
    given = {"input_size": INPUT_SIZE, "canvas_scale": 1.5, "box_padding": 1.25, **options}
    return pack_crops(directory, split, out, **given)


def to_canvas(matrix, point):
    return (matrix @ [*point, 1.0])[:2]


def gaussian_photo(center, sigma, photo_size=(300, 400)):
    """A bright blob on black, at photo px `center`."""
    y, x = np.mgrid[: photo_size[0], : photo_size[1]]
    bump = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * sigma**2))
    return Image.fromarray(np.round(255 * bump).astype(np.uint8)).convert("RGB")


def centroid(canvas, expected, radius):
    """Centre of brightness (x, y) of the px of `canvas` within `radius` of the expected point."""
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    weight = canvas[..., 0] * (np.hypot(x - expected[0], y - expected[1]) < radius)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("box", [
    [120.0, 60.0, 90.0, 170.0],  # shrunk
    [40.3, 20.7, 310.2, 250.9],  # shrunk much, the canvas wider than the photo
    [150.25, 130.5, 21.0, 18.0],  # enlarged
    [0.0, 100.0, 120.5, 199.5],  # at a corner of the photo, so the canvas reaches beyond it
])
@pytest.mark.parametrize("where", [(0.5, 0.5), (0.3, 0.62), (0.71, 0.4)])
def test_a_blob_lands_where_the_crop_matrix_says(box, where):
    size = canvas_size_for(INPUT_SIZE, 1.5)
    matrix = crop_matrices(np.array([box]), INPUT_SIZE, size, 1.25)[0]
    point = np.array(box[:2]) + where * np.array(box[2:])
    canvas = cut_person(gaussian_photo(point, 2.5 / min(matrix[0, 0], 1)), matrix, size)
    expected = to_canvas(matrix, point)
    radius = 6 * max(matrix[0, 0], 1) + 2
    assert np.abs(centroid(canvas, expected, radius) - expected).max() < 0.1


def test_a_crop_at_scale_one_holds_the_photos_own_pixels():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8))
    matrix = np.array([[1.0, 0, -7], [0, 1, 5], [0, 0, 1]])
    canvas = cut_person(photo, matrix, (40, 30))
    np.testing.assert_array_equal(canvas[5:], np.asarray(photo)[:35, 7:37])
    assert (canvas[:5] == FILL_COLOR).all()


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (200, 100))).convert("RGB")
    matrix = np.diag([0.13, 0.13, 1.0])
    canvas = cut_person(stripes, matrix, (24, 24)).astype(float)
    assert np.abs(canvas[3:-3, 3:-3] - 127.5).max() < 12


def test_beyond_the_photo_lies_the_fill_colour():
    black = Image.new("RGB", (60, 40))
    matrix = np.array([[0.5, 0, 30], [0, 0.5, 10], [0, 0, 1]])
    canvas = cut_person(black, matrix, (48, 72))
    assert (canvas[:8] == FILL_COLOR).all()
    assert (canvas[:, :28] == FILL_COLOR).all()
    assert (canvas[31:] == FILL_COLOR).all()
    assert (canvas[11:29, 31:59] == 0).all()


def test_the_padded_box_fills_the_input_and_shares_the_canvas_centre():
    boxes = np.array([[10.0, 20.0, 30.0, 80.0], [10.0, 20.0, 90.0, 40.0]])
    size = canvas_size_for(INPUT_SIZE, 1.5)
    assert size == (96, 72)
    tall, wide = crop_matrices(boxes, INPUT_SIZE, size, 1.25)
    assert tall[0, 0] == tall[1, 1] == pytest.approx(64 / (80 * 1.25))
    assert wide[0, 0] == wide[1, 1] == pytest.approx(48 / (90 * 1.25))
    np.testing.assert_allclose(to_canvas(tall, (24.5, 59.5)), (35.5, 47.5))
    np.testing.assert_allclose(to_canvas(wide, (54.5, 39.5)), (35.5, 47.5))


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
    expected = to_canvas(loaded.crop_matrix[1], row["keypoints"][:2])
    np.testing.assert_allclose(loaded.keypoints[1, 0], expected, rtol=1e-6)


def test_a_subset_keeps_rows_together(coco_directory, tmp_path):
    pack(coco_directory(), tmp_path / "crops")
    loaded = load_crops(tmp_path / "crops")
    part = loaded.subset(np.array([4, 1]))
    assert part.annotation_id.tolist() == loaded.annotation_id[[4, 1]].tolist()
    np.testing.assert_array_equal(part.crops[0], loaded.crops[4])
    assert len(loaded.subset(slice(2, 5))) == 3


def test_bytes_are_the_same_for_every_number_of_processes(coco_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(crops_module, "PHOTOS_PER_TASK", 2)
    directory, seen = coco_directory(num_images=9), []
    one = pack(directory, tmp_path / "one", num_workers=1)
    three = pack(directory, tmp_path / "three", num_workers=3, progress=lambda *counts: seen.append(counts))
    assert one == three
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    assert seen == [(4, 18), (8, 18), (12, 18), (16, 18), (18, 18)]


def test_max_persons_takes_the_first_of_the_file(coco_directory, tmp_path):
    directory = coco_directory()
    pack(directory, tmp_path / "all")
    assert pack(directory, tmp_path / "some", max_persons=3)["num_photos"] == 2
    every, some = load_crops(tmp_path / "all"), load_crops(tmp_path / "some")
    assert some.annotation_id.tolist() == every.annotation_id[:3].tolist()
    np.testing.assert_array_equal(some.crops, every.crops[:3])
    assert pack(directory, tmp_path / "more", max_persons=100)["num_persons"] == 6


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1"])
def test_photos_of_every_colour_mode_become_rgb(tmp_path, mode):
    path = tmp_path / f"photo.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(path)
    photo = read_photo(path, (20, 30))
    assert photo.mode == "RGB"
    assert photo.getpixel((3, 3)) == (255, 255, 255)


def test_an_exif_orientation_is_not_applied(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to view"
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_photo(tmp_path / "turned.png", (20, 30))), pixels)


BROKEN_PHOTOS = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is truncated or no 8-bit photo"),
    "empty": (lambda path: path.write_bytes(b""), "is truncated or no 8-bit photo"),
    "text": (lambda path: path.write_text("no photo"), "is truncated or no 8-bit photo"),
    "another size": (lambda path: Image.new("RGB", (48, 80)).save(path), "has 48 x 80 px, the annotations say 80 x"),
}


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("kind", BROKEN_PHOTOS)
def test_a_broken_photo_is_named_and_nothing_is_left(coco_directory, tmp_path, monkeypatch, kind, num_workers):
    monkeypatch.setattr(crops_module, "PHOTOS_PER_TASK", 1)
    directory = coco_directory()
    break_photo, message = BROKEN_PHOTOS[kind]
    break_photo(directory / "train2017/000002.png")
    with pytest.raises(DataError) as caught:
        pack(directory, tmp_path / "out" / "crops", num_workers=num_workers)
    assert "000002.png" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_photo_of_16_bits_is_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((20, 30), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png is truncated or no 8-bit photo \(mode I;16\)"):
        read_photo(tmp_path / "deep.png", (20, 30))


class KillsItsProcess:
    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_packing_process_is_reported():
    with pytest.raises(DataError, match="a packing process was killed"):
        list(crops_module._run_tasks([KillsItsProcess(), KillsItsProcess()], num_workers=2))


def test_a_photo_that_vanishes_is_named(tmp_path):
    with pytest.raises(DataError, match=r"missing photo .*gone\.png"):
        read_photo(tmp_path / "gone.png", (20, 30))


def test_a_failed_pack_leaves_the_earlier_crops_as_they_were(coco_directory, tmp_path):
    directory = coco_directory()
    manifest = pack(directory, tmp_path / "crops")
    (directory / "train2017/000003.png").write_bytes(b"")
    with pytest.raises(DataError):
        pack(directory, tmp_path / "crops")
    assert load_crops(tmp_path / "crops", verify=True).crops.shape[0] == manifest["num_persons"]


def test_packing_again_replaces_what_was_there(coco_directory, tmp_path):
    (tmp_path / "crops.4194305.partial").mkdir()  # of a run that was killed: no process has a number so high
    pack(coco_directory(), tmp_path / "crops")
    pack(coco_directory(name="other", num_images=1), tmp_path / "crops")
    assert len(load_crops(tmp_path / "crops", verify=True)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "crops", "other"]


def test_a_full_disk_is_reported_before_any_photo_is_read(coco_directory, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(DataError, match=r"cannot write .*No space left on device.*free the disk"):
        pack(coco_directory(), tmp_path / "crops")
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


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


@needs_sample
@pytest.mark.parametrize(("split", "persons", "photos"), [("train2017", 282, 103), ("val2017", 387, 108)])
def test_every_real_photo_packs_and_labelled_points_lie_on_the_canvas(tmp_path, split, persons, photos):
    manifest = pack(SAMPLE, tmp_path / "crops", split)
    with_persons = {row["image_id"] for row in json.loads(
        (SAMPLE / f"annotations/person_keypoints_{split}.json").read_text())["annotations"]
        if row["num_keypoints"] and not row["iscrowd"]}
    assert (manifest["num_persons"], manifest["num_photos"]) == (persons, len(with_persons))
    for path in (SAMPLE / split).glob("*.jpg"):
        with Image.open(path) as image:
            read_photo(path, image.size[::-1])
    assert len(list((SAMPLE / split).glob("*.jpg"))) == photos
    loaded = load_crops(tmp_path / "crops")
    points = loaded.keypoints[loaded.visibility > 0]
    inside = ((points > -0.5) & (points < np.array([72, 96]) - 0.5)).all(axis=1)
    assert inside.mean() > 0.99
    shutil.rmtree(tmp_path / "crops")


@needs_sample
def test_a_real_greyscale_photo_packs_as_grey(tmp_path):
    grey = [path for path in sorted((SAMPLE / "train2017").glob("*.jpg")) if Image.open(path).mode == "L"]
    grey += [path for path in sorted((SAMPLE / "val2017").glob("*.jpg")) if Image.open(path).mode == "L"]
    assert len(grey) == 2
    for path in grey:
        pixels = np.asarray(read_photo(path, Image.open(path).size[::-1]))
        assert (pixels == pixels[..., :1]).all()

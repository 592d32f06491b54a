"""Packing: bytes repeat, a killed run goes on, broken photos are named, memory stays small."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_pose import packing
from ssl_pose.coco import DataError, load_persons
from ssl_pose.crops import load_crops
from ssl_pose.packing import pack_crops, print_tenths, readable_persons
from ssl_pose.photos import read_photo
from tests.packed import pack

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "coco17_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real photos is not on this machine")
FILES = ("crops.npy", "persons.npz", "manifest.json")


def test_bytes_are_the_same_for_every_number_of_processes(coco_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PHOTOS_PER_TASK", 2)
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


BROKEN_PHOTOS = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is truncated or no 8-bit photo"),
    "empty": (lambda path: path.write_bytes(b""), "is truncated or no 8-bit photo"),
    "text": (lambda path: path.write_text("no photo"), "is truncated or no 8-bit photo"),
    "another size": (lambda path: Image.new("RGB", (48, 80)).save(path), "has 48 x 80 px, the annotations say 80 x"),
}


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("kind", BROKEN_PHOTOS)
def test_a_broken_photo_is_named_and_what_was_done_waits(coco_directory, tmp_path, monkeypatch, kind, num_workers):
    monkeypatch.setattr(packing, "PHOTOS_PER_TASK", 1)
    directory = coco_directory()
    break_photo, message = BROKEN_PHOTOS[kind]
    break_photo(directory / "train2017/000002.png")
    with pytest.raises(DataError) as caught:
        pack(directory, tmp_path / "out" / "crops", num_workers=num_workers)
    assert "000002.png" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["crops.partial"]


class KillsItsProcess:
    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_packing_process_is_reported():
    with pytest.raises(DataError, match="a packing process was killed"):
        list(packing._run_tasks(print, [KillsItsProcess(), KillsItsProcess()], num_workers=2))


def test_a_failed_pack_leaves_the_earlier_crops_as_they_were(coco_directory, tmp_path):
    directory = coco_directory()
    manifest = pack(directory, tmp_path / "crops")
    (directory / "train2017/000003.png").write_bytes(b"")
    with pytest.raises(DataError):
        pack(directory, tmp_path / "crops")
    assert load_crops(tmp_path / "crops", verify=True).crops.shape[0] == manifest["num_persons"]


def test_packing_again_replaces_what_was_there(coco_directory, tmp_path):
    (tmp_path / "crops.partial").mkdir()  # of a run that was killed before it noted anything
    pack(coco_directory(), tmp_path / "crops")
    pack(coco_directory(name="other", num_images=1), tmp_path / "crops")
    assert len(load_crops(tmp_path / "crops", verify=True)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "crops", "other"]


def test_a_full_disk_is_reported_before_any_photo_is_read(coco_directory, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    cause = r"cannot write .*No space left on device.*free some space.*or lower data\.canvas_scale"
    with pytest.raises(DataError, match=cause):
        pack(coco_directory(), tmp_path / "crops")
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


def test_a_killed_pack_goes_on_from_its_note_and_ends_with_the_same_bytes(coco_directory, tmp_path, monkeypatch):
    """Killed as by kill -9, after 4 of 9 photos of which 2 are noted: nothing is cleaned up, 7 photos are cut again."""
    monkeypatch.setattr(packing, "PHOTOS_PER_TASK", 2)
    monkeypatch.setattr(packing, "TASKS_PER_NOTE", 1)
    directory, cut = coco_directory(num_images=9), []
    pack(directory, tmp_path / "whole")
    noted = shutil.copytree

    def killed(done, total):
        if done == 8:
            noted(tmp_path / "parts.partial", tmp_path / "as_killed")
            raise MemoryError

    with pytest.raises(MemoryError):
        pack(directory, tmp_path / "parts", progress=killed)
    shutil.rmtree(tmp_path / "parts.partial")
    (tmp_path / "as_killed").rename(tmp_path / "parts.partial")
    real = packing.read_photo
    monkeypatch.setattr(packing, "read_photo", lambda path, size: cut.append(path.name) or real(path, size))
    pack(directory, tmp_path / "parts")
    assert cut == [f"{number:06}.png" for number in range(5, 10)]
    for name in FILES:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "parts.partial").exists()


@pytest.mark.parametrize("change", ["photo", "numbers", "crops gone"])
def test_a_pack_of_other_photos_or_numbers_is_begun_anew(coco_directory, tmp_path, monkeypatch, change):
    monkeypatch.setattr(packing, "PHOTOS_PER_TASK", 1)
    directory = coco_directory()
    third = directory / "train2017/000003.png"
    pixels = third.read_bytes()
    third.write_bytes(b"")
    with pytest.raises(DataError):
        pack(directory, tmp_path / "crops")
    assert json.loads((tmp_path / "crops.partial" / "done.json").read_text())["photos"] == 2
    third.write_bytes(pixels)  # changed again: so its time is another
    if change == "crops gone":
        (tmp_path / "crops.partial" / "crops.npy").unlink()
    options = {"box_padding": 1.5} if change == "numbers" else {}
    pack(directory, tmp_path / "crops", **options)
    pack(directory, tmp_path / "afresh", **options)
    for name in FILES:
        assert (tmp_path / "crops" / name).read_bytes() == (tmp_path / "afresh" / name).read_bytes()


def test_broken_photos_are_skipped_on_request_each_named(coco_directory, tmp_path):
    directory = coco_directory(num_images=12)
    (directory / "train2017/000002.png").write_bytes(b"")
    (directory / "train2017/000011.png").unlink()
    Image.new("RGB", (80, 48)).save(directory / "train2017/000011.png", format="GIF")
    (directory / "train2017/000012.png").write_text("no photo")
    persons, broken = readable_persons(directory, load_persons(directory), num_workers=2)
    assert [next(name for name in ("000002.png", "000012.png") if name in line) for line in broken] == [
        "000002.png", "000012.png"]
    assert set(persons.file_name) == {f"train2017/{number:06}.png" for number in range(1, 12) if number != 2}
    pack_crops(directory, persons, tmp_path / "crops", (64, 48), 1.5, 1.25)
    assert load_crops(tmp_path / "crops", verify=True).annotation_id.tolist() == persons.annotation_id.tolist()


def test_where_no_photo_can_be_read_the_first_is_named(coco_directory):
    directory = coco_directory(num_images=1)
    (directory / "train2017/000001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no photo can be read; the first: .*000001\.png"):
        readable_persons(directory, load_persons(directory))


def test_progress_is_a_line_for_each_tenth(capsys):
    show = print_tenths("persons")
    for done in range(1, 31):
        show(done, 30)
    assert capsys.readouterr().out.splitlines() == [f"persons: {3 * tenth} of 30" for tenth in range(1, 11)]


def test_memory_does_not_grow_with_the_number_of_persons(coco_directory, tmp_path):
    peaks = []
    for count in (40, 160):
        directory = coco_directory(num_images=count, persons_per_image=4, name=f"of_{count}")
        code = (f"from tests.packed import pack; pack({str(directory)!r}, {str(tmp_path / 'out')!r}, "
                "input_size=(256, 192)); print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])")
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
        shutil.rmtree(tmp_path / "out")
    size = 640 * 384 * 288 * 3 / 2**20  # MiB of all crops of the larger set
    assert peaks[1] - peaks[0] < size / 20
    assert max(peaks) < 200


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

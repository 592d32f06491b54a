"""A COCO directory's content as one hash, and which of its files a second look reads."""

import os
from pathlib import Path

import pytest

from ssl_pose import fingerprints
from ssl_pose.coco import DataError, hash_file
from ssl_pose.fingerprints import fingerprint_directory


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of files whose bytes were read."""
    names = []

    def watched(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(fingerprints, "hash_file", watched)
    return names


def age(directory: Path, seconds: float = 60) -> None:
    """As if every file had been written that long ago."""
    for path in directory.rglob("*"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_the_fingerprint_is_of_content_and_not_of_place(coco_directory):
    one, two = coco_directory(name="one"), coco_directory(name="two")
    first = fingerprint_directory(one)
    assert first == fingerprint_directory(two, num_threads=1)
    assert len(first["files"]) == 2 + 6
    assert "train2017/000001.png" in first["files"]
    photo = two / "val2017/000101.png"
    photo.write_bytes(photo.read_bytes() + b"\0")
    second = fingerprint_directory(two)
    assert second["sha256"] != first["sha256"]
    assert [name for name in first["files"] if first["files"][name] != second["files"][name]] == [
        "val2017/000101.png"]


def test_the_fingerprint_of_a_directory_without_photos_says_so(coco_directory):
    directory = coco_directory()
    (directory / "val2017").rename(directory / "elsewhere")
    with pytest.raises(DataError, match=r"no photo folder .*val2017"):
        fingerprint_directory(directory)


def test_only_files_that_changed_are_read_again(coco_directory, tmp_path, read):
    directory, memory = coco_directory(), tmp_path / "memory.json"
    age(directory)
    first = fingerprint_directory(directory, memory=memory)
    assert len(read) == 2 + 6
    read.clear()
    assert fingerprint_directory(directory, memory=memory) == first == fingerprint_directory(directory)
    assert len(read) == 2 + 6  # those of the call without a memory
    read.clear()
    photo = directory / "val2017/000101.png"
    photo.write_bytes(photo.read_bytes()[:-1] + b"\1")  # of the same size
    (directory / "train2017/000002.png").unlink()
    second = fingerprint_directory(directory, memory=memory)
    assert read == ["000101.png"]
    assert second == fingerprint_directory(directory)
    assert second["sha256"] != first["sha256"]
    assert first["files"].keys() - second["files"].keys() == {"train2017/000002.png"}


def test_a_file_that_was_just_written_is_read_again(coco_directory, tmp_path, read):
    """It may change once more within the tick of the file system's clock."""
    directory, memory = coco_directory(), tmp_path / "memory.json"
    age(directory)
    photo = directory / "val2017/000101.png"
    content = photo.read_bytes()
    photo.write_bytes(content)
    first, state = fingerprint_directory(directory, memory=memory), photo.stat()
    read.clear()
    photo.write_bytes(content[:-1] + b"\1")
    os.utime(photo, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint_directory(directory, memory=memory)["sha256"] != first["sha256"]
    assert read == ["000101.png"]


@pytest.mark.parametrize("content", ["", "[1]", '{"train2017/000001.png": 3}', '{"train2017/000001.png": [1, 2]}'])
def test_a_broken_memory_is_as_none(coco_directory, tmp_path, content: str):
    directory, memory = coco_directory(), tmp_path / "memory.json"
    memory.write_text(content)
    assert fingerprint_directory(directory, memory=memory) == fingerprint_directory(directory)


def test_another_directory_with_the_same_names_is_read(coco_directory, tmp_path, read):
    one, two = coco_directory(name="one"), coco_directory(name="two")
    age(one)
    fingerprint_directory(one, memory=tmp_path / "memory.json")
    for path in one.rglob("*.*"):
        os.utime(two / path.relative_to(one), ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    read.clear()
    fingerprint_directory(two, memory=tmp_path / "memory.json")
    assert len(read) == 2 + 6

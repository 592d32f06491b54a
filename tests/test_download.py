"""`make coco` against a server of COCO's layout on this machine, one that drops, truncates and lies."""

import hashlib
import http.server
import io
import json
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from urllib3.util import Retry

from ssl_pose import download as module
from ssl_pose.__main__ import main
from ssl_pose.coco import DataError, load_persons
from ssl_pose.download import Archive, can_give_back, count_persons, fetch_coco, is_unpacked, official_archives


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; `fault` of a path says what goes wrong, and is told the number of the request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict = {}
        self.ranges: list[tuple[str, str | None]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.lstrip("/")
        if path not in self.server.files:
            return self.send_error(404)
        content, asked = self.server.files[path], self.headers.get("Range")
        if body:
            self.server.ranges.append((path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and body else 0
        fault = self.server.faults.get(path, lambda number: None)(len(self.server.ranges)) if body else None
        if fault == "busy":
            return self.send_error(503)
        if fault == "no ranges":
            start, asked = 0, None
        rest = content[start:]
        self.send_response(206 if asked and body else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if not body:
            return None
        if fault == "wrong bytes":
            rest = bytes(reversed(rest))
        if fault == "drops":
            self.wfile.write(rest[: max(1, len(rest) // 2)])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(rest)
        return None

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "RETRY", Retry(total=3, backoff_factor=0, status_forcelist=(503,)))
    monkeypatch.setattr(module, "TIMEOUT", 5)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def zipped(folder: Path, names: list[str], inside: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{inside}/", "")
        for name in names:
            archive.write(folder / name, f"{inside}/{name}")
    return buffer.getvalue()


@pytest.fixture
def archives(server, rendered_coco: Path) -> list[Archive]:
    """COCO's archives made from rendered people, on the server, with size and sha256 as published ones have."""
    made = []
    for archive in official_archives(("train2017", "val2017", "unlabeled2017")):
        folder = rendered_coco / archive.folder
        names = [path.name for path in sorted(folder.iterdir())]
        if archive.members:  # the archives of annotations hold more than is asked for
            names = [*archive.members, *[name for name in names if "detections" in name]]
        server.files[archive.path] = content = zipped(folder, names, archive.folder)
        known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} if archive.size else {}
        made.append(replace(archive, **known))
    return made


def content_of(directory: Path) -> dict[str, str]:
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*")) if path.is_file()}


def test_everything_is_fetched_checked_and_unpacked_once(server, archives, rendered_coco, tmp_path, capsys):
    fetch_coco(tmp_path / "coco", archives, server.address)
    expected = {name: sha256 for name, sha256 in content_of(rendered_coco).items() if "detections" not in name}
    assert content_of(tmp_path / "coco") == expected
    counts = count_persons(tmp_path / "coco")
    assert counts["train2017"]["persons"] > 10
    assert counts["val2017"]["crowd"] == 1
    server.ranges.clear()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "coco").rglob("*")}
    fetch_coco(tmp_path / "coco", archives, "http://nowhere.invalid")
    assert "is complete; nothing is downloaded" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "coco").rglob("*")} == before


def test_the_command_counts_the_persons_beside_those_of_coco(rendered_coco, capsys):
    assert main(["coco", str(rendered_coco)]) == 0
    persons = {split: len(load_persons(rendered_coco, split)) for split in ("train2017", "val2017")}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{rendered_coco} is complete; nothing is downloaded"
    assert lines[1].startswith(f"train2017: {persons['train2017']} persons (COCO's own: 149,813) of {{")
    assert lines[2].startswith(f"val2017: {persons['val2017']} persons (COCO's own: 6,352) of {{")
    assert '"crowd": 1' in lines[2]


def test_a_server_that_drops_is_read_on_from_where_it_stopped(server, archives, rendered_coco, tmp_path):
    path = archives[1].path  # train2017.zip
    server.faults[path] = lambda number: "drops" if len([p for p, _ in server.ranges if p == path]) < 5 else None
    fetch_coco(tmp_path / "coco", archives[:2], server.address)
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for name, asked in server.ranges if name == path]
    assert len(starts) == 5
    assert starts == sorted(starts)
    assert starts[4] > 0.8 * len(server.files[path])
    assert (tmp_path / "coco" / "train2017").is_dir()


def test_an_interrupted_download_goes_on_in_the_next_call(server, archives, tmp_path):
    archive = archives[2]
    half = len(server.files[archive.path]) // 2
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / f"{archive.name}.partial").write_bytes(server.files[archive.path][:half])
    fetch_coco(tmp_path / "coco", archives[:3:2], server.address)
    assert (archive.path, f"bytes={half}-") in server.ranges
    assert is_unpacked(tmp_path / "coco", archive)


def test_a_server_without_ranges_begins_anew(server, archives, tmp_path):
    archive = archives[2]
    server.faults[archive.path] = lambda number: "no ranges"
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / f"{archive.name}.partial").write_bytes(b"something old" * 100)
    fetch_coco(tmp_path / "coco", archives[:3:2], server.address)
    assert is_unpacked(tmp_path / "coco", archive)


def test_a_server_that_is_busy_is_asked_again(server, archives, tmp_path):
    server.faults[archives[0].path] = lambda number: "busy" if number < 3 else None
    fetch_coco(tmp_path / "coco", archives[:1], server.address)
    assert is_unpacked(tmp_path / "coco", archives[0])


def test_a_server_that_only_drops_is_given_up_with_what_came_kept(server, archives, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    server.files[archives[0].path] = server.files[archives[0].path][:1]
    with pytest.raises(DataError, match=r"cannot be read .*; 1 of \d+ bytes are there, run the same command again"):
        fetch_coco(tmp_path / "coco", archives[:1], server.address)
    assert (tmp_path / "coco" / f"{archives[0].name}.partial").stat().st_size == 1


def test_wrong_bytes_are_found_by_the_published_sha256_and_removed(server, archives, tmp_path):
    server.faults[archives[0].path] = lambda number: "wrong bytes" if number == 1 else None
    with pytest.raises(DataError, match="what was sent is not what is published"):
        fetch_coco(tmp_path / "coco", archives[:1], server.address)
    assert not list((tmp_path / "coco").iterdir())
    fetch_coco(tmp_path / "coco", archives[:1], server.address)  # the same command goes on
    assert is_unpacked(tmp_path / "coco", archives[0])


def test_wrong_bytes_of_an_archive_without_a_checksum_are_found_by_those_of_its_files(server, archives, tmp_path):
    """unlabeled2017.zip: one byte in the middle of one photo."""
    archive = archives[-1]
    content = bytearray(server.files[archive.path])
    content[len(content) // 3] ^= 1
    server.files[archive.path] = bytes(content)
    with pytest.raises(DataError, match=r"unlabeled2017.zip is broken \(Bad CRC-32"):
        fetch_coco(tmp_path / "coco", archives[-2:], server.address)
    assert not (tmp_path / "coco" / archive.name).exists()
    assert not is_unpacked(tmp_path / "coco", archive)


def test_a_full_disk_is_said_before_anything_is_fetched(server, archives, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=5 * 10**8))
    with pytest.raises(DataError, match=r"has 0.5 GB free, the download needs 1.\d GB; free some space"):
        fetch_coco(tmp_path / "coco", archives, server.address)
    assert not server.ranges


def test_an_address_that_does_not_answer_is_named(archives, tmp_path):
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/.*image_info_unlabeled2017.zip cannot be reached"):
        fetch_coco(tmp_path / "coco", archives[-2:], "http://127.0.0.1:9")


def test_a_file_that_is_not_there_is_named(server, archives, tmp_path):
    gone = replace(archives[0], path="annotations/gone.zip")
    with pytest.raises(DataError, match=r"annotations/gone.zip: 404"):
        fetch_coco(tmp_path / "coco", [gone], server.address)


def test_an_archive_shrinks_while_it_is_unpacked(tmp_path, monkeypatch):
    """No photo lies on the disk twice: blocks of the archive are given back behind what is unpacked."""
    if not can_give_back(tmp_path):
        pytest.skip("this file system does not free parts of a file")
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [f"{number:012}.jpg" for number in range(40)]
    for name in names:
        (photos / name).write_bytes(hashlib.shake_256(name.encode()).digest(200_000))
    (tmp_path / "train2017.zip").write_bytes(zipped(photos, names, "train2017"))
    monkeypatch.setattr(module, "FILES_PER_HOLE", 4)
    monkeypatch.setattr(module, "FIRST_BYTES", 4096)
    real, used = module.write_bytes, []

    def watched(content, path):
        real(content, path)
        used.append(sum(file.stat().st_blocks for file in tmp_path.rglob("*") if photos not in file.parents))

    monkeypatch.setattr(module, "write_bytes", watched)
    module.unpack(tmp_path / "train2017.zip", tmp_path, Archive("zips/train2017.zip", "train2017", ()))
    assert content_of(tmp_path / "train2017") == content_of(photos)
    assert max(used) * 512 < 1.25 * 40 * 200_000  # bytes: one copy, and what is not yet given back


def test_names_inside_an_archive_cannot_leave_the_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w") as archive:
        archive.writestr("../../outside.jpg", "x")
    (tmp_path / "coco").mkdir()
    module.unpack(tmp_path / "val2017.zip", tmp_path / "coco", Archive("zips/val2017.zip", "val2017", ()))
    assert content_of(tmp_path / "coco") == {"val2017/outside.jpg": hashlib.sha256(b"x").hexdigest()}


def test_the_official_archives_are_those_of_the_issue_of_2017():
    archives = {archive.path: archive for archive in official_archives(("train2017", "val2017", "unlabeled2017"))}
    assert module.OFFICIAL == "http://images.cocodataset.org"
    assert list(archives) == ["annotations/annotations_trainval2017.zip", "zips/train2017.zip", "zips/val2017.zip",
                              "annotations/image_info_unlabeled2017.zip", "zips/unlabeled2017.zip"]
    assert all(len(archive.sha256) in (0, 64) for archive in archives.values())
    assert json.dumps([archive.size for archive in archives.values()]) == "[252907541, 19336861798, 815585330, 0, 0]"

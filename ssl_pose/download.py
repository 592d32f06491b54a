"""[I/O] COCO 2017 from its official addresses: downloaded, checked and unpacked into a COCO directory.

COCO itself publishes no checksums. Size and sha256 of its archives below are those that TensorFlow Datasets records
for the same addresses (tensorflow_datasets/url_checksums/coco.txt). For the two archives of unlabeled2017 no checksum
is known: there, the length that the server states and the CRC-32 of each file inside stand in.

A download that breaks off goes on where it stopped. Where the file system can give back parts of a file (util-linux'
`fallocate --punch-hole`), an archive shrinks while it is unpacked, so that no photo lies on the disk twice.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from ssl_pose.coco import DataError, hash_file, load_persons, read_json
from ssl_pose.files import remedy, write_bytes

OFFICIAL = "http://images.cocodataset.org"
COCO_PERSONS = {"train2017": 149_813, "val2017": 6_352}  # by the standard selection, as published code loads them
CHUNK = 2**16  # bytes; what of a piece came before a break is fetched again
TIMEOUT = 30  # s, to connect and between two pieces
ATTEMPTS = 8  # in a row that brought nothing
RETRY = Retry(total=5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))  # before an answer begins
FILES_PER_HOLE = 256  # unpacked before their place in the archive is given back
FIRST_BYTES = 2**20  # of an archive, which it keeps: a file without a beginning looks broken to other tools


@dataclass(frozen=True)
class Archive:
    """An archive below the address, and what of it is unpacked to where in the COCO directory."""

    path: str
    folder: str
    members: tuple[str, ...]  # names without folders; (): all
    list_of_photos: str = ""  # the annotation file whose images must all be there, for archives of photos
    size: int = 0  # bytes; 0: not known
    sha256: str = ""  # "": not known

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


KEYPOINTS = ("person_keypoints_train2017.json", "person_keypoints_val2017.json")
ANNOTATIONS = (Archive("annotations/annotations_trainval2017.zip", "annotations", KEYPOINTS, "", 252_907_541,
                       "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"),)
PHOTOS = {
    "train2017": (Archive("zips/train2017.zip", "train2017", (), KEYPOINTS[0], 19_336_861_798,
                          "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),),
    "val2017": (Archive("zips/val2017.zip", "val2017", (), KEYPOINTS[1], 815_585_330,
                        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),),
    "unlabeled2017": (
        Archive("annotations/image_info_unlabeled2017.zip", "annotations", ("image_info_unlabeled2017.json",)),
        Archive("zips/unlabeled2017.zip", "unlabeled2017", (), "image_info_unlabeled2017.json"),
    ),
}


def official_archives(splits: Sequence[str] = ("train2017", "val2017")) -> list[Archive]:
    return [*ANNOTATIONS, *(archive for split in splits for archive in PHOTOS[split])]


def fetch_coco(directory: Path, archives: Iterable[Archive], address: str = OFFICIAL) -> None:
    """Brings what is missing of `archives` into `directory`; what is there already is left as it is.

    Raises `DataError` where the disk is too small, the server does not answer, or what it sent is not what it should
    be; the same command then goes on.
    """
    missing = [archive for archive in archives if not is_unpacked(directory, archive)]
    if not missing:
        print(f"{directory} is complete; nothing is downloaded")
        return
    directory.mkdir(parents=True, exist_ok=True)
    lengths = {archive.name: archive.size or _length(f"{address}/{archive.path}") for archive in missing}
    _require_space(directory, lengths)
    for archive in missing:
        path = directory / archive.name
        print(f"{archive.name}: {lengths[archive.name] / 1e9:.2f} GB", flush=True)
        download(f"{address}/{archive.path}", path, lengths[archive.name], archive.sha256)
        unpack(path, directory, archive)
        path.unlink()
        if not is_unpacked(directory, archive):
            raise DataError(f"{archive.name} lacks files of {archive.folder}; run the same command again")


def count_persons(directory: Path) -> dict[str, dict[str, int]]:
    """What the standard selection keeps and drops of each split."""
    return {split: load_persons(directory, split).counts for split in COCO_PERSONS}


def is_unpacked(directory: Path, archive: Archive) -> bool:
    """Whether everything of `archive` lies in the COCO directory: its files, or every photo that is listed."""
    if archive.members:
        return all((directory / archive.folder / name).is_file() for name in archive.members)
    listed = directory / "annotations" / archive.list_of_photos
    if not listed.is_file() or not (directory / archive.folder).is_dir():
        return False
    there = {path.name for path in (directory / archive.folder).iterdir()}
    return all(image["file_name"] in there for image in read_json(listed)["images"])


def download(url: str, path: Path, length: int, sha256: str) -> None:
    """Brings `url` to `path`, going on from <path>.partial; checks its `length` and, where known, its `sha256`."""
    if path.exists():
        return  # it was checked before it got this name
    partial = path.with_name(f"{path.name}.partial")
    with tqdm(total=length, initial=_size(partial), unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
        failures, cause = 0, None
        while _size(partial) < length:
            before = _size(partial)
            try:
                _receive(url, partial, length, bar.update)
            except requests.HTTPError as error:
                raise DataError(f"{url}: {_brief(error)}") from None
            except requests.RequestException as error:  # it broke off: what came is kept
                cause = error
            failures = failures + 1 if _size(partial) == before else 0
            if failures == ATTEMPTS:
                raise DataError(f"{url} cannot be read ({_brief(cause)}); {_size(partial)} of {length} bytes are "
                                "there, run the same command again")
    if _size(partial) > length or (sha256 and hash_file(partial) != sha256):
        partial.unlink()
        raise DataError(f"{url}: what was sent is not what is published (size or sha256 differ); it was removed, "
                        "run the same command again")
    partial.rename(path)


def _receive(url: str, partial: Path, length: int, received: Callable[[int], object]) -> None:
    """Appends what the server sends from where `partial` ends; a server that cannot do so begins anew."""
    start = _size(partial)
    headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    with _session() as session, session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        if start and answer.status_code != requests.codes.partial_content:
            received(-start)
            start = 0
        with partial.open("r+b" if partial.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            for piece in answer.iter_content(CHUNK):
                file.write(piece)
                received(len(piece))
                if file.tell() > length:
                    return


def unpack(path: Path, directory: Path, archive: Archive) -> None:
    """Writes the files of the archive in `path` to their folder, each checked by its CRC-32 and whole or not at all."""
    folder = directory / archive.folder
    folder.mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(path) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()
                       and (not archive.members or PurePosixPath(member.filename).name in archive.members)]
            wanted = [member for member in members if not _is_there(folder, member)]
            for number, member in enumerate(tqdm(wanted, desc=f"unpack {path.name}", disable=None), start=1):
                write_bytes(packed.read(member), folder / PurePosixPath(member.filename).name)
                if number % FILES_PER_HOLE == 0:
                    _give_back(path, member.header_offset)
    except (zipfile.BadZipFile, EOFError, zipfile.zlib.error) as error:
        path.unlink()
        raise DataError(f"{path.name} is broken ({error}); it was removed, run the same command again") from None
    except OSError as error:
        raise DataError(f"cannot unpack {path} ({error.strerror}){remedy(error.errno)}") from None


def _is_there(folder: Path, member: zipfile.ZipInfo) -> bool:
    path = folder / PurePosixPath(member.filename).name
    return path.is_file() and path.stat().st_size == member.file_size


def _give_back(path: Path, end: int) -> None:
    """Frees the archive's bytes before `end`, all of which are unpacked; a file system that cannot do so keeps them."""
    length = end - FIRST_BYTES
    if length > 0 and shutil.which("fallocate"):
        command = ["fallocate", "--punch-hole", "--offset", str(FIRST_BYTES), "--length", str(length), str(path)]
        subprocess.run(command, capture_output=True, check=False)


def can_give_back(directory: Path) -> bool:
    """Whether the file system of `directory` frees a part of a file on request."""
    probe = directory / ".probe.partial"
    try:
        probe.write_bytes(b"x" * 2 * FIRST_BYTES)
        before = probe.stat().st_blocks
        _give_back(probe, 2 * FIRST_BYTES)
        return probe.stat().st_blocks < before
    finally:
        probe.unlink(missing_ok=True)


def _require_space(directory: Path, lengths: dict[str, int]) -> None:
    """Refuses where the archives do not fit: each needs its length, twice where it cannot shrink meanwhile."""
    waiting = {name: length - _size(directory / f"{name}.partial") for name, length in lengths.items()
               if not (directory / name).exists()}
    needed = sum(waiting.values()) * 1.05 + 2**30  # annotations grow when they are unpacked
    if not can_give_back(directory):
        needed += max(lengths.values())
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DataError(f"{directory} has {free / 1e9:.1f} GB free, the download needs {needed / 1e9:.1f} GB; free "
                        "some space or name another folder")


def _length(url: str) -> int:
    """The number of bytes that the server says `url` has."""
    try:
        with _session() as session:
            answer = session.head(url, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}, allow_redirects=True)
        answer.raise_for_status()
        return int(answer.headers["Content-Length"])
    except (requests.RequestException, KeyError, ValueError) as error:
        raise DataError(f"{url} cannot be reached ({_brief(error)}); run the same command again later") from None


def _session() -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRY))
    return session


def _brief(error: Exception | None) -> str:
    return " ".join(str(error or "the connection breaks off").split())[:160]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

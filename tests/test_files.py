"""Files and folders appear whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ssl_pose.__main__ import main
from ssl_pose.files import REMEDIES, new_directory, remedy, write_bytes, write_json

NOBODY = 4_194_305  # above the largest process number of Linux


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path):
    for owner in (NOBODY, os.getppid()):
        (tmp_path / f"log.json.{owner}.partial").write_text("half")
    write_json({"step": 1}, tmp_path / "log.json")
    assert names(tmp_path) == sorted(["log.json", f"log.json.{os.getppid()}.partial"])


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path):
    """The system's limit on file sizes fails a write in its middle, as a full disk does."""
    path = write_bytes(b"old", tmp_path / "model.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bytes(b"x" * 200_000, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.safetensors"]


def test_a_folder_is_replaced_whole_and_kept_where_its_making_fails(tmp_path: Path):
    for content in ("first", "second"):
        with new_directory(tmp_path / "coco") as folder:
            (folder / content).write_text(content)
    with pytest.raises(FileNotFoundError), new_directory(tmp_path / "coco") as folder:
        (folder / "no such folder" / "third").write_text("never")
    assert names(tmp_path) == ["coco"]
    assert names(tmp_path / "coco") == ["second"]


@pytest.mark.parametrize("moment", ["filling", "first rename", "second rename"])
def test_a_folder_whose_making_is_killed_is_made_again(tmp_path: Path, moment: str):
    """Killed while it is filled the old folder stays; between the renames none is there, and never half of one."""
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from ssl_pose.files import new_directory
        real, renames = Path.rename, []
        def rename(self, target):
            renames.append(target)
            if {moment!r} == ("first rename", "second rename")[len(renames) - 1]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, target)
        Path.rename = rename
        with new_directory(Path({str(tmp_path / "crops")!r})) as folder:
            (folder / "new").write_text("new")
            if {moment!r} == "filling":
                os.kill(os.getpid(), signal.SIGKILL)
    """)
    with new_directory(tmp_path / "crops") as folder:
        (folder / "old").write_text("old")
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    left = names(tmp_path / "crops") if (tmp_path / "crops").exists() else []
    assert left == ([] if moment == "second rename" else ["old"])
    with new_directory(tmp_path / "crops") as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["crops"]
    assert names(tmp_path / "crops") == ["new"]


@pytest.mark.parametrize("number", REMEDIES)
def test_an_error_of_the_system_is_one_line_with_its_remedy(number: int, monkeypatch, capsys):
    def fail(_):
        raise OSError(number, os.strerror(number), "results/default")

    monkeypatch.setattr("ssl_pose.__main__.write_code", fail)
    assert main(["code"]) == 1
    line = capsys.readouterr().err
    assert line == f"error: {os.strerror(number)}: results/default; {REMEDIES[number]}\n"


def test_an_error_that_nothing_is_known_about_gets_no_remedy():
    assert remedy(errno.ELOOP) == ""
    assert remedy(None) == ""

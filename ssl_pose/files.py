"""[I/O] Files and folders that appear whole or not at all: made under a temporary name, then renamed.

A temporary name ends in `.<process>.partial`, which git and DVC ignore. What a killed process left under one is
removed when its file is written again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

AGAIN = "then run the same command again"
REMEDIES = {
    errno.ENOSPC: f"free some space, {AGAIN}",
    errno.EDQUOT: f"free some space within the quota, {AGAIN}",
    errno.EFBIG: f"raise the limit on file sizes (ulimit -f), {AGAIN}",
    errno.EROFS: f"make that place writable, {AGAIN}",
    errno.EACCES: f"make that place accessible to this user, {AGAIN}",
    errno.EPERM: f"make that place accessible to this user, {AGAIN}",
    errno.ENOENT: "run the command that makes it, or look whether another program removes files there",
    errno.ENOMEM: f"close other programs, or run fewer stages side by side (JOBS=1), {AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {AGAIN}",
}


def remedy(number: int | None) -> str:
    """What to do about the system's error `number`, as the end of a sentence; empty where nothing is known."""
    return f"; {REMEDIES[number]}" if number in REMEDIES else ""


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `target` when the block ends well, and is removed if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(content: bytes, path: Path) -> Path:
    """Writes `content` to `path`, whose folder it makes; a full disk raises OSError and leaves nothing new."""
    with new_file(path) as partial:
        partial.write_bytes(content)
    return path


def write_text(text: str, path: Path) -> Path:
    return write_bytes(text.encode(), path)


def write_json(value: Any, path: Path) -> Path:
    return write_text(json.dumps(value, indent=1) + "\n", path)


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `target` when the block ends well, and is removed if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target)
    partial.mkdir()
    try:
        yield partial
        replace_directory(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Renames the folder `source` to `target`; a folder that is there already makes room first."""
    if not target.exists():
        source.rename(target)
        return
    old = target.with_name(f"{target.name}.old.{os.getpid()}.partial")
    target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A temporary name for `path`; removes what processes that are no more left under theirs."""
    for stale in path.parent.glob(f"{path.name}.*.partial"):
        owner = stale.suffixes[-2][1:]
        if owner.isdecimal() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.{os.getpid()}.partial")

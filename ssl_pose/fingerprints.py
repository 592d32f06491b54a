"""[I/O] The content of a COCO directory as one hash, read once: a file that has not changed since is not read again.

What was hashed is remembered beside the pipeline's other work, by name, size, time of change and inode, as DVC and
git do; so looking at COCO's 123,000 photos again reads none of their 20 GB. A file that changed less than
`UNSETTLED` before it was read is not remembered: it could change once more without a later time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ssl_pose.coco import SPLITS, UNLABELED, DataError, annotation_path, hash_file
from ssl_pose.files import write_text

UNSETTLED = 2 * 10**9  # ns, the coarsest clock of a file system in use (FAT's)


def fingerprint_directory(
    directory: str | Path, num_threads: int = 8, unlabeled: Sequence[str] = (), memory: Path | None = None
) -> dict[str, Any]:
    """Content hash of a COCO directory: {"sha256": of all, "files": {name inside the directory: sha256}}.

    Covers the annotation files of both splits and every file in their photo folders, and those of UNLABELED with
    the files named `unlabeled`, where there are such; neither the place of the directory nor the order in which
    a file system lists it enters. The file `memory` keeps what was hashed for the next call.
    """
    directory, began = Path(directory), time.time_ns()
    states = {path.relative_to(directory).as_posix(): path.stat() for path in _covered_files(directory, unlabeled)}
    marks = {name: [state.st_size, state.st_mtime_ns, state.st_ino] for name, state in states.items()}
    known = _recall(memory) if memory else {}
    changed = [name for name, mark in marks.items() if known.get(name, [])[:-1] != mark]
    with ThreadPoolExecutor(num_threads) as pool:
        hashed = dict(zip(changed, pool.map(hash_file, (directory / name for name in changed)), strict=True))
    files = {name: hashed[name] if name in hashed else known[name][-1] for name in sorted(marks)}
    if memory and (hashed or known.keys() - marks.keys()):
        settled = {name: [*mark, files[name]] for name, mark in marks.items() if mark[1] < began - UNSETTLED}
        write_text(json.dumps(settled), memory)
    summary = "".join(f"{name} {digest}\n" for name, digest in files.items())
    return {"sha256": hashlib.sha256(summary.encode()).hexdigest(), "files": files}


def _covered_files(directory: Path, unlabeled: Sequence[str]) -> list[Path]:
    """The files that count; raises `DataError` for one that is missing."""
    paths = [annotation_path(directory, split) for split in SPLITS] + [directory / name for name in unlabeled]
    for path in paths:
        if not path.is_file():
            raise DataError(f"no file {path}, which the profile's data section asks for")
    for split in (*SPLITS, UNLABELED) if unlabeled else SPLITS:
        if not (directory / split).is_dir():
            raise DataError(f"no photo folder {directory / split}; a COCO directory holds {split}/")
        paths += [Path(folder, name) for folder, _, names in os.walk(directory / split) for name in names]
    return paths


def _recall(memory: Path) -> dict[str, list]:
    """What an earlier call remembered, by name: size, time of change, inode, sha256; nothing from a broken file."""
    try:
        entries = json.loads(memory.read_bytes())
        return {name: entry for name, entry in entries.items() if len(entry) == 4}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}

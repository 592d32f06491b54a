"""[I/O] With which numbers a file of a workspace was made, noted for that very content and never by its time.

The notes lie in work/state/made_with, beside what DVC knows of. A file that came from elsewhere, such as git, DVC's
cache or an older version of this package, has none, and who asks decides what that means.
"""

from __future__ import annotations

import json
from pathlib import Path

from ssl_pose.coco import hash_file
from ssl_pose.files import write_json
from ssl_pose.workspace import Workspace


def note_made(here: Workspace, path: Path, numbers: str) -> None:
    """Notes that what `path` holds now was made with the numbers of this hash."""
    write_json({"sha256": hash_file(path), "numbers": numbers}, _note(here, path))


def made_with(here: Workspace, path: Path) -> str | None:
    """The hash of the numbers with which the present content of `path` was made; None where that is not known."""
    try:
        note = json.loads(_note(here, path).read_bytes())
        return note["numbers"] if note["sha256"] == hash_file(path) else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def is_stale(here: Workspace, path: Path, numbers: str) -> bool:
    """Whether `path` must be made: it is not there, or is known to have been made with other numbers.

    What nothing is known of is taken as it is: DVC, which may have fetched it from its cache, says when it is stale.
    """
    return not path.exists() or made_with(here, path) not in (numbers, None)


def _note(here: Workspace, path: Path) -> Path:
    return here.state("made_with") / f"{path.relative_to(here.root)}.json"

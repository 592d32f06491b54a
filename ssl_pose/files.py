"""[I/O] Files that appear whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(content: bytes, path: Path) -> Path:
    """Writes `content` to `path`, whose folder it makes; a full disk raises OSError and leaves nothing new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_text(text: str, path: Path) -> Path:
    return write_bytes(text.encode(), path)


def write_json(value: Any, path: Path) -> Path:
    return write_text(json.dumps(value, indent=1) + "\n", path)

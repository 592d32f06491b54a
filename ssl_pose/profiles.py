"""[I/O] Profiles: folders with the numbers of an experiment, some of which say only how they differ from another.

A derived profile holds a `changes.yaml`: the name of its `base` and dotted keys with other values. Its params.yaml
is composed from these, comments included, whenever the profile is opened, because DVC reads that file; it is not in
git.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ssl_pose.config import Config, ConfigError, load_config
from ssl_pose.files import write_text
from ssl_pose.workspace import REPOSITORY

CHANGES = "changes.yaml"
LINE_WIDTH = 4096  # no line is wrapped


@dataclass(frozen=True)
class Profile:
    folder: Path
    config: Config


def profile_folders() -> dict[str, Path]:
    """`default`, which is the root folder, and the folders of profiles/, by name."""
    numbers = [path for name in ("params.yaml", CHANGES) for path in REPOSITORY.glob(f"profiles/*/{name}")]
    return {"default": REPOSITORY} | {folder.name: folder for folder in sorted({path.parent for path in numbers})}


def open_profile(name: str) -> Profile:
    """The profile called `name`, its params.yaml composed where it is derived."""
    folders = profile_folders()
    if name not in folders:
        raise ConfigError(f"unknown profile {name!r}; there are: {', '.join(folders)}")
    folder = folders[name]
    if (folder / CHANGES).exists():
        text = compose(folder)
        path = folder / "params.yaml"
        if not path.exists() or path.read_text() != text:
            write_text(text, path)
    return Profile(folder, load_config(folder / "params.yaml"))


def compose(folder: Path) -> str:
    """The params.yaml of a derived profile as text: its base's with the changes in place, under a line that says so."""
    changes = dict(_read(folder / CHANGES))
    base = changes.pop("base", None)
    if not isinstance(base, str) or not (folder.parent / base / "params.yaml").exists():
        raise ConfigError(f"{folder / CHANGES}: base must name a profile with a params.yaml of its own, got {base!r}")
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, LINE_WIDTH
    content = _read(folder.parent / base / "params.yaml", yaml)
    for dotted, value in changes.items():
        _change(content, dotted, value, folder / CHANGES)
    text = io.StringIO()
    yaml.dump(content, text)
    return f"# Composed of ../{base}/params.yaml and {CHANGES}, which says what differs: edit these.\n{text.getvalue()}"


def _change(content: Any, dotted: str, value: Any, path: Path) -> None:
    *parents, last = dotted.split(".")
    section = content
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        raise ConfigError(f"{path}: unknown key {dotted!r}; its base has no such key")
    section[last] = value


def _read(path: Path, yaml: YAML | None = None) -> Any:
    try:
        content = (yaml or YAML()).load(path.read_text())
    except YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no keys; expected a mapping")
    return content

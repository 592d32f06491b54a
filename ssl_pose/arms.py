"""[I/O] A new arm in a profile's params.yaml: its name in the grid, its lines under `arms`, every comment kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ssl_pose.config import ConfigError, load_config, parse_config, parse_yaml
from ssl_pose.files import write_text

LINE_WIDTH = 4096  # no line is wrapped
GROUP = "Table 2"  # arms of this group stand in Table 2, beside the paper's


def add_arm(path: Path, name: str, base: str, options: dict[str, str], title: str = "") -> dict[str, Any]:
    """Adds the arm `name` to the params.yaml at `path` and returns its lines: those of `base`, then `options`.

    `options` are YAML texts by key of `method`. The file is checked with the new arm before it is written; a wrong
    name, key or value raises `ConfigError` and leaves it as it is.
    """
    config = load_config(path)
    if name in config.arms:
        raise ConfigError(f"arm {name!r} is in the grid already; choose another NAME, or edit its lines in {path.name}")
    config.arm(base)
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, LINE_WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(path.read_text())
    body = {**content["arms"][base], "title": title or _title(config.arm(base).title, options), "group": GROUP}
    body |= {"baseline": base} | {key: parse_yaml(text, key) for key, text in options.items()}
    content["grid"].append(name)
    content["arms"][name] = body
    text = io.StringIO()
    yaml.dump(content, text)
    text = _close_gaps(text.getvalue(), name, yaml)
    parse_config(parse_yaml(text, path.name))
    write_text(text, path)
    return body


def _close_gaps(text: str, name: str, yaml: YAML) -> str:
    """`text` with the arm's lines, which end the grid and the arms, above the blank lines that ended these before."""
    content, lines = yaml.load(text), text.splitlines(keepends=True)
    for first in (content["arms"].lc.key(name)[0], content["grid"].lc.item(len(content["grid"]) - 1)[0]):
        last = next((row for row in range(first + 1, len(lines)) if lines[row].strip() and lines[row][0] != " "),
                    len(lines))
        gap = first
        while not lines[gap - 1].strip() or lines[gap - 1][0] == "#":  # a comment there is about what comes after
            gap -= 1
        lines[gap:last] = lines[first:last] + lines[gap:first]
    return "".join(lines)


def _title(base: str, options: dict[str, str]) -> str:
    """A title that says what differs from the arm that it was made from."""
    changes = ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in options.items())
    return f"{base}, {changes}" if changes else f"{base} (copy)"

"""The tables of docs/performance.md, made anew from the results."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from benchmarks.results import FOLDER, load, processor
from ssl_pose.files import write_text

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def refresh(document: Path = DOCUMENT, folder: Path = FOLDER) -> None:
    """Puts the rows of each benchmark between its two marks, `<!-- name -->` and `<!-- /name -->`.

    A table without marks is a GPU's first: it goes below that of the CPU.
    """
    text = document.read_text()
    for path in sorted(folder.glob("*.json")):
        result = load(path.stem, folder)
        hardware = result["hardware"]
        made = (f"Measured on {processor(hardware)}, {hardware['threads']} thread, "
                f"torch {result['versions']['torch']}, code {result['code_sha']}.")
        first, last = f"<!-- {path.stem} -->", f"<!-- /{path.stem} -->"
        block = f"{first}\n{made}\n\n{markdown(pd.DataFrame(result['rows']))}\n{last}"
        if first not in text:
            above = f"<!-- /{path.stem.removesuffix('_gpu')} -->"
            text = text.replace(above, f"{above}\n\n{first}\n{last}")
        text = re.sub(f"{first}.*?{last}", lambda _, block=block: block, text, flags=re.DOTALL)
    write_text(text, document)


def markdown(frame: pd.DataFrame) -> str:
    lines = [frame.columns.tolist(), ["---"] * len(frame.columns),
             *(["" if pd.isna(value) else f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row]
               for row in frame.itertuples(index=False))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

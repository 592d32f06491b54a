"""[I/O] What the README shows of the results, between the markers that name a profile.

`<!-- results of NAME:begin -->` ... `<!-- results of NAME:end -->` encloses the paper's tables, the claims and the
checks of profile NAME; `<!-- claims of NAME:begin -->` its claims alone. A profile that no marker names leaves the file
as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_pose import paper, statistics
from ssl_pose.claims import FROZEN_ARM, OTHER_READINGS, read_ledger
from ssl_pose.config import Config
from ssl_pose.files import write_text
from ssl_pose.reporting import caveat_sentence, checks_sentence, find_file, headroom_sentence, photos_sentence
from ssl_pose.results import MODES, ResultsError
from ssl_pose.tables import to_markdown


def update_readme(readme: Path, results: Path, config: Config) -> bool:
    """Writes the blocks of this profile anew from its finished results; returns whether the file changed.

    Raises `ResultsError` where a marker stands without the other, twice, or before it.
    """
    old = new = Path(readme).read_text(encoding="utf-8")
    for kind, block in BLOCKS.items():
        begin, end = markers(kind, config.profile)
        if begin not in old and end not in old:
            continue
        if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
            raise ResultsError(f"{readme} must hold {begin} and, after it, {end}, once each")
        head, tail = new.split(begin)[0], new.split(end)[1]
        new = f"{head}{begin}\n{block(results, config)}\n{end}{tail}"
    if new != old:
        write_text(new, readme)
    return new != old


def markers(kind: str, profile: str) -> tuple[str, str]:
    """What stands before and after a block of this kind."""
    return f"<!-- {kind} of {profile}:begin -->", f"<!-- {kind} of {profile}:end -->"


def results_block(results: Path, config: Config) -> str:
    """The paper's tables with ours beside them, the claims, and what speaks for and against these.

    Of the readings of Table 1 that carry no verdict, those of the frozen arm are shown.
    """
    ledger = read_ledger(find_file([results], "claims.json"))
    table_1, table_2 = (pd.read_csv(find_file([results], f"tables/{name}.csv")) for name in ("table_1", "table_2"))
    frozen = config.arms[FROZEN_ARM].title if FROZEN_ARM in config.arms else ""
    read = table_1[~table_1.reading.isin(OTHER_READINGS.values()) | (table_1.networks == frozen)]
    columns = ["networks", "reading", *(f"{mode}_{part}" for mode in MODES for part in ("mean", "std"))]
    return _paragraphs(
        f"Ours: mean ± standard deviation over {len(config.seeds)} seeds, %. Levels do not compare with the paper's "
        f"(COCO, 1K labelled images: supervised {paper.SUPERVISED_MAP}, all labels {paper.ALL_LABELS_MAP} "
        "mAP); orders and shares of the headroom do.",
        "**Table 2: frameworks** (paper: mAP)",
        to_markdown(table_2[["title", "paper", "AP_mean", "AP_std", "PCK_mean", "PCK_std"]]),
        "**Table 1: PCK of pseudo-heatmaps** (thresholds are each arm's own: the second reading compares within a row; "
        "the last two carry no verdict)", to_markdown(read[columns]),
        "**Claims** (effects in percent of the headroom, intervals at Holm's levels)", to_markdown(claim_rows(ledger)),
        caveat_sentence(ledger),
        f"**Checks** that every semi-supervised arm beats the supervised one and all labels beat every arm: "
        f"{checks_sentence(ledger)}",
        photos_sentence(ledger),
        headroom_sentence(ledger),
    )


def claims_block(results: Path, config: Config) -> str:
    """The claims alone, and which verdicts the second interval would not give."""
    ledger = read_ledger(find_file([results], "claims.json"))
    return _paragraphs(
        f"Profile `{config.profile}`, {len(config.seeds)} seeds; effects in percent of the headroom, intervals at "
        "Holm's levels:", to_markdown(claim_rows(ledger)), photos_sentence(ledger[ledger.family == "primary"]),
    )


BLOCKS: dict[str, Callable[[Path, Config], str]] = {"results": results_block, "claims": claims_block}


def claim_rows(ledger: pd.DataFrame) -> pd.DataFrame:
    """A row a claim of the paper, ours beside it, with interval and verdict."""
    return pd.DataFrame([
        {"paper's claim": claim.title, "source": claim.source, "paper, points": claim.paper,
         "ours, points_mean": claim.difference, "ours, points_std": claim.difference_std,
         "effect_mean": claim.effect, "low": claim.interval[0] if claim.interval else None,
         "high": claim.interval[1] if claim.interval else None, "verdict": _with_seeds(claim)}
        for claim in ledger[ledger.family == "primary"].itertuples()
    ])


def _with_seeds(claim: Any) -> str:
    """The verdict of a row of the ledger; where it is open, with the seeds that it would take."""
    if claim.verdict != statistics.UNDECIDED or pd.isna(claim.seeds_needed):
        return claim.verdict
    return f"{claim.verdict}; {claim.seeds_needed:.0f} seeds would find an effect of delta"


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)

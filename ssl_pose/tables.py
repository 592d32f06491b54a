"""Tables: tidy frames of runs in, frames with numbers out, and the two ways in which people read them.

A table keeps numbers as numbers: `<name>_mean` and `<name>_std` over seeds (ddof 1, missing for one seed),
`low` and `high` for an interval. `readable` turns them into text ("38.3 ± 1.2", "[0.9, 3.4]") for pages.
Accuracies are percent, differences percentage points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from ssl_pose import statistics
from ssl_pose.config import Config
from ssl_pose.results import MODES

MISSING = "–"
PROVENANCE = {  # field of train.json: column
    "git_sha": "commit", "git_dirty": "edited since", "code_sha": "code", "config_sha": "config",
    "data_sha": "data", "wall_seconds": "seconds", "peak_memory_mib": "peak MiB",
}
HASHES = ("commit", "code", "config", "data")  # columns of text, though one such as 9761e763 looks like a number


def score_table(scores: pd.DataFrame, paper: Mapping[str, float] | None = None) -> pd.DataFrame:
    """A row an arm, in the order of `scores`: the paper's mAP if given, then AP, AR, PCK and their spread."""
    rows = []
    for arm, runs in scores.groupby("arm", sort=False):
        row = {"arm": arm, "title": runs.title.iloc[0]}
        row |= {"paper": paper.get(arm)} if paper else {}
        for measure in ("AP", "AR", "PCK", "AP_ensemble"):
            row |= statistics.named_mean_and_std(measure, runs[measure].dropna().astype(float))
        rows.append(row | {"seeds": len(runs)})
    return pd.DataFrame(rows)


def ensemble_table(quality: pd.DataFrame, titles: Mapping[str, str], readings: Mapping[str, str],
                   paper: Mapping[str, float]) -> pd.DataFrame:
    """Table 1: a row a (reading of the PCK, arm whose networks predict), a column a mode; the paper first."""
    first = {"networks": "paper", "reading": "not stated"} | {f"{mode}_mean": paper[mode] for mode in MODES}
    rows = [first]
    for column, reading in readings.items():
        for arm, title in titles.items():
            runs = quality[quality.arm == arm]
            row = {"networks": title, "reading": reading}
            for mode in MODES:
                row |= statistics.named_mean_and_std(mode, runs.loc[runs["mode"] == mode, column])
            rows.append(row | {"seeds": runs.seed.nunique()})
    columns = [f"{mode}_{part}" for mode in MODES for part in ("mean", "std")]
    return pd.DataFrame(rows, columns=["networks", "reading", *columns, "seeds"])


def paired_table(
    scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], paper: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """A row a pair (better, worse) of arms: the paper's difference, ours over seeds, and its 95 % t interval.

    The intervals are not adjusted for their number; claims.json has those that are.
    """
    titles = scores.drop_duplicates("arm").set_index("arm").title
    wide = scores.pivot(index="seed", columns="arm", values="AP")
    rows = []
    for better, worse in pairs:
        differences = (wide[better] - wide[worse]).tolist()
        low, high = statistics.paired_interval(differences) or (None, None)
        known = paper is not None and better in paper and worse in paper
        row = {"better": titles[better], "worse": titles[worse]}
        row |= {"paper": round(paper[better] - paper[worse], 2) if known else None}
        row |= statistics.named_mean_and_std("difference", differences)
        rows.append(row | {"low": low, "high": high, "seeds": len(differences)})
    columns = ["better", "worse", "paper", "difference_mean", "difference_std", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def refine_pairs(config: Config) -> list[tuple[str, str]]:
    """The pairs (with, without) of arms that differ in threshold-and-refine, and perhaps its threshold, alone."""
    same = {"title": "", "group": "", "baseline": "", "confidence_threshold": 0.0, "below_threshold": "drop"}
    plain = {name: dataclasses.replace(arm, **same) for name, arm in config.arms.items()}
    return [
        (refined, arm)
        for arm, body in plain.items()
        for refined, other in plain.items()
        if body.target == "soft" and other == dataclasses.replace(body, target="threshold_and_refine")
    ]


def mean_table(frame: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """A row a value of `keys`, in order of appearance: mean and std of `columns` over the seeds."""
    rows = []
    for values, runs in frame.groupby(list(keys), sort=False):
        row = dict(zip(keys, values, strict=True))
        for column in columns:
            row |= statistics.named_mean_and_std(column, runs[column].dropna())
        rows.append(row | {"seeds": runs.seed.nunique()})
    parts = [f"{column}_{part}" for column in columns for part in ("mean", "std")]
    return pd.DataFrame(rows, columns=[*keys, *parts, "seeds"])


def claim_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger as a table: effects and intervals in percent of the headroom.

    `with photos drawn too` is the two-way interval, over seeds and photos (for a PCK, persons). `seeds needed` stands
    where the verdict is open: a closed one needs no more, whatever it would take to find an effect of delta.
    """
    needed = ledger.seeds_needed.where(ledger.verdict == statistics.UNDECIDED)
    bounds = [interval or (None, None) for interval in ledger.interval]
    return pd.DataFrame({
        "claim": ledger.title, "verdict": ledger.verdict, "source": ledger.source, "paper, points": ledger.paper,
        "ours, points_mean": ledger.difference, "ours, points_std": ledger.difference_std,
        "effect, % of headroom_mean": ledger.effect,
        "low": [low for low, _ in bounds], "high": [high for _, high in bounds],
        "with photos drawn too": [_interval(*(interval or (None, None)), 1) for interval in ledger.two_way],
        "detectable, %_mean": ledger.detectable, "seeds": ledger.seeds, "seeds needed": needed,
    })


def provenance_table(provenance: pd.DataFrame) -> pd.DataFrame:
    """A row a run: what train.json says about commit, time, memory, speed and machine."""
    table = provenance[["arm", "seed", *PROVENANCE]].rename(columns=PROVENANCE)
    for name in HASHES:
        table[name] = table[name].str.slice(0, 8)
    table["threads"] = provenance["hardware.threads"].astype(str) + " of " + provenance["hardware.cores"].astype(str)
    table["processor"] = provenance["hardware.gpu"].fillna(provenance["hardware.cpu"])
    return table


def effort_table(provenance: pd.DataFrame) -> pd.DataFrame:
    """What the runs took, a row a kind of machine: runs, commits, hours of training, hours of cores or GPUs, memory."""
    machine = provenance["hardware.gpu"].fillna(provenance["hardware.cpu"])
    rows = []
    for name, runs in provenance.groupby(machine, sort=False):
        hours, on_gpu = runs.wall_seconds / 3600, runs["hardware.gpu"].notna().all()
        held = hours * runs.num_processes * (1 if on_gpu else runs["hardware.threads"])
        rows.append({
            "machine": name, "runs": len(runs), "commits": ", ".join(sorted(runs.git_sha.str.slice(0, 8).unique())),
            "edited since": int(runs.git_dirty.sum()), "hours of training": hours.sum(),
            "hours of GPUs" if on_gpu else "hours of cores": held.sum(),
            "peak MiB": int(runs.peak_memory_mib.max()),
        })
    return pd.DataFrame(rows)


def version_table(provenance: pd.DataFrame) -> pd.DataFrame:
    """The versions of the software that made the runs; more than one value where runs differ."""
    columns = [column for column in provenance if column.startswith("versions.")]
    values = {column: sorted(provenance[column].dropna().astype(str).unique()) for column in columns}
    rows = [(column.removeprefix("versions."), ", ".join(found)) for column, found in values.items()]
    return pd.DataFrame(rows, columns=["software", "version"])


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table as text: means with their spread, intervals in brackets, a dash where nothing is known."""
    columns = {}
    for name in frame.columns:
        if name.endswith("_mean"):
            base, digits = name.removesuffix("_mean"), _digits(frame[name])
            spreads = frame.get(f"{base}_std", [None] * len(frame))
            columns[base] = [_spread(*pair, digits) for pair in zip(frame[name], spreads, strict=True)]
        elif name == "low":
            digits = _digits(frame.high)
            columns["interval"] = [_interval(*pair, digits) for pair in zip(frame.low, frame.high, strict=True)]
        elif not (name.endswith("_std") or name == "high"):
            columns[name] = [_text(value) for value in frame[name]]
    return pd.DataFrame(columns).rename(columns=lambda name: name.replace("_", " "))


def to_markdown(frame: pd.DataFrame) -> str:
    """`readable` as a GitHub table; a bar inside a cell is escaped."""
    table = readable(frame)
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def _digits(column: pd.Series) -> int:
    """Decimals of a column: two where every number is small (differences, correlations), else one."""
    return 2 if column.astype(float).abs().max() < 10 else 1


def _spread(mean: float | None, std: float | None, digits: int) -> str:
    if pd.isna(mean):
        return MISSING
    return f"{mean:.{digits}f}" if pd.isna(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return MISSING if pd.isna(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def _text(value: object) -> str:
    if pd.isna(value):
        return MISSING
    if isinstance(value, float):
        return f"{round(value, 2):g}" if abs(value) < 1e5 else f"{value:.0f}"
    return {"True": "yes", "False": "no"}.get(str(value), str(value))

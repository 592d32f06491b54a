"""[I/O] The report page, from the tables, figures and records of a profile, and the sentences on its ledger.

The page is one file without any outside resource: figures are embedded, nothing is fetched, there is no
script. The same inputs give the same bytes: no date, no name of this machine, no version of this code. The
list of sections below is the only list of what the page shows; a table or figure that is missing is a
`ResultsError` that names it.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ssl_pose import statistics
from ssl_pose.claims import CONFIRMING_SEEDS, read_ledger
from ssl_pose.config import Config
from ssl_pose.results import ResultsError, load_provenance
from ssl_pose.tables import HASHES, effort_table, readable, version_table

VERDICT_STYLES = {statistics.REPRODUCED: "good", statistics.SMALLER: "good", statistics.REVERSED: "bad",
                  statistics.ABSENT: "bad", statistics.UNDECIDED: "open"}
FAVOURED = "maximum_over_average_pck_above_threshold"  # a maximum only raises peaks, so that more pass the threshold


@dataclass(frozen=True)
class Section:
    """A part of the page: what is asked, how to read the answer, and the files that give it.

    A table without rows is left out, with the figure of its name; so is a section of which nothing is left.
    """

    key: str
    title: str
    text: str
    tables: tuple[tuple[str, str], ...] = ()  # (name of the CSV, caption)
    figures: tuple[tuple[str, str, str], ...] = ()  # (name of the PNG, caption, text in place of the picture)
    notebook: str = "90_report"  # which made them
    compares: str = ""  # a column of the first table: with one row a value there is nothing to compare


SECTIONS = (
    Section(
        "claims", "What the runs say about the paper's claims",
        "An effect is a mean difference over seeds, paired by seed, as a share of the headroom: all labels minus "
        "supervised for AP, 100 minus the single view for a PCK. Intervals are two-sided t intervals at Holm's "
        "levels, so that a whole family of claims is wrongly called reproduced or reversed once in twenty; absent and "
        "smaller are read off the same intervals, one by one. Reproduced: the interval lies above zero "
        "(smaller: and below delta, half of the paper's effect). Reversed: below zero. Absent: within plus or "
        "minus delta. Otherwise undecided, and “seeds needed” would find an effect of delta with 80 % power. “With "
        "photos drawn too” is the interval of a bootstrap that draws both the seeds and the photos of the test set "
        "(for a PCK of pseudo-heatmaps, of the pool) anew, at the same level; no verdict rests on it.",
        (("claims", "The ledger: the paper's claims (claims.json holds it with each seed's difference)"),),
        (("claims", "Effects with their intervals, the paper's effects, and what counts as absent",
          "A row a claim: our effect with its interval, the paper's effect and the range of plus or minus delta"),),
    ),
    Section(
        "all_arms", "Every arm",
        "Mean and standard deviation over seeds. Two students report the mean of their scores; Teacher-Student "
        "reports its EMA teacher; “AP ensemble” averages the heatmaps of both networks and costs twice as much.",
        (("all_arms", "Accuracy on the held-out images, %"),),
        (("all_arms", "AP of every arm: dots are seeds, diamonds their mean",
          "A row an arm: AP of each seed, with mean and standard deviation"),),
    ),
    Section(
        "checks", "Is the benchmark sound?",
        "Unlabelled photos should help every semi-supervised arm, and all labels should beat every arm. Where one of "
        "these is not reproduced, the claims above stand on sand. They are a family of their own.",
        (("checks", "Differences of AP, in the columns of the ledger"),
         ("regime", "The regime, beside that of the paper's protocol with 1K labels; counts beside 1K, 5K and 10K")),
    ),
    Section(
        "table_2", "Teacher or dual student? (Table 2)",
        "The paper's numbers are mAP on COCO with 1K labelled images; ours are AP on this profile's data. Levels "
        "do not compare, orders and differences do.",
        (("table_2", "Frameworks with and without threshold-and-refine"),
         ("table_2_paired", "Paired differences, points of AP, with 95 % intervals"),
         ("same_start", "The same between networks of one start: first student, EMA teacher, supervised")),
        (("table_2", "Ours beside the paper's", "AP of the arms of Table 2 per seed, beside the paper's mAP values"),),
        notebook="60_teacher_or_dual",
    ),
    Section(
        "table_1", "Average or maximum of the views? (Table 1, Figure 1)",
        "PCK of pseudo-heatmaps against labels hidden from training. A peak lies where the profile's decoder puts it: "
        "with DARK at the arg-max, moved within its cell. “None” is one weakly augmented view, for arms whose own "
        "labels come from the un-augmented crop too. The paper does not say how it counts a joint "
        "without a confident peak, so every reading stands here. A maximum only raises peaks: where joints under the "
        "threshold count as wrong, this favours it by construction.",
        (("table_1", "PCK@0.2 of pseudo-heatmaps, %, per network that predicts"),
         ("clean_peaks", "How clean: the second peak over the first, and peaks of at least half the first")),
        (("table_1", "PCK of pseudo-heatmaps by ensemble",
          "Two panels, one a reading: PCK for a single view, the average and the maximum, a line an arm"),
         ("figure_1", "Right ankle: one view each, average, maximum (ring: label, cross: peak)",
          "Crops of people with the heatmap of the right ankle laid over them, per view and per ensemble")),
        notebook="62_average_or_maximum",
    ),
    Section(
        "threshold", "What threshold-and-refine keeps, drops and gains",
        "A higher threshold keeps fewer joints; it earns its place if more of these are correct. Refinement redraws "
        "a kept peak at the centre of its cell: the target is sharp, and what lay within the cell is lost. At equal "
        "coverage ensembles compare whatever the heights of their peaks.",
        (("threshold_and_refine", "Pseudo-labels before and after the threshold, %"),
         ("coverage", "Right among the joints with the highest peaks, %, by the share that is kept"),
         ("threshold_effect", "Arms that differ in threshold-and-refine alone: paired AP difference, points"),
         ("training", "Along training: heights of peaks; shares at the end, and of steps that predict background, %")),
        (("coverage", "Coverage against precision over the threshold (ring: the arm's threshold)",
          "Curves of the share of correct joints over the share of joints kept, per arm and ensemble"),
         ("peaks", "Peak height and share kept along training. Arms compare with care: each is counted at its own "
          "threshold, and a lower one keeps more; a maximum of views peaks higher than the single view of a plain arm",
          "Over training steps: mean peak of pseudo-heatmaps, shares of joints kept and agreed on")),
        notebook="64_threshold_and_refine",
    ),
    Section(
        "selection", "Does uncertainty choose the better student, and is the whole method worth it?",
        "Lines 23-24 of Algorithm 1, replayed on the final networks for a range of margins. What the whole method "
        "gains over Dual-Student + T&R stands among the claims.",
        (("selection", "At the profile's margin: how often a student keeps its own map, and PCK, %"),
         ("uncertainty", "Spearman's correlation with a peak's error: of uncertainty, over the peak, of a low peak")),
        (("selection", "Over the margin: shares and accuracy (dotted: the profile's margin)",
          "Two panels over the margin: how often students keep their own map, PCK of chosen and rejected maps"),
         ("uncertainty", "Wrong peaks against uncertainty",
          "Share of wrong peaks over mean uncertainty in bins of equally many joints, a line an arm")),
        notebook="66_selection",
    ),
    Section(
        "figure_2", "Poses on held-out images (Figure 2)",
        "The best and the worst by OKS; dashed white is the label, colours are the prediction (left, right, "
        "across).",
        (("figure_2", "The persons shown"),),
        (("figure_2", "Best and worst poses", "Crops of people with predicted and labelled skeletons"),),
        notebook="70_qualitative",
    ),
    Section(
        "ablations", "What each choice changes, and what it costs",
        "Arms beside the arm that they vary: differences of AP, paired by seed, with 95 % t intervals that are not "
        "adjusted for their number. They explore; no verdict rests on them. “Cost” is what training takes, in passes "
        "of an image through a network, over the baseline's.",
        (("ablations", "Every variation, its options, its difference and its cost"),
         ("costs", "Accuracy and the image passes of training, in millions"),
         ("equal_cost", "Arms that cost the same in unequal steps: the longer one less the other, points of AP")),
        (("ablations", "Differences from the baseline", "A row an arm: difference of AP with its interval, by group"),
         ("costs", "Accuracy against compute", "AP over the image passes of training, a numbered point an arm")),
        notebook="74_ablations",
    ),
    Section(
        "label_counts", "What labels are worth",
        "Arms that differ in their label count alone are a curve; arms of one count stand below, where there is a "
        "supervised curve to read them off. “Equivalent” is how many labels supervised training "
        "needs for the same AP, read off its own curve, and its bounds those for the ends of the gain's interval, with "
        "the curve taken as exact; all are empty beyond that curve's ends. Intervals are 95 % t "
        "intervals of their own.",
        (("label_counts", "Accuracy over labels; gain over supervised training with the same labels, points"),
         ("label_counts_paired", "Method against method, percent of the headroom at that count")),
        (("label_counts", "Accuracy over labels", "AP over the number of labels, a line a method"),),
        notebook="76_label_counts",
    ),
    Section(
        "phases", "Where the claims hold",
        "A cell is a claim about plain arms in one setting, and holds where the mean difference over the seeds is "
        "above zero. Where the profile has predictions, they were made before its cells were run; a Brier score of 0 "
        "is perfect, a coin has 0.25.",
        (("phases", "Differences in points, with 95 % intervals"), ("predictions", "The predictions' score")),
        (("phases", "The diagram (bold: the interval excludes zero; a tick: on the predicted side, a cross: on the "
          "other; a dot: no prediction, or an even one)",
          "A panel a claim, a field a setting: the difference in points and whether it was predicted"),),
        notebook="78_phases", compares="claim",
    ),
    Section(
        "readings", "The same networks, read in other ways",
        "Other decoders, with and without flip test; large and small people; joint by joint. “Oracle” decodes the "
        "true heatmaps: what it falls short of 100 is lost by encoding and decoding alone.",
        (("decoding", "AP by decoder"),
         ("sizes", "AP by OKS threshold, by size (COCO's; thirds of the people), and recall"),
         ("per_joint", "PCK@0.2 of each joint, %"),
         ("mistakes", "Where predicted joints lie, %; networks that mix up a pair of sides"),
         ("calibration", "Mean gap between a peak's height and the share of joints that are right, points")),
        (("reliability", "Is a confident joint a right one?",
          "Share of right joints over the height of their peaks, a line an arm"),),
        notebook="72_readings",
    ),
    Section(
        "data", "The people",
        "What the networks see: person crops. Labels of joints in sight are filled, those of hidden joints hollow.",
        figures=(("data_samples", "Person crops with their labels", "A grid of person crops with labelled poses"),
                 ("data_statistics", "Labels of each joint, height of people, and people per photo",
                  "Bars for the share of seen, hidden and missing labels per joint, and two histograms")),
        notebook="12_data_figures",
    ),
    Section(
        "provenance", "Where the numbers come from",
        "One row a run, as recorded while it trained. Runs whose “code” differs were made by different versions of "
        "the library; “edited since” are those that no commit reproduces.",
        (("provenance", "Runs"),),
    ),
)


def render_report(config: Config, results: Path, folders: Sequence[Path]) -> str:
    """The page as text: runs are read from `results`, tables and figures from the first folder that has them."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("ssl_pose", "."), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    ledger = read_ledger(find_file(folders, "claims.json"))
    sections = [_page_section(section, folders) for section in SECTIONS]
    provenance = load_provenance(results, config)
    notebooks = os.path.relpath(Path(results) / "notebooks", folders[0])  # from where the page will lie
    return environment.get_template("report.html.j2").render(
        profile=config.profile, seeds=config.seeds, arms=[arm.title for arm in config.arms.values()],
        source=config.data.source, size=config.data.input_size, label_count=config.splits.label_count,
        unit=config.splits.unit, explores=len(config.seeds) < CONFIRMING_SEEDS,
        verdicts=verdict_counts(ledger), verdict_styles=VERDICT_STYLES, headroom=headroom_sentence(ledger),
        caveat=caveat_sentence(ledger), photos=photos_sentence(ledger),
        effort=_page_table(effort_table(provenance)), versions=_page_table(version_table(provenance)),
        collapsed=collapsed_runs(provenance), notebooks=notebooks,
        sections=[section for section in sections if section["tables"] or section["figures"]],
        left_out=[section["title"] for section in sections if not (section["tables"] or section["figures"])],
    )


def collapsed_runs(provenance: pd.DataFrame) -> list[str]:
    """A line for each run whose networks ended as background; runs of older records are not judged."""
    if "collapse" not in provenance:
        return []
    told = provenance[provenance.collapse.fillna("") != ""]
    return [f"{run.arm}, seed {run.seed}: {run.collapse}" for run in told.itertuples()]


def find_file(folders: Sequence[Path], name: str) -> Path:
    """The first of `folders` that holds the file `name`; raises `ResultsError` naming it otherwise."""
    for folder in folders:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    places = " or ".join(str(folder) for folder in folders)
    raise ResultsError(f"the report needs {name}, which is not in {places}: run `make report`")


def verdict_counts(ledger: pd.DataFrame) -> dict[str, int]:
    """How many primary claims got each verdict, in the order of first appearance."""
    primary = ledger[ledger.family == "primary"]
    return primary.verdict.value_counts(sort=False).to_dict()


def checks_sentence(ledger: pd.DataFrame) -> str:
    """How many checks hold, and by name those that do not."""
    checks = ledger[ledger.family == "check"]
    failed = [f"{check.title} ({check.verdict})" for check in checks.itertuples()
              if check.verdict != statistics.REPRODUCED]
    if checks.empty:
        return "none, for their arms are not in the grid."
    held = f"{len(checks) - len(failed)} of {len(checks)} hold"
    if not failed:
        return f"{held}."
    return f"{held}; not: {', '.join(failed)}. A claim that rests on such an arm says little about the paper's."


def caveat_sentence(ledger: pd.DataFrame) -> str:
    """Which reproduced claims say less than the word, by how they count or what they rest on; empty if none does."""
    found = ledger[(ledger.family == "primary") & ledger.verdict.isin([statistics.REPRODUCED, statistics.SMALLER])]
    checks = ledger[(ledger.family == "check") & (ledger.verdict != statistics.REPRODUCED)]
    failing = {name.removesuffix("_over_supervised").removeprefix("all_labels_over_") for name in checks.id}
    lines = [f"“{claim.title}” counts in favour of the maximum by construction" for claim in found.itertuples()
             if claim.id == FAVOURED]
    lines += [f"“{claim.title}” rests on an arm of which a check does not hold" for claim in found.itertuples()
              if claim.measure == "AP" and failing & {*claim.id.split("_over_")}]
    return f"Of the reproduced claims, {'; '.join(lines)}." if lines else ""


def photos_sentence(ledger: pd.DataFrame) -> str:
    """Which verdicts the second interval, which draws photos too, would not give; empty where it agrees with all."""
    titles: dict[str, list[str]] = {}
    for claim in ledger.itertuples():
        if claim.two_way and (verdict := statistics.verdict(claim.two_way, claim.delta)) != claim.verdict:
            titles.setdefault(verdict, []).append(f"“{claim.title}”")
    lines = [f"{', '.join(names)} would be {verdict}" for verdict, names in titles.items()]
    return f"By the second interval, which draws photos too, {'; '.join(lines)}." if lines else ""


def headroom_sentence(ledger: pd.DataFrame) -> str:
    """Whether the verdicts on AP would outlive a better upper bound, which widens the headroom; empty without any."""
    claims = ledger[(ledger.family == "primary") & (ledger.measure == "AP")]
    if claims.empty:
        return ""
    scales = {claim.title: statistics.scale_that_changes(claim.interval, claim.delta) for claim in claims.itertuples()}
    first = min(scales, key=scales.__getitem__)
    if math.isinf(scales[first]):
        return "No verdict on AP would change with a wider headroom, as a better upper bound gives."
    return (f"A better upper bound widens the headroom; the first verdict on AP that changes, when it is "
            f"{scales[first]:.2f} times as wide, is that of “{first}”.")


def _page_section(section: Section, folders: Sequence[Path]) -> dict[str, Any]:
    frames = {name: _read_table(folders, name) for name, _ in section.tables}
    bare = {name for name, frame in frames.items() if frame.empty}
    if section.compares and not frames[section.tables[0][0]].duplicated(section.compares).any():
        bare |= {name for name, *_ in (*section.tables, *section.figures)}
    tables = [{"caption": caption} | _page_table(frames[name]) for name, caption in section.tables if name not in bare]
    figures = [
        {"caption": caption, "alt": alt, "data": _base64(find_file(folders, f"figures/{name}.png"))}
        for name, caption, alt in section.figures if name not in bare
    ]
    return {"key": section.key, "title": section.title, "text": section.text, "tables": tables,
            "figures": figures, "notebook": section.notebook}


def _read_table(folders: Sequence[Path], name: str) -> pd.DataFrame:
    return pd.read_csv(find_file(folders, f"tables/{name}.csv"), dtype=dict.fromkeys(HASHES, str))


def _page_table(frame: pd.DataFrame) -> dict[str, Any]:
    """Header and cells as text; a column whose cells are all numbers or dashes is set flush right."""
    text = readable(frame)
    numeric = [column not in HASHES and all(cell[:1] in "0123456789-–[" for cell in text[column]) for column in text]
    return {"header": list(text.columns), "rows": text.to_numpy().tolist(), "numeric": numeric}


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")

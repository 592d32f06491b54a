"""Charts: tables in, a matplotlib Figure out; nothing is read or computed here.

Colours are seaborn's colour-blind palette, and colour never carries meaning alone (markers, line styles and
labels repeat it). No pyplot, no global state. `save_figure` writes the same bytes for the same figure: no
date and no version in the file. Accuracies are percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ssl_pose.files import write_bytes
from ssl_pose.results import MODES

PALETTE = sns.color_palette("colorblind", 10)
BLUE, ORANGE, GREEN, RED = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3]
GREY = (0.35, 0.35, 0.35)
MARKERS = "osD^vPX*<>"
DPI = 150
TALLEST = 1.5  # mean height of peaks that a figure shows: targets have 1 at best, and noise any
LEGEND_LINE = 0.19  # height of a line of a legend under a figure, inches
ROOM = 10.0  # between a number beside a point and the other points and numbers, pt


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a PNG of 256 colours, a third of the size of a full one, whose bytes depend on the drawing alone."""
    drawn, buffer = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(256).save(buffer, format="png", optimize=True)
    return write_bytes(buffer.getvalue(), path)


def arm_looks(frame: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and label of the arms that `frame` has rows of.

    `titles` are those of the whole grid: an arm's place in it gives its look, which is the same in every figure.
    """
    shown = set(frame.arm)
    return {arm: {"label": title} | _look(place) for place, (arm, title) in enumerate(titles.items()) if arm in shown}


def _look(place: int) -> dict[str, Any]:
    """Neighbours differ in colour and in marker, and a hundred places in one of the two."""
    return {"color": PALETTE[place % 10], "marker": MARKERS[(place + place // 10) % 10]}


def draw_scores(scores: pd.DataFrame, paper: Mapping[str, float] | None = None) -> Figure:
    """A row an arm: the AP of each seed, their mean and standard deviation; beside it the paper's mAP."""
    titles = scores.drop_duplicates("arm").set_index("arm").title
    figure = Figure(figsize=(7.2, 1.1 + 0.36 * len(titles)), layout="constrained")
    panels = figure.subplots(1, 2 if paper else 1, sharey=True, squeeze=False)[0]
    for row, arm in enumerate(titles.index):
        values = scores.AP[scores.arm == arm].to_numpy(float)
        panels[0].plot(values, np.full(len(values), row), "o", color=BLUE, alpha=0.45, markersize=5)
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        panels[0].errorbar(values.mean(), row, xerr=spread, fmt="D", color=GREY, capsize=4, markersize=6)
        if paper and arm in paper:
            panels[1].plot(paper[arm], row, "s", color=ORANGE, markersize=8)
    panels[0].set(yticks=range(len(titles)), yticklabels=titles, xlabel="AP, % (dots: seeds)")
    panels[0].set_ylim(len(titles) - 0.5, -0.5)
    if paper:
        panels[0].set_title("ours", fontsize=9.5)
        panels[1].set_title("paper: COCO, 1K labels", fontsize=9.5)
        panels[1].set(xlabel="mAP, %")
    return _finish(figure, "x")


def draw_claims(claims: pd.DataFrame) -> Figure:
    """A row a claim: effect and interval (circles), the paper's effect (squares), plus or minus delta (bars).

    All in percent of the headroom; delta is half of the paper's effect, so the square stands at twice delta.
    """
    figure = Figure(figsize=(8.0, 1.0 + 0.55 * len(claims)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    for row, claim in enumerate(claims.itertuples()):
        if pd.notna(claim.delta):
            axes.barh(row, 2 * claim.delta, 0.7, left=-claim.delta, color="0.88", zorder=0,
                      label=_once("within plus or minus delta: absent", axes))
        if pd.notna(claim.paper):
            axes.plot(2 * claim.delta, row, "s", color=ORANGE, markersize=7, label=_once("paper", axes))
        if pd.notna(claim.effect):
            axes.plot(claim.effect, row, "o", color=BLUE, markersize=7, label=_once("ours", axes))
        if isinstance(claim.interval, list | tuple):
            axes.plot(claim.interval, [row, row], color=BLUE, linewidth=2)
    labels = [f"{claim.title.replace(' (', chr(10) + '(')}\n{claim.verdict}" for claim in claims.itertuples()]
    axes.set_yticks(range(len(claims)), labels, fontsize=8.5)
    axes.set(xlabel="effect, % of the headroom", ylim=(len(claims) - 0.4, -0.6))
    _shared_legend(figure, columns=3)
    return _finish(figure, "x")


def draw_ensembles(quality: pd.DataFrame, titles: Mapping[str, str], readings: Mapping[str, str],
                   paper: Mapping[str, float]) -> Figure:
    """A panel a reading of the PCK: none, average, maximum on each arm's networks, mean and std over seeds."""
    figure = Figure(figsize=(8.0, 3.8), layout="constrained")
    panels = figure.subplots(1, len(readings), squeeze=False)[0]
    looks = arm_looks(quality, titles)
    step = min(0.05, 0.6 / max(1, len(looks)))  # many arms stay nearer to their mode than to the next
    for panel, (column, reading) in zip(panels, readings.items(), strict=True):
        for place, (arm, look) in enumerate(looks.items()):
            rows = quality[quality.arm == arm].groupby("mode")[column]
            mean, std = rows.mean().reindex(MODES), rows.std().reindex(MODES).fillna(0.0)
            x = np.arange(len(MODES)) + step * (place - (len(looks) - 1) / 2)
            panel.errorbar(x, mean, std, capsize=3, **look)
        panel.plot([paper[mode] for mode in MODES], "--", color=GREY, label="paper (Table 1)")
        panel.set(xticks=range(len(MODES)), xticklabels=MODES, ylabel="PCK@0.2 of pseudo-heatmaps, %")
        panel.set_title(reading, fontsize=9.5)
    _shared_legend(figure)
    return _finish(figure, "y")


def draw_coverage(curves: pd.DataFrame, titles: Mapping[str, str], thresholds: Mapping[str, float]) -> Figure:
    """A panel an ensemble mode: precision of the kept joints over the share kept; rings are the arms' thresholds."""
    modes = list(dict.fromkeys(curves["mode"])) or ["none"]
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for panel, mode in zip(panels, modes, strict=True):
        for arm, look in arm_looks(curves, titles).items():
            rows = curves[(curves["mode"] == mode) & (curves.arm == arm)]
            line = rows.groupby("threshold")[["coverage", "precision"]].mean().dropna()
            panel.plot(line.coverage, line.precision, markersize=3.5, **look)
            at = line[np.isclose(line.index, thresholds[arm])]
            panel.plot(at.coverage, at.precision, "o", markersize=12, fillstyle="none", color=GREY)
        panel.set(xlabel="kept, %", ylabel="of these correct, %" if panel is panels[0] else "")
        panel.set_title("single view" if mode == "none" else f"{mode} of views", fontsize=10)
    _shared_legend(figure)
    return _finish(figure, "both")


def draw_training(logs: pd.DataFrame, titles: Mapping[str, str], columns: Mapping[str, str]) -> Figure:
    """A panel a column of the training logs (name: label), a line an arm: mean over seeds, band: min to max."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for panel, (column, label) in zip(panels, columns.items(), strict=True):
        for arm, look in arm_looks(logs, titles).items():
            steps = logs[logs.arm == arm].astype({column: float}).groupby("step")[column]
            mean, low, high = steps.mean(), steps.min(), steps.max()
            panel.plot(mean.index, mean, markersize=3.5, **look)
            panel.fill_between(mean.index, low, high, color=look["color"], alpha=0.15, linewidth=0)
        panel.set(xlabel="training step", ylabel=label)
        if panel.get_ylim()[1] > TALLEST:  # or a run that overshoots would flatten all others
            panel.set_ylim(0, TALLEST)
    _shared_legend(figure)
    return _finish(figure, "y")


def draw_selection(selection: pd.DataFrame, margin: float) -> Figure:
    """Over the margin Delta: how often each student keeps its own map, and the PCK of chosen and rejected."""
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    shares, accuracy = figure.subplots(1, 2)
    by_margin = selection.groupby("margin")
    _lines(shares, by_margin, {"own_0": "student 1 keeps its own", "own_1": "student 2 keeps its own"})
    _lines(accuracy, by_margin, {"pck_chosen": "the more certain map", "pck_rejected": "the other map",
                                 "pck_targets": "all targets, with selection", "pck_dual": "all, without"})
    shares.set(xlabel="margin Delta", ylabel="share of joints, %", ylim=(0, None))
    accuracy.set(xlabel="margin Delta", ylabel="PCK@0.2, %")
    for panel in (shares, accuracy):
        panel.axvline(margin, color=GREY, linestyle=":")
        _legend_below(panel)
    return _finish(figure, "y")


def draw_uncertainty(bins: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Share of wrong peaks over mean uncertainty, in bins of equally many joints; a line an arm."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    for arm, look in arm_looks(bins, titles).items():
        line = bins[bins.arm == arm].groupby("bin")[["uncertainty", "wrong"]].mean()
        axes.plot(line.uncertainty, line.wrong, **look)
    axes.set(xlabel="uncertainty u (largest standard deviation over views)", ylabel="wrong peaks, %", ylim=(0, 100))
    _shared_legend(figure)
    return _finish(figure, "y")


def draw_ablations(table: pd.DataFrame) -> Figure:
    """A row an arm, by group: its difference from its baseline, points of AP, with a 95 % interval."""
    heads = table[["group", "baseline"]].drop_duplicates()
    figure = Figure(figsize=(8.0, 1.1 + 0.36 * max(1, len(table) + len(heads))), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    ticks, labels, row = [], [], 0
    for (group, baseline), arms in table.groupby(["group", "baseline"], sort=False):
        ticks, labels, row = [*ticks, row], [*labels, f"{group}, against {baseline}:"], row + 1
        for arm in arms.itertuples():
            if pd.notna(arm.low):
                axes.plot([arm.low, arm.high], [row, row], color=BLUE, linewidth=2)
            axes.plot(arm.difference_mean, row, "o", color=BLUE, markersize=6)
            ticks, labels, row = [*ticks, row], [*labels, arm.title], row + 1
    axes.set_yticks(ticks, labels, fontsize=8.5)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().endswith(":") else "normal")
    axes.set(xlabel="difference of AP, points", ylim=(row - 0.4, -0.6))
    return _finish(figure, "x")


def draw_costs(costs: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """AP over the image passes of training, a numbered point an arm; the legend gives the titles."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots()
    looks = arm_looks(costs, titles)
    for number, arm in enumerate(costs.itertuples(), start=1):
        look = looks[arm.arm]
        axes.plot(arm.passes, arm.AP, markersize=7, linestyle="none", **look | {"label": f"{number} {look['label']}"})
    axes.set(xlabel="training of one run, million image passes (a backward pass counts two)", ylabel="AP, %")
    _shared_legend(figure)
    _number_points(axes, costs[["passes", "AP"]].to_numpy(float))
    return _finish(figure, "both")


def _number_points(axes: Axes, points: NDArray) -> None:
    """Writes 1, 2, ... beside `points` (N, 2), each at the nearest place that no point and no other number takes."""
    axes.figure.draw_without_rendering()  # lays the axes out, so that distances on paper are known
    points_on_paper = axes.transData.transform(points) * 72 / axes.figure.dpi
    taken = list(points_on_paper)
    angles = np.radians([45, -45, 135, -135, 0, 180, 90, -90])
    offsets = [radius * np.array([np.cos(angle), np.sin(angle)]) for radius in (9, 15, 21, 27, 33) for angle in angles]
    for number, point in enumerate(points_on_paper):
        others = np.array(taken[:number] + taken[number + 1:]).reshape(-1, 2)
        free = (offset for offset in offsets if np.hypot(*(others - point - offset).T).min(initial=np.inf) >= ROOM)
        offset = next(free, offsets[0])
        taken.append(point + offset)
        lead = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5} if np.hypot(*offset) > ROOM else None
        axes.annotate(str(number + 1), points[number], xytext=offset, textcoords="offset points", fontsize=8,
                      ha="center", va="center", arrowprops=lead)


def draw_label_counts(levels: pd.DataFrame, ceiling: float) -> Figure:
    """A line a curve: AP over the label count, mean and std over seeds; dashed: all labels, NaN where none had them."""
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.subplots()
    if not math.isnan(ceiling):
        axes.axhline(ceiling, linestyle="--", color=GREY, label="all labels")
    for place, (title, rows) in enumerate(levels.groupby("curve", sort=False)):
        axes.errorbar(rows.label_count, rows.AP_mean.astype(float), rows.AP_std.astype(float).fillna(0.0), capsize=3,
                      label=title, **_look(place))
    counts = sorted(levels.label_count.unique())
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="labelled photos (or persons, by the profile's unit)", ylabel="AP, %")
    _shared_legend(figure)
    return _finish(figure, "both")


def draw_phases(cells: pd.DataFrame) -> Figure:
    """A panel a claim: a field a cell with its difference in points; bold: the interval excludes zero.

    A tick or a cross says whether the prediction was on the right side; a dot, that there was none or it was even.
    """
    claims = list(dict.fromkeys(cells.claim))
    rows = len(cells.drop_duplicates(["label_count", "steps"]))
    figure = Figure(figsize=(max(4.0, 3.4 * len(claims)), 1.8 + 0.6 * rows), layout="constrained")
    panels = figure.subplots(1, max(1, len(claims)), squeeze=False)[0]
    for panel, claim in zip(panels, claims, strict=False):  # a grid without cells has one empty panel
        part = cells[cells.claim == claim]
        table = part.pivot(index=["label_count", "steps"], columns="value", values="difference_mean").astype(float)
        reach = max(float(table.abs().max().max()), 1e-9)
        panel.pcolormesh(table, cmap="PuOr", vmin=-1.5 * reach, vmax=1.5 * reach, edgecolor="white", linewidth=2)
        for cell in part.itertuples():
            x = table.columns.get_loc(cell.value) + 0.5
            y = table.index.get_loc((cell.label_count, cell.steps)) + 0.5
            panel.text(x, y, f"{cell.difference_mean:+.1f} {_right(cell)}", ha="center", va="center", fontsize=9,
                       fontweight="normal" if cell.state == "open" else "bold")
        panel.set_xticks(np.arange(len(table.columns)) + 0.5, [f"{value:g}" for value in table.columns])
        labels = [f"{count} labels, length {steps:g}" for count, steps in table.index]
        panel.set_yticks(np.arange(len(table)) + 0.5, labels, fontsize=8.5)
        panel.set_xlabel({"horizon": "EMA horizon, share of the run", "strength": "strength of the extra views"}[
            part.setting.iloc[0]])
        panel.set_title(claim.replace(" by ", "\nby "), fontsize=9)
        panel.tick_params(length=0)
    return figure


def _right(cell: NamedTuple) -> str:
    """Whether a cell's prediction was on the right side of one half."""
    if pd.isna(cell.prediction) or cell.prediction == 0.5:
        return "\u00b7"
    return "\u2713" if (cell.prediction > 0.5) == (cell.difference_mean > 0) else "\u2717"


def draw_reliability(bins: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Share of right joints over the height of their peaks, in bins of equally many; a line an arm."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 100], "--", color=GREY, label="confidence is the share that is right")
    for arm, look in arm_looks(bins, titles).items():
        line = bins[bins.arm == arm].groupby("bin")[["confidence", "correct"]].mean()
        axes.plot(line.confidence, line.correct, **look)
    axes.set(xlabel="confidence (height of the peak)", ylabel="right within 0.2 torsos, %", xlim=(0, 1), ylim=(0, 100))
    _shared_legend(figure)
    return _finish(figure, "both")


def draw_statistics(summary: Mapping[str, Mapping]) -> Figure:
    """Labels per joint, height of people and people per photo, from data/summary.json: train bars, val lines."""
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    joints, heights, photos = figure.subplots(1, 3, width_ratios=(1.5, 1, 0.8))
    counts = np.array(list(summary["train"]["visibility"].values()), float)
    shares, names = 100 * counts / counts.sum(1, keepdims=True), list(summary["train"]["visibility"])
    left = np.zeros(len(names))
    for value, label, color in ((2, "seen", BLUE), (1, "hidden", ORANGE), (0, "not labelled", "0.85")):
        joints.barh([name.replace("_", " ") for name in names], shares[:, value], left=left, label=label, color=color)
        left += shares[:, value]
    joints.invert_yaxis()
    joints.tick_params(axis="y", labelsize=8)
    joints.set(xlabel="share of people, %", xlim=(0, 100))
    _legend_below(joints)
    edges = [str(edge) for edge in summary["train"]["box_height_edges"][:-1]]
    _draw_shares(heights, summary, "box_height", edges, "height of a person from, px")
    most = max(len(summary[split]["persons_per_photo"]) for split in ("train", "val"))
    _draw_shares(photos, summary, "persons_per_photo", [str(count) for count in range(most)], "people per photo")
    _legend_below(heights)
    return _finish(figure, "x")


def _draw_shares(panel: Axes, summary: Mapping[str, Mapping], name: str, labels: Sequence[str], title: str) -> None:
    """Histograms of both splits, from their first to their last bin that is not empty."""
    counts = {split: np.array(summary[split][name] + [0] * (len(labels) - len(summary[split][name])), float)
              for split in ("train", "val")}
    used = np.flatnonzero(sum(counts.values()))
    bins = slice(used[0], used[-1] + 1)
    shares = {split: 100 * count[bins] / count.sum() for split, count in counts.items()}
    panel.bar(labels[bins], shares["train"], color=BLUE, label="train")
    panel.plot(labels[bins], shares["val"], color=ORANGE, marker="o", label="val")
    panel.set(xlabel=title, ylabel="share, %")
    panel.tick_params(axis="x", labelrotation=90 if len(shares["train"]) > 7 else 0)


def _lines(panel: Axes, groups: pd.core.groupby.DataFrameGroupBy, columns: Mapping[str, str]) -> None:
    for place, (column, label) in enumerate(columns.items()):
        mean = groups[column].mean()
        panel.plot(mean.index, mean, label=label, **_look(place))


def _once(label: str, axes: Axes) -> str:
    """The label at its first use, then none: a legend has one entry a kind."""
    return "" if label in axes.get_legend_handles_labels()[1] else label


def _shared_legend(figure: Figure, columns: int = 2) -> None:
    """One legend for all panels, below them; the figure grows by its height, so that panels keep theirs."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False)


def _legend_below(axes: Axes) -> None:
    """A panel's own legend under it, where no line can run through it."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8.5, frameon=False)


def _finish(figure: Figure, grid: str) -> Figure:
    for axes in figure.axes:
        axes.grid(True, axis=grid, color="0.9", zorder=0)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure

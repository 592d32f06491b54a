"""Pictures of people: crops with heatmaps or poses over them; arrays in, a matplotlib Figure out.

Images are uint8 RGB in the reference frame (the network's un-augmented input), points in its px unless cells are
named. Integer coordinates are pixel centres, so that an image of width W spans [-1/2, W - 1/2].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_pose.figures import BLUE, GREEN, ORANGE
from ssl_pose.skeleton import LIMBS, NUM_KEYPOINTS


def draw_heatmaps(images: np.ndarray, columns: Mapping[str, np.ndarray], true_keypoints: np.ndarray) -> Figure:
    """A row a person, a column a named stack of heatmaps (P, h, w) laid over the images (P, H, W, 3).

    The ring is the label, the cross the arg-max. `true_keypoints` (P, 2) are in heatmap cells.
    """
    rows, (height, width) = max(len(images), 1), images.shape[1:3]  # nobody with this joint: an empty row
    figure = Figure(figsize=(1.35 * (len(columns) + 1), 1.35 * rows * height / width + 0.4), layout="constrained")
    panels = figure.subplots(rows, len(columns) + 1, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for row in range(len(images)):
        _show(panels[row, 0], images[row], "image" if row == 0 else "")
        for panel, (name, stack) in zip(panels[row, 1:], columns.items(), strict=True):
            _show(panel, _dimmed(images[row]), name if row == 0 else "")
            _overlay(panel, np.asarray(stack[row], float), true_keypoints[row], (height, width))
    return figure


def draw_poses(crops: np.ndarray, true: np.ndarray, predicted: np.ndarray, visibility: np.ndarray,
               captions: Sequence[str], columns: int = 6) -> Figure:
    """Crops (E, H, W, 3) with predicted poses (coloured limbs) over labelled ones (white, dashed), in px."""
    columns = min(columns, len(crops))
    rows, (height, width) = -(-len(crops) // columns), crops.shape[1:3]
    figure = Figure(figsize=(1.4 * columns, (1.4 * height / width + 0.25) * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(crops):]:
        panel.set_axis_off()
    for place, panel in enumerate(panels[: len(crops)]):
        _show(panel, crops[place], captions[place])
        _skeleton(panel, true[place], visibility[place] > 0, ["white"] * len(LIMBS), "--")
        sides = [side_color(limb) for limb in LIMBS]
        _skeleton(panel, predicted[place], np.ones(NUM_KEYPOINTS, bool), sides, "-")
    return figure


def draw_samples(crops: np.ndarray, keypoints: np.ndarray, visibility: np.ndarray, columns: int = 6) -> Figure:
    """Crops (N, H, W, 3) with their labels (N, K, 2) in px: filled joints are seen, hollow ones hidden."""
    columns = min(columns, len(crops))
    rows, (height, width) = -(-len(crops) // columns), crops.shape[1:3]
    figure = Figure(figsize=(1.4 * columns, 1.4 * height / width * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(crops):]:
        panel.set_axis_off()
    for panel, crop, points, seen in zip(panels, crops, keypoints, visibility, strict=False):
        _show(panel, crop, "")
        _skeleton(panel, points, seen > 0, [side_color(limb) for limb in LIMBS], "-")
        for value, face in ((1, "none"), (2, "white")):
            panel.scatter(*points[seen == value].T, s=10, facecolor=face, edgecolor="white", linewidth=0.7, zorder=3)
    return figure


def draw_exploration(views: np.ndarray, crop: np.ndarray, students: Sequence[Mapping[str, np.ndarray]],
                     true_keypoint: np.ndarray, titles: Sequence[str]) -> Figure:
    """What two students make of one joint: a row of the views (V, H, W, 3), then a row a student.

    `students` hold named heatmaps (h, w) in the reference frame, drawn over the crop (H, W, 3), the first V of them
    under their views. `titles` stand beside the students' rows. The ring is the label, in cells, the cross the peak.
    """
    rows, columns, (height, width) = 1 + len(students), len(students[0]), crop.shape[:2]
    figure = Figure(figsize=(1.2 * columns + 0.4, 1.2 * rows * height / width + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.12})
    figure.subplots_adjust(left=0.06, right=0.99, top=0.93, bottom=0.01)  # a layout engine would take 0.2 s
    for panel in panels.flat:
        panel.set_axis_off()
    for number, (panel, view) in enumerate(zip(panels[0], views, strict=False)):
        _show(panel, view, "weak view" if number == 0 else f"view {number}")
    _show(panels[0, -1], crop, "crop")
    dark = _dimmed(crop)
    for row, (maps, title) in enumerate(zip(students, titles, strict=True), start=1):
        for panel, (name, heatmap) in zip(panels[row], maps.items(), strict=True):
            _show(panel, dark, name if row == 1 else "")
            _overlay(panel, heatmap, true_keypoint, (height, width))
        panels[row, 0].text(-0.12, 0.5, title, transform=panels[row, 0].transAxes, rotation=90, va="center",
                            ha="center", fontsize=7.5)
    return figure


def _show(panel: Axes, image: np.ndarray, title: str) -> None:
    height, width = image.shape[:2]
    panel.imshow(image, interpolation="nearest")
    panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    panel.set_title(title, fontsize=8.5)
    panel.set_axis_off()


def _dimmed(image: np.ndarray) -> np.ndarray:
    """Grey and dark, so that colour is the heatmap's alone."""
    return np.repeat((0.55 * image.mean(-1, keepdims=True)).astype(np.uint8), 3, -1)


def _overlay(panel: Axes, heatmap: np.ndarray, true_cell: np.ndarray, size: tuple[int, int]) -> None:
    """Heatmap cells cover the image's area exactly, so that both share one extent."""
    height, width = size
    strength = np.clip(heatmap / max(heatmap.max(), 1e-6), 0, 1)
    panel.imshow(heatmap, cmap="inferno", alpha=0.85 * strength, vmin=0, vmax=max(heatmap.max(), 1e-6),
                 extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")
    scale = np.array([width, height]) / heatmap.shape[::-1]
    peak = np.array(np.unravel_index(heatmap.argmax(), heatmap.shape)[::-1])
    for cell, style in ((true_cell, {"marker": "o", "fillstyle": "none"}), (peak, {"marker": "x"})):
        x, y = (np.asarray(cell, float) + 0.5) * scale - 0.5
        panel.plot(x, y, color="white", markersize=11, markeredgewidth=3.5, **style)
        panel.plot(x, y, color="black", markersize=11, markeredgewidth=1.5, **style)
    panel.text(0.03, 0.03, f"peak {heatmap.max():.2f}", transform=panel.transAxes, fontsize=7, color="white",
               bbox={"facecolor": "black", "alpha": 0.6, "pad": 1, "linewidth": 0})


def _skeleton(panel: Axes, points: np.ndarray, shown: np.ndarray, colors: Sequence, style: str) -> None:
    for (start, end), color in zip(LIMBS, colors, strict=True):
        if shown[start] and shown[end]:
            panel.plot(*points[[start, end]].T, style, color=color, linewidth=1.6, solid_capstyle="round")


def side_color(limb: tuple[int, int]) -> tuple[float, float, float]:
    """COCO's joints from 1 on alternate: left ones are odd, right ones even; across the body is neutral."""
    left = {joint % 2 == 1 for joint in limb if joint > 0}
    return {frozenset({True}): BLUE, frozenset({False}): ORANGE}.get(frozenset(left), GREEN)

"""Algorithm 1 of the paper as pure tensor functions; the numbers in brackets are its lines.

Shapes: V views (the weak one first, then the K of the paper), B images, K keypoints, heatmaps of (h, w) cells.
Everything here happens in the reference frame, the un-augmented network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from ssl_pose.config import MethodConfig
from ssl_pose.geometry import (
    flip_points,
    inside_mask,
    invert_affine,
    points_inside,
    transform_points,
    warp_heatmaps,
)
from ssl_pose.heatmap import argmax_keypoints, render_heatmaps

SMALLEST_PEAK = 1e-3  # what is divided by a peak is divided by at least this


@dataclass(frozen=True)
class PseudoLabel:
    """What one network says of B unlabelled images, in the reference frame."""

    heatmaps: Tensor  # (B, K, h, w) ensemble P
    keypoints: Tensor  # (B, K, 2) arg-max of P, cells
    confidence: Tensor  # (B, K) height of that peak
    weight: Tensor  # (B, K) 0 where the joint is dropped
    uncertainty: Tensor  # (B, K) u


@dataclass(frozen=True)
class Target:
    """A pseudo-label moved into the strong view: what a student is asked to predict there."""

    heatmaps: Tensor  # (B, K, h, w)
    keypoints: Tensor  # (B, K, 2) where its peaks have moved to, cells; also beyond the view
    weight: Tensor  # (B, K)
    mask: Tensor  # (B, 1, h, w) cells of which the target says something


def align_to_reference(heatmaps: Tensor, view_matrix: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """Heatmaps (V, B, K, h, w) of views, turned back to the reference frame, and where each is valid [8-9, 14-15].

    view_matrix (V, B, 3, 3) maps reference cells to view cells. Returns heatmaps and valid (V, B, 1, h, w).
    """
    num_views, batch, _, height, width = heatmaps.shape
    back = invert_affine(view_matrix.flatten(0, 1))
    size = (height, width)
    aligned = warp_heatmaps(heatmaps.flatten(0, 1), back, size, flip.flatten())
    valid = inside_mask(back, size, size)
    return aligned.unflatten(0, (num_views, batch)), valid.unflatten(0, (num_views, batch))


def ensemble_heatmaps(heatmaps: Tensor, valid: Tensor, ensemble: str) -> Tensor:
    """Pseudo-heatmaps (B, K, h, w) of aligned views (V, B, K, h, w) [17-18].

    `ensemble`: 'none' takes the weak view alone, 'average' the mean and 'maximum' the largest value over the
    views in which a cell is valid (V, B, 1, h, w); a cell that no view saw is 0.
    """
    if ensemble == "none":
        return heatmaps[0] * valid[0]
    if ensemble == "average":
        return (heatmaps * valid).sum(0) / valid.sum(0).clamp(min=1)
    if ensemble == "maximum":
        best = heatmaps.masked_fill(~valid, -torch.inf).amax(0)
        return torch.where(valid.any(0), best, 0.0)
    raise ValueError(f"unknown ensemble {ensemble!r}; allowed: none, average, maximum")


def estimate_uncertainty(heatmaps: Tensor, valid: Tensor) -> Tensor:
    """u (B, K): largest cell of the standard deviation over views [19-22].

    The population's standard deviation, over the views in which the cell is valid. Cells that fewer than two
    views saw say nothing of agreement and are left out; a joint without any other cell is +inf.
    """
    valid = valid.to(heatmaps.dtype)
    count = valid.sum(0)  # (B, 1, h, w)
    share = 1 / count.clamp(min=1)
    mean, variance = torch.zeros_like(heatmaps[0]), torch.zeros_like(heatmaps[0])
    for view, seen in zip(heatmaps, valid, strict=True):  # view by view: sums of all would not fit a CPU's cache
        mean.addcmul_(view, seen)
    mean *= share
    for view, seen in zip(heatmaps, valid, strict=True):
        variance.addcmul_((view - mean).square_(), seen)
    highest = (variance * share).masked_fill_(count < 2, -1.0).amax(dim=(2, 3))
    return torch.where(highest < 0, torch.inf, highest.clamp(min=0).sqrt())


def threshold_and_refine(
    heatmaps: Tensor, confidence_threshold: float, heatmap_sigma: float, below_threshold: str = "drop"
) -> tuple[Tensor, Tensor]:
    """Clean Gaussians (B, K, h, w) at the arg-max of each pseudo-heatmap, and the joints' weights (B, K).

    A joint whose peak is under the threshold, not positive or not finite becomes a map of zeros; its weight is
    0 with `below_threshold` 'drop' and 1 with 'zero' (a target that says background).
    """
    keypoints, confidence = argmax_keypoints(heatmaps)
    keep = (confidence >= confidence_threshold) & (confidence > 0) & confidence.isfinite()
    clean = render_heatmaps(keypoints, tuple(heatmaps.shape[-2:]), heatmap_sigma)
    return without_weak(clean, keep, below_threshold)


def denoise(
    heatmaps: Tensor, view_matrix: Tensor, flip: Tensor, method: MethodConfig, heatmap_sigma: float
) -> PseudoLabel:
    """One network's pseudo-label from its heatmaps of all views (V, B, K, h, w) [8-22, and threshold-and-refine].

    view_matrix (V, B, 3, 3) maps reference cells to view cells. Uncertainty is that of the raw maps. With the
    guard, a joint under the threshold is wholly uncertain: blank maps agree, which is no reason to trust them.
    """
    aligned, valid = align_to_reference(heatmaps, view_matrix, flip)
    if method.view_fill == "zero":
        valid = torch.ones_like(valid)
    combined = ensemble_heatmaps(aligned, valid, method.ensemble)
    keypoints, confidence = argmax_keypoints(combined)
    uncertainty = torch.full_like(confidence, torch.inf)
    if method.selection in ("cross", "literal") or method.label_weight == "certainty":  # else nobody asks
        uncertainty = estimate_uncertainty(aligned, valid)
    heatmaps, weight = shape_target(combined, method, heatmap_sigma)
    weight = weight * weigh_joints(confidence, uncertainty, method.label_weight)
    if method.uncertainty_guard:
        uncertainty = uncertainty.masked_fill(confidence < method.confidence_threshold, torch.inf)
    return PseudoLabel(heatmaps, keypoints, confidence, weight, uncertainty)


def shape_target(heatmaps: Tensor, method: MethodConfig, heatmap_sigma: float) -> tuple[Tensor, Tensor]:
    """What ensembles (B, K, h, w) become as targets, and the joints' weights (B, K), by `method.target`.

    'soft': as they are. 'rescaled': with peak 1 where the peak reaches the threshold, else as they are: noise
    without a peak, divided by it, would become the target. 'thresholded': as they are, without the joints under
    the threshold. 'refined': a clean Gaussian at every peak. 'threshold_and_refine': both, the paper's.
    """
    threshold = method.confidence_threshold if method.thresholds else 0.0
    if method.redraws:
        return threshold_and_refine(heatmaps, threshold, heatmap_sigma, method.below_threshold)
    peak = heatmaps.amax(dim=(2, 3))
    if method.target == "rescaled":
        divisor = torch.where(peak >= max(method.confidence_threshold, SMALLEST_PEAK), peak, 1.0)
        return heatmaps / divisor[..., None, None], torch.ones_like(peak)
    if method.target == "thresholded":
        return without_weak(heatmaps, peak >= threshold, method.below_threshold)
    return heatmaps, torch.ones_like(peak)


def weigh_joints(confidence: Tensor, uncertainty: Tensor, label_weight: str) -> Tensor:
    """Factors (B, K) in [0, 1] of the joints' weights; `uncertainty` (B, K) is that of the raw maps.

    'confidence': the height of the peak. 'certainty': 1 minus the uncertainty as a share of the peak.
    'equal', and 'agreement', which needs both students (`weigh_agreement`): 1.
    """
    if label_weight == "confidence":
        return confidence.clamp(0, 1)
    if label_weight == "certainty":
        return (1 - uncertainty / confidence.clamp(min=SMALLEST_PEAK)).clamp(0, 1)
    return torch.ones_like(confidence)


def weigh_agreement(labels: Sequence[PseudoLabel], heatmap_sigma: float) -> list[PseudoLabel]:
    """The pseudo-labels of two students, a joint counting less the further apart they see it.

    The factor is a Gaussian of the distance between both peaks, of width 2 sigma: position disagreement, as
    SSPCM (Huang et al. 2023) uses it to sort out joints.
    """
    first, second = labels
    distance = (first.keypoints - second.keypoints).norm(dim=-1)  # (B, K) cells
    factor = torch.exp(-0.5 * (distance / (2 * heatmap_sigma)).square())
    return [replace(label, weight=label.weight * factor) for label in labels]


def pair_closest(
    first: Sequence[PseudoLabel], second: Sequence[PseudoLabel], method: MethodConfig
) -> PseudoLabel:
    """One pseudo-label of both sides' candidates: per joint the mean of the two whose peaks lie closest.

    `first` and `second` are what a student and its EMA copy say, of one side each: SSPCM's current and last
    networks. The mean peak is the new keypoint; it is thresholded where the method thresholds.
    """
    pairs = [average_labels(one, other) for one in first for other in second]
    gaps = torch.stack([(one.keypoints - other.keypoints).norm(dim=-1) for one in first for other in second])
    best = gaps.argmin(0)  # (B, K)
    chosen = pairs[0]
    for number, pair in enumerate(pairs[1:], start=1):
        chosen = choose(best == number, pair, chosen)
    if not method.thresholds:
        return chosen
    maps, weight = without_weak(
        chosen.heatmaps, chosen.confidence >= method.confidence_threshold, method.below_threshold
    )
    return replace(chosen, heatmaps=maps, weight=weight * chosen.weight)


def average_labels(first: PseudoLabel, second: PseudoLabel) -> PseudoLabel:
    """The mean of two pseudo-labels, field by field."""
    return PseudoLabel(*(torch.lerp(getattr(first, f.name), getattr(second, f.name), 0.5) for f in fields(first)))


def without_weak(heatmaps: Tensor, keep: Tensor, below_threshold: str) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, h, w), zero where `keep` (B, K) is false, and weights: there 0 ('drop') or 1 ('zero')."""
    weight = torch.ones_like(keep, dtype=heatmaps.dtype) if below_threshold == "zero" else keep.to(heatmaps)
    return torch.where(keep[..., None, None], heatmaps, 0.0), weight


def select_targets(own: PseudoLabel, other: PseudoLabel, selection: str, margin: float) -> PseudoLabel:
    """The pseudo-label from which the student that made `own` learns, joint by joint [23-24].

    'cross': its own only where it is more certain by the margin Delta, else the other's. 'literal', as the
    lines are printed: the other's only where that one is more certain, else its own. 'off': the other's; 'own':
    its own, as two networks that train themselves.
    """
    if selection in ("off", "own"):
        return other if selection == "off" else own
    if selection == "cross":
        take_own = own.uncertainty + margin < other.uncertainty
    elif selection == "literal":
        take_own = ~(other.uncertainty + margin < own.uncertainty)
    else:
        raise ValueError(f"unknown selection {selection!r}; allowed: off, cross, literal, own")
    return choose(take_own, own, other)


def choose(condition: Tensor, first: PseudoLabel, second: PseudoLabel) -> PseudoLabel:
    """`first` where `condition` (B, K) is true, else `second`."""
    return PseudoLabel(*(_where(condition, getattr(first, f.name), getattr(second, f.name)) for f in fields(first)))


def _where(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """torch.where with a (B, K) condition over tensors (B, K, ...)."""
    return torch.where(condition.reshape(condition.shape + (1,) * (first.dim() - 2)), first, second)


def move_to_view(
    label: PseudoLabel, matrix: Tensor, flip: Tensor, method: MethodConfig, heatmap_sigma: float
) -> Target:
    """The target in a view whose matrix (B, 3, 3) maps reference cells to its own [25-26, Transform]."""
    if method.redraws:
        return move_refined(label, matrix, flip, heatmap_sigma)
    return move_soft(label, matrix, flip)


def move_refined(label: PseudoLabel, matrix: Tensor, flip: Tensor, heatmap_sigma: float) -> Target:
    """The refined target in the strong view [25-26]: redrawn at the moved peak, so that sigma stays constant.

    matrix (B, 3, 3) maps reference cells to strong cells. A peak that leaves the view drops its joint; a joint
    that `threshold_and_refine` turned to zero stays zero.
    """
    size = tuple(label.heatmaps.shape[-2:])
    moved = flip_points(transform_points(matrix, label.keypoints), flip)
    weight = flip_points(label.weight, flip) * points_inside(moved, size)
    alive = flip_points(label.heatmaps.amax(dim=(2, 3)) > 0, flip)
    heatmaps = render_heatmaps(moved, size, heatmap_sigma) * alive[..., None, None]
    return Target(heatmaps, moved, weight, torch.ones_like(heatmaps[:, :1]))


def move_soft(label: PseudoLabel, matrix: Tensor, flip: Tensor) -> Target:
    """The soft target in the strong view [25-26]: one warp, and a mask of the cells that it has an opinion on."""
    size = tuple(label.heatmaps.shape[-2:])
    heatmaps = warp_heatmaps(label.heatmaps, matrix, size, flip)
    mask = inside_mask(matrix, size, size).to(heatmaps)
    moved = flip_points(transform_points(matrix, label.keypoints), flip)
    return Target(heatmaps, moved, flip_points(label.weight, flip), mask)


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher = decay * teacher + (1 - decay) * student, floating buffers too; integer buffers are copied."""
    targets, sources = teacher.state_dict(), student.state_dict()
    floating = [name for name, value in targets.items() if value.is_floating_point()]
    torch._foreach_lerp_([targets[n] for n in floating], [sources[n] for n in floating], 1 - decay)
    for name in targets.keys() - set(floating):
        targets[name].copy_(sources[name])

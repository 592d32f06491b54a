"""The semi-supervised frameworks, one short step each; they read like the paper's algorithm box.

A step takes the students (a list: with two, each is the other's teacher), their teachers (none, or one a
student), a labelled and an unlabelled batch, and the arm's method; it returns scalar tensors, of which `loss` is
to be minimised.
To add a framework, write its step here, name it in STEPS, and say in FRAMEWORKS of config.py how many students it has
and whose heatmaps may be its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssl_pose.batches import LabeledBatch, StrongView, UnlabeledBatch
from ssl_pose.config import MethodConfig
from ssl_pose.heatmap import heatmap_to_image_points
from ssl_pose.losses import heatmap_loss
from ssl_pose.model import predict_heatmaps
from ssl_pose.pseudo_label import (
    PseudoLabel,
    Target,
    denoise,
    move_to_view,
    pair_closest,
    select_targets,
    weigh_agreement,
)
from ssl_pose.strong_paths import STRONG_PATHS

Losses = dict[str, Tensor]
UNTHRESHOLDED = {"thresholded": "soft", "threshold_and_refine": "refined"}  # the same targets of every joint


@dataclass(frozen=True)
class Setting:
    """What a step needs beside networks and data."""

    method: MethodConfig
    heatmap_sigma: float
    heatmap_stride: int
    heatmap_alignment: str
    precision: str


def supervised(students: list[nn.Module], teachers: list[nn.Module], labeled: LabeledBatch, unlabeled: None,
               setting: Setting) -> Losses:
    """Every student learns from the labelled batch alone."""
    losses, peaks = [], []
    for student in students:
        predicted = predict_heatmaps(student, labeled.images, setting.precision)
        losses.append(heatmap_loss(predicted, labeled.heatmaps, labeled.weight))
        peaks.append(predicted.detach().amax(dim=(2, 3)).mean())
    total = torch.stack(losses).sum()
    return {"loss": total, "supervised_loss": total.detach(), "peak": torch.stack(peaks).mean()}


def consistency(students: list[nn.Module], teachers: list[nn.Module], labeled: LabeledBatch,
                unlabeled: UnlabeledBatch, setting: Setting) -> Losses:
    """One student learns its own easy-view pseudo-heatmaps on the hard view (Xie et al. 2021, Cons)."""
    (student,) = students
    label = make_pseudo_label(student, unlabeled, setting)
    return add_up([learn(student, labeled, unlabeled, label, setting)], [label], setting)


def teacher_student(students: list[nn.Module], teachers: list[nn.Module], labeled: LabeledBatch,
                    unlabeled: UnlabeledBatch, setting: Setting) -> Losses:
    """The student learns from a teacher: its EMA copy (Unbiased Teacher, adapted), or a network trained before
    on labels alone (PseudoPose; with an average over views, DataDistill)."""
    (student,), (teacher,) = students, teachers
    label = make_pseudo_label(teacher, unlabeled, setting)
    return add_up([learn(student, labeled, unlabeled, label, setting)], [label], setting)


def dual_student(students: list[nn.Module], teachers: list[nn.Module], labeled: LabeledBatch,
                 unlabeled: UnlabeledBatch, setting: Setting) -> Losses:
    """Each student learns from the other (or its EMA copy), or per joint from the more certain (Algorithm 1)."""
    method = setting.method
    if method.pairing == "closest":  # a mean of two is thresholded, neither of the two
        setting = replace(setting, method=replace(method, target=UNTHRESHOLDED.get(method.target, method.target)))
    sources = teachers if method.label_source == "ema" else students
    labels = [make_pseudo_label(source, unlabeled, setting) for source in sources]
    if method.pairing == "closest":
        copies = [make_pseudo_label(teacher, unlabeled, setting) for teacher in teachers]
        targets = 2 * [pair_closest(*zip(labels, copies, strict=True), method)]
    else:
        judged = weigh_agreement(labels, setting.heatmap_sigma) if method.label_weight == "agreement" else labels
        pairs = zip(judged, reversed(judged), strict=True)
        targets = [select_targets(*pair, method.selection, method.uncertainty_margin) for pair in pairs]
    losses = [learn(student, labeled, unlabeled, target, setting)
              for student, target in zip(students, targets, strict=True)]
    near = (labels[0].keypoints - labels[1].keypoints).norm(dim=-1) <= 2 * setting.heatmap_sigma
    return add_up(losses, labels, setting) | {"agreement": near.float().mean()}


@torch.no_grad()
def make_pseudo_label(network: nn.Module, unlabeled: UnlabeledBatch, setting: Setting) -> PseudoLabel:
    """What `network` says of the batch: one pass over weak and K views together, then denoised [4-22]."""
    with pseudo_label_mode(network, setting.method.pseudo_label_batch_norm):
        heatmaps = predict_heatmaps(network, unlabeled.view_images, setting.precision)
    heatmaps = heatmaps.unflatten(0, unlabeled.view_flip.shape)  # (V, B, K, h, w)
    return denoise(heatmaps, unlabeled.view_matrix, unlabeled.view_flip, setting.method, setting.heatmap_sigma)


def learn(student: nn.Module, labeled: LabeledBatch, unlabeled: UnlabeledBatch, label: PseudoLabel,
          setting: Setting) -> tuple[Tensor, Tensor]:
    """The two losses of one student [25-26], from one pass over labelled and strong views together.

    With several strong views each has a loss of its own, and the second loss is their mean.
    """
    moved = [move_to_view(label, view.matrix, view.flip, setting.method, setting.heatmap_sigma)
             for view in unlabeled.strong]
    hard = [harden(view, target, setting) for view, target in zip(unlabeled.strong, moved, strict=True)]
    predicted = predict_heatmaps(student, torch.cat([labeled.images, *hard]), setting.precision)
    on_labeled, *on_strong = predicted.split([len(images) for images in (labeled.images, *hard)])
    losses = [heatmap_loss(seen, target.heatmaps, target.weight, target.mask)
              for seen, target in zip(on_strong, moved, strict=True)]
    return heatmap_loss(on_labeled, labeled.heatmaps, labeled.weight), torch.stack(losses).mean()


def harden(view: StrongView, target: Target, setting: Setting) -> Tensor:
    """The images (B, 3, H, W) of a strong view after what its path does to them at the target's joints."""
    joints = heatmap_to_image_points(target.keypoints, setting.heatmap_stride, setting.heatmap_alignment)
    return STRONG_PATHS[view.path](view.images, joints, view.draws)


def add_up(losses: list[tuple[Tensor, Tensor]], labels: list[PseudoLabel], setting: Setting) -> Losses:
    """The sum over students, and what the log says of their pseudo-labels."""
    supervised_loss, consistency_loss = (torch.stack(parts).sum() for parts in zip(*losses, strict=True))
    confidence = torch.stack([label.confidence for label in labels])
    return {
        "loss": supervised_loss + setting.method.consistency_weight * consistency_loss,
        "supervised_loss": supervised_loss.detach(),
        "consistency_loss": consistency_loss.detach(),
        "kept": (confidence >= setting.method.confidence_threshold).float().mean(),
        "peak": confidence.mean(),
    }


@contextmanager
def pseudo_label_mode(network: nn.Module, batch_norm: str) -> Iterator[None]:
    """`network` as it predicts pseudo-labels: with running statistics ('eval') or, as the peers do, with the
    batch's ('batch'), which then do not enter the running ones. Restores the mode it came with."""
    was_training = network.training
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    network.eval()
    if batch_norm == "batch":
        for norm in norms:
            norm.train()
            norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, track in zip(norms, tracked, strict=True):
            norm.track_running_stats = track
        network.train(was_training)


STEPS: dict[str, Callable[..., Losses]] = {  # by the names of config.FRAMEWORKS
    "supervised": supervised,
    "consistency": consistency,
    "teacher_student": teacher_student,
    "dual_student": dual_student,
}

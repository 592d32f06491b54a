"""To look into pseudo-labels by hand: one person, one joint, both students, at chosen moments of training.

A snapshot is a short run, and needs no hook in training: with a constant learning rate a run of n steps is the
beginning of every longer one, since step n draws its data from streams named by n. This does not hold for arms whose
labels come from EMA copies. These follow their students with a horizon that is a share of the run, so that the copies
of a short run follow more closely, and its students learn other labels than those of a longer run at that step.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.figure import Figure
from torch import Tensor, nn

from ssl_pose.augment import Views, render_views, restore_colors, sample_views
from ssl_pose.batches import Pool, open_pool
from ssl_pose.config import ArmConfig, Config
from ssl_pose.crops import CropSet
from ssl_pose.evaluation import reference_images
from ssl_pose.heatmap import argmax_keypoints, image_to_heatmap_points
from ssl_pose.model import load_networks
from ssl_pose.pictures import draw_exploration, draw_heatmaps, draw_poses
from ssl_pose.pseudo_label import (
    PseudoLabel,
    ensemble_heatmaps,
    estimate_uncertainty,
    select_targets,
    threshold_and_refine,
)
from ssl_pose.pseudo_quality import view_heatmaps
from ssl_pose.scoring import HEADLINE_THRESHOLD, reference_lengths
from ssl_pose.seeding import make_generator
from ssl_pose.training import train_run
from ssl_pose.workspace import Workspace

MOST_VIEWS = 4  # of the multi-view family; fewer are the first of them
DPI = 80
CONSTANT_RATE = {"training.schedule": "cosine", "training.final_learning_rate": 1.0}  # overrides


@dataclass(frozen=True)
class Exploration:
    """A run's students after several numbers of steps, and the persons of the pool that they are asked about."""

    config: Config
    crops: CropSet
    pool: Pool
    rows: np.ndarray  # (P,) of the crops
    views: list[Views]  # weak first, of all P persons
    networks: dict[int, list[nn.Module]]  # steps: both students


@dataclass(frozen=True)
class Answer:
    """What both students say of one joint of one person, and what each would learn."""

    heatmaps: Tensor  # (2, V, h, w) in the reference frame
    ensemble: Tensor  # (2, h, w)
    refined: Tensor  # (2, h, w); zero where the threshold drops the joint
    uncertainty: tuple[float, float]
    peak: tuple[float, float]
    source: tuple[int, int]  # the student from whose map each learns


def train_snapshots(
    here: Workspace, arm: str, seed: int, crops: CropSet, labeled: np.ndarray, steps: Sequence[int]
) -> dict[int, list[nn.Module]]:
    """Both students of `arm` after each of `steps`; 0 is the burn-in, which must be there. Done ones are kept."""
    networks = {}
    for number in steps:
        path = here.burn_in(seed)
        if number:
            path = here.model(arm, seed).with_name(f"after-{number}.safetensors")
            if not path.exists():
                arms = here.config.arms | {arm: replace(here.config.arm(arm), relative_steps=1.0)}
                config = replace(here.config, training=replace(here.config.training, steps=number, epochs=0), arms=arms)
                train_run(config, arm, seed, crops, labeled, here.burn_in(seed), path,
                          path.parent / f"after-{number}", here.state(arm, f"after-{number}"))
        networks[number] = load_networks(path, here.config.model)
    return networks


def open_exploration(
    config: Config, crops: CropSet, rows: np.ndarray, networks: dict[int, list[nn.Module]], seed: int
) -> Exploration:
    """Draws one weak view and MOST_VIEWS more of each person at `rows` (P,)."""
    families = [("weak", config.views.weak), *((f"view{k}", config.views.multi) for k in range(MOST_VIEWS))]
    views = [sample_views(family, len(rows), config.data.input_size, make_generator(seed, "exploring", name))
             for name, family in families]
    return Exploration(config, crops, open_pool(crops, torch.device("cpu")), rows, views, networks)


@torch.no_grad()
def predict_persons(explored: Exploration, trained: int, persons: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Heatmaps (2, V, P, K, h, w) of all views in the reference frame, and validity (V, P, 1, h, w)."""
    if len(explored.networks[trained]) != 2:
        raise ValueError(f"exploring needs two students, the run has {len(explored.networks[trained])}; name an arm "
                         "of framework dual_student")
    views = [view.rows(torch.tensor(persons)) for view in explored.views]
    arm, rows = next(iter(explored.config.arms.values())), torch.from_numpy(explored.rows[persons])
    parts = [view_heatmaps(network, explored.pool, rows, views, explored.config, arm)
             for network in explored.networks[trained]]
    return torch.stack([maps for maps, _ in parts]), parts[0][1]


def ask(explored: Exploration, trained: int, person: int, joint: int, method: ArmConfig) -> Answer:
    """What the students after `trained` steps say, by the options of `method`: num_views, ensemble, tau, Delta."""
    heatmaps, valid = predict_persons(explored, trained, [person])
    heatmaps, valid = heatmaps[:, : 1 + method.num_views, :, [joint]], valid[: 1 + method.num_views]  # K is 1
    labels = [_judge(maps, valid, method, explored.config.model.heatmap_sigma) for maps in heatmaps]
    sources = [_source(own, other, method) for own, other in zip(labels, reversed(labels), strict=True)]
    return Answer(
        heatmaps=heatmaps[:, :, 0, 0], refined=torch.stack([label.heatmaps[0, 0] for label in labels]),
        ensemble=torch.stack([ensemble_heatmaps(maps, valid, method.ensemble)[0, 0] for maps in heatmaps]),
        uncertainty=tuple(float(label.uncertainty) for label in labels),
        peak=tuple(float(label.confidence) for label in labels),
        source=(0 if sources[0] else 1, 1 if sources[1] else 0),
    )


def _judge(heatmaps: Tensor, valid: Tensor, method: ArmConfig, sigma: float) -> PseudoLabel:
    """The pseudo-label of one student from its aligned views (V, B, K, h, w) [17-22]."""
    combined = ensemble_heatmaps(heatmaps, valid, method.ensemble)
    keypoints, confidence = argmax_keypoints(combined)
    uncertainty = estimate_uncertainty(heatmaps, valid)
    if method.uncertainty_guard:
        uncertainty = uncertainty.masked_fill(confidence < method.confidence_threshold, torch.inf)
    refined, weight = threshold_and_refine(combined, method.confidence_threshold, sigma)
    return PseudoLabel(refined, keypoints, confidence, weight, uncertainty)


def _source(own: PseudoLabel, other: PseudoLabel, method: ArmConfig) -> bool:
    """Whether the student that made `own` learns from its own map [23-24]."""
    mark = replace(own, weight=torch.ones_like(own.weight)), replace(other, weight=torch.zeros_like(other.weight))
    return bool(select_targets(*mark, method.selection, method.uncertainty_margin).weight > 0)


def draw_answer(explored: Exploration, trained: int, person: int, joint: int, method: ArmConfig) -> Figure:
    """Views, both students' heatmaps, their ensemble, its deviation over the views, and the refined target."""
    answer = ask(explored, trained, person, joint, method)
    deviation = answer.heatmaps.std(1, correction=0)
    students, titles = [], []
    for number, maps in enumerate(answer.heatmaps):
        named = {"weak" if view == 0 else f"view {view}": heatmap for view, heatmap in enumerate(maps)}
        named |= {method.ensemble: answer.ensemble[number], "deviation": deviation[number],
                  "target": answer.refined[number]}
        students.append({name: heatmap.numpy() for name, heatmap in named.items()})
        titles.append(f"student {number + 1}: u {answer.uncertainty[number]:.3f}\n"
                      f"learns from {'itself' if answer.source[number] == number else 'the other'}")
    row = torch.from_numpy(explored.rows[[person]])
    crop = _pixels(reference_images(explored.pool, row, explored.config))[0]
    return draw_exploration(view_pixels(explored, person)[: 1 + method.num_views], crop, students,
                            true_cell(explored, person, joint), titles)


def draw_progress(explored: Exploration, person: int, joint: int, method: ArmConfig) -> Figure:
    """The first student's pseudo-heatmap of one joint at every moment of training, side by side."""
    crop = _pixels(reference_images(explored.pool, torch.from_numpy(explored.rows[[person]]), explored.config))
    maps = {f"{trained} steps": ask(explored, trained, person, joint, method).ensemble[:1].numpy()
            for trained in explored.networks}
    return draw_heatmaps(crop, maps, true_cell(explored, person, joint)[None])


def progress_table(explored: Exploration, method: ArmConfig) -> pd.DataFrame:
    """A row a moment, over all persons, joints and both students: share kept, mean peak, share of kept that is right.

    Right: within HEADLINE_THRESHOLD of the person's reference length from the hidden label.
    """
    rules, model = explored.config.evaluation, explored.config.model
    length = torch.from_numpy(reference_lengths(explored.crops, rules.pck_reference)[explored.rows])
    true = image_to_heatmap_points(explored.pool.keypoints[explored.rows], model.heatmap_stride,
                                   model.heatmap_alignment)
    rows = {}
    for trained in explored.networks:
        heatmaps, valid = predict_persons(explored, trained, range(len(explored.rows)))
        labels = [_judge(maps[: 1 + method.num_views], valid[: 1 + method.num_views], method, model.heatmap_sigma)
                  for maps in heatmaps]
        kept = torch.stack([label.weight > 0 for label in labels])
        error = torch.stack([(label.keypoints - true).norm(dim=-1) for label in labels]) * model.heatmap_stride
        right = error <= HEADLINE_THRESHOLD * length[:, None]
        peak = torch.stack([label.confidence for label in labels])
        rows[trained] = {"kept": float(kept.float().mean()), "mean peak": float(peak.mean()),
                         "kept and right": float(right[kept].float().mean())}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("steps")


def view_pixels(explored: Exploration, person: int) -> np.ndarray:
    """The views (V, H, W, 3) of one person as uint8, as the networks see them but for the normalisation."""
    index, pool = torch.tensor([person]), explored.pool
    canvas = pool.gather(torch.from_numpy(explored.rows[[person]]))
    return _pixels(torch.cat([render_views(canvas, view.rows(index), pool.to_reference, explored.config.data.input_size,
                                           pool.mean_color) for view in explored.views]))


def _pixels(images: Tensor) -> np.ndarray:
    """Normalised images (B, 3, H, W) as uint8 (B, H, W, 3)."""
    return (restore_colors(images).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def true_cell(explored: Exploration, person: int, joint: int) -> np.ndarray:
    """The hidden label (2,) in heatmap cells."""
    pool, model = explored.pool, explored.config.model
    point = pool.keypoints[explored.rows[person], joint]
    return image_to_heatmap_points(point, model.heatmap_stride, model.heatmap_alignment).numpy()


def as_image(figure: Figure, alt: str = "") -> Image:
    """The figure as a picture in a notebook, small enough to be redrawn while a slider moves."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image(buffer.getvalue(), alt=alt)


def show_answer(
    explored: Exploration, arm: str, person: int, joint: int, num_views: int, ensemble: str, tau: float, delta: float,
    selection: str, trained: int,
) -> Any:
    """What a widget shows for its values; without more views the ensemble is the weak view."""
    method = replace(explored.config.arm(arm), num_views=num_views, ensemble=ensemble if num_views else "none",
                     confidence_threshold=tau, uncertainty_margin=delta, selection=selection)
    figure = draw_answer(explored, trained, person, joint, method)
    return as_image(figure, f"Joint {joint} of person {person} after {trained} steps: heatmaps of two students")


def show_pose(examples: dict[str, np.ndarray], place: int) -> Image:
    """The pose of one stored person; places count from the best OKS to the worst."""
    one = {name: examples[name][[place]] for name in ("crops", "true_keypoints", "predicted_keypoints", "visibility")}
    return as_image(draw_poses(*one.values(), [f"OKS {examples['oks'][place]:.2f}"]),
                    f"Predicted and labelled pose, OKS {examples['oks'][place]:.2f}")

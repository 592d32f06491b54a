"""One step's batches: which crops, seen through which views, as tensors on the device.

Every draw comes from a stream named by (seed, role, step). So step n of a run needs no history (a resumed run
draws what an uninterrupted one would have), and all arms of a seed see the same crops and the same weak and
strong views. Processes that share a run draw the whole batch and render their own rows of it. A step also says which
crops the next one will gather, so that those too many for the memory are read meanwhile (read_ahead.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ssl_pose.augment import Views, identity_views, join_views, render_views, sample_views
from ssl_pose.config import Config, MethodConfig, ViewConfig
from ssl_pose.crops import CropSet, canvas_to_reference
from ssl_pose.geometry import flip_points, points_inside, to_heatmap_matrix, transform_points
from ssl_pose.heatmap import image_to_heatmap_points, render_heatmaps
from ssl_pose.model import heatmap_size
from ssl_pose.read_ahead import ReadAhead, Resident, open_rows
from ssl_pose.seeding import make_generator
from ssl_pose.strong_paths import Draws, sample_draws


@dataclass(frozen=True)
class LabeledBatch:
    images: Tensor  # (B, 3, H, W)
    heatmaps: Tensor  # (B, K, h, w)
    weight: Tensor  # (B, K)


@dataclass(frozen=True)
class StrongView:
    """One strong view of each of B crops, before the operation that its path names."""

    path: str  # a name in STRONG_PATHS
    images: Tensor  # (B, 3, H, W)
    matrix: Tensor  # (B, 3, 3) reference cells -> view cells
    flip: Tensor  # (B,)
    draws: Draws  # the random numbers of the operation


@dataclass(frozen=True)
class UnlabeledBatch:
    """Images of the V label views (weak first) and the strong views; matrices map reference to view cells."""

    view_images: Tensor  # (V * B, 3, H, W)
    view_matrix: Tensor  # (V, B, 3, 3)
    view_flip: Tensor  # (V, B)
    strong: tuple[StrongView, ...]  # one a path


@dataclass(frozen=True)
class Pool:
    """The packed crops as the training step needs them."""

    pixels: Resident | ReadAhead  # uint8 canvases (N, Hc, Wc, 3)
    keypoints: Tensor  # (N, K, 2) reference px
    visibility: Tensor  # (N, K)
    to_reference: Tensor  # (3, 3) canvas px -> reference px
    mean_color: Tensor  # (3,)
    device: torch.device
    rank: int = 0  # of the process, among those that share each batch
    num_processes: int = 1

    def gather(self, index: Tensor) -> Tensor:
        """The canvases (B, 3, Hc, Wc), uint8, of the crops at `index` (B,), on the device."""
        return self.pixels.gather(index).permute(0, 3, 1, 2)

    def own_rows(self, batch: int) -> slice:
        """The rows of a joined batch of `batch` that this process sees."""
        share = batch // self.num_processes
        return slice(self.rank * share, (self.rank + 1) * share)


def open_pool(
    crops: CropSet, device: torch.device, crops_on_device: str = "auto", rank: int = 0, num_processes: int = 1
) -> Pool:
    """`crops` made ready on `device`; pixels that lie there (`training.crops_on_device`) are at hand, others are read
    ahead of their step."""
    to_reference = canvas_to_reference(crops.canvas_size, crops.input_size)
    keypoints = torch.as_tensor(np.asarray(crops.keypoints), dtype=torch.float32)
    return Pool(
        pixels=open_rows(crops.crops, device, crops_on_device),
        keypoints=transform_points(to_reference.expand(len(keypoints), 3, 3), keypoints).to(device),
        visibility=torch.as_tensor(np.asarray(crops.visibility)).to(device),
        to_reference=to_reference.to(device),
        mean_color=torch.as_tensor(np.asarray(crops.mean_color), dtype=torch.float32).to(device),
        device=device,
        rank=rank,
        num_processes=num_processes,
    )


def draw_labeled(
    pool: Pool, labeled: Tensor, config: Config, seed: int, phase: str, step: int, views: str = "labeled"
) -> LabeledBatch:
    """A batch of the rows in `labeled` (N,), on the CPU, drawn with replacement, with their true heatmaps.

    `views` names the family of views in which they are seen: 'labeled', 'strong', or 'both', first all in the one and
    then all in the other, so that the loss is the mean of both.
    """
    batch = config.training.labeled_batch
    own = pool.own_rows(batch)
    positions, generator = _labeled_positions(len(labeled), batch, seed, phase, step)
    following, _ = _labeled_positions(len(labeled), batch, seed, phase, step + 1)
    index = labeled[positions[own]]
    canvases = pool.gather(index)
    pool.pixels.expect(labeled[following[own]])
    if pool.device.type != "cpu":
        generator = make_generator(seed, phase, "labeled", step, device=pool.device)
    families = ("labeled", "strong") if views == "both" else (views,)
    seen = join_views([sample_views(getattr(config.views, family), batch, config.data.input_size, generator).rows(own)
                       for family in families])
    index = torch.cat([index] * len(families)).to(pool.device, non_blocking=True)
    heatmaps, weight = _true_heatmaps(pool, index, seen, config)
    return LabeledBatch(render_crops(pool, canvases, seen, config), heatmaps, weight)


def _true_heatmaps(pool: Pool, index: Tensor, seen: Views, config: Config) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, h, w) and weights (B, K) of the crops at `index` (B,) in the views `seen`."""
    size, stride = config.data.input_size, config.model.heatmap_stride
    points = flip_points(transform_points(seen.matrix, pool.keypoints[index]), seen.flip)
    weight = flip_points((pool.visibility[index] > 0).float(), seen.flip) * points_inside(points, size)
    cells = image_to_heatmap_points(points, stride, config.model.heatmap_alignment)
    return render_heatmaps(cells, heatmap_size(size, stride), config.model.heatmap_sigma), weight


def _labeled_positions(length: int, batch: int, seed: int, phase: str, step: int) -> tuple[Tensor, torch.Generator]:
    """Positions (batch,) among `length` labelled rows, and the CPU's stream, which goes on with the views."""
    generator = make_generator(seed, phase, "labeled", step)
    return torch.randint(length, (batch,), generator=generator), generator


def draw_unlabeled(
    pool: Pool, rows: Tensor, method: MethodConfig, config: Config, seed: int, step: int
) -> UnlabeledBatch:
    """The batch of `step`: passes over `rows` (N,), on the CPU, each in a new order, seen weakly, K times, strongly.

    Arms with fewer views, or fewer strong paths, see the first ones of those with more.
    """
    batch = config.training.unlabeled_batch
    own = pool.own_rows(batch)
    canvases = pool.gather(rows[pool_positions(step, batch, len(rows), seed)[own]])
    pool.pixels.expect(rows[pool_positions(step + 1, batch, len(rows), seed)[own]])
    weak = identity_views(len(canvases), pool.device)
    if method.weak_view == "augmented":
        weak = _sample("weak", config.views.weak, pool, config, seed, step)
    views = [weak, *(_sample(f"view{k}", config.views.multi, pool, config, seed, step)
                     for k in range(method.num_views))]
    count, views = len(views), join_views(views)
    return UnlabeledBatch(
        view_images=render_crops(pool, canvases, views, config),
        view_matrix=_cells(views, config).unflatten(0, (count, -1)),
        view_flip=views.flip.unflatten(0, (count, -1)),
        strong=tuple(_draw_strong(path, number, pool, canvases, config, seed, step)
                     for number, path in enumerate(method.strong_paths)),
    )


def _draw_strong(
    path: str, number: int, pool: Pool, canvases: Tensor, config: Config, seed: int, step: int
) -> StrongView:
    """The strong view of path `number`; its warp is the same whatever the path does to it."""
    name = f"strong{number or ''}"
    view = _sample(name, config.views.strong, pool, config, seed, step)
    batch = config.training.unlabeled_batch
    draws = sample_draws(batch, make_generator(seed, name, "draws", step, device=pool.device))
    images, own = render_crops(pool, canvases, view, config), pool.own_rows(batch)
    return StrongView(path, images, _cells(view, config), view.flip, draws.rows(own))


def pool_positions(step: int, batch: int, length: int, seed: int) -> Tensor:
    """Positions (batch,) in a pool of `length` rows: every pass visits each row once, in an order of its own."""
    start, stop, parts = step * batch, (step + 1) * batch, []
    while start < stop:  # once, and once more where a pass ends
        epoch, position = divmod(start, length)
        parts.append(_pool_order(seed, epoch, length)[position : position + stop - start])
        start += len(parts[-1])
    return torch.cat(parts)


@lru_cache(maxsize=2)
def _pool_order(seed: int, epoch: int, length: int) -> Tensor:
    return torch.randperm(length, generator=make_generator(seed, "pool", epoch))


def _sample(name: str, view: ViewConfig, pool: Pool, config: Config, seed: int, step: int) -> Views:
    generator = make_generator(seed, name, step, device=pool.device)
    batch = config.training.unlabeled_batch
    return sample_views(view, batch, config.data.input_size, generator).rows(pool.own_rows(batch))


def render_crops(pool: Pool, canvases: Tensor, views: Views, config: Config) -> Tensor:
    """`render_views` of crops of `pool` as networks of this configuration read them."""
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    return render_views(canvases, views, pool.to_reference, config.data.input_size, pool.mean_color, layout)


def _cells(views: Views, config: Config) -> Tensor:
    return to_heatmap_matrix(views.matrix, config.model.heatmap_stride, config.model.heatmap_alignment)

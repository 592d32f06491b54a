"""Weak, multi-view and strong views of the packed crops: drawn by `sample_views`, applied by `render_views`.

A view is one warp straight from the canvas. Its matrix (B, 3, 3) maps reference px (the un-augmented network
input, a centred window of the canvas) to view px; it contains the flip, and `flip` (B,) says where left and
right must be exchanged. Photometric factors and cutouts are drawn independently for every view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from ssl_pose.config import ViewConfig
from ssl_pose.geometry import about, constant, reflection, rotation, scaling, translation, view_center, warp_views

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of a grey image
CACHED_FLOATS = 2**21  # of canvases and views that a CPU works on at once: 8 MiB, a share of its last cache


@dataclass(frozen=True)
class Views:
    """One view of each of B crops; every field is a tensor on one device."""

    matrix: Tensor  # (B, 3, 3) reference px -> view px
    flip: Tensor  # (B,) bool
    brightness: Tensor  # (B,) factors, 1 changes nothing
    contrast: Tensor  # (B,)
    saturation: Tensor  # (B,)
    cutouts: Tensor  # (B, N, 4) boxes x1, y1, x2, y2 in view px

    def rows(self, index: Tensor | slice) -> Views:
        """The views of the crops at `index`."""
        return Views(*(getattr(self, f.name)[index] for f in fields(self)))


def join_views(views: Sequence[Views]) -> Views:
    """All of `views` as one, row after row; those with fewer cutouts get boxes that cover nothing."""
    if len(views) == 1:
        return views[0]
    most = max(view.cutouts.shape[1] for view in views)
    joined = {f.name: [getattr(view, f.name) for view in views] for f in fields(Views)}
    joined["cutouts"] = [functional.pad(boxes, (0, 0, 0, most - boxes.shape[1]), value=-1.0)
                         for boxes in joined["cutouts"]]
    return Views(**{name: torch.cat(parts) for name, parts in joined.items()})


def sample_views(
    config: ViewConfig, batch_size: int, size: tuple[int, int], generator: torch.Generator
) -> Views:
    """B random views of `size` (H, W) on the generator's device.

    Rotations are N(0, rotation_deg) clipped at twice that, as in SimpleBaseline. The *box* scale is
    N(1, half of the range) clipped to the range; the zoom is its inverse. Shifts are uniform.
    """
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch_size, *shape, generator=generator, device=device)

    def normal() -> Tensor:
        return torch.randn(batch_size, generator=generator, device=device)

    limit = 2 * config.rotation_deg
    degrees = (normal() * config.rotation_deg).clamp(-limit, limit)
    degrees = degrees * (uniform(0, 1) < config.rotation_probability)
    low, high = config.box_scale
    box_scale = (1 + normal() * (high - low) / 2).clamp(low, high)
    extent = constant((float(size[1]), float(size[0])), device)
    offset = uniform(-config.shift, config.shift, 2) * extent
    flip = uniform(0, 1) < config.flip_probability
    turn = rotation(degrees) @ scaling(1 / box_scale) @ reflection(flip)
    return Views(
        matrix=translation(offset) @ about(turn, view_center(size, device)),
        flip=flip,
        brightness=uniform(1 - config.brightness, 1 + config.brightness),
        contrast=uniform(1 - config.contrast, 1 + config.contrast),
        saturation=uniform(1 - config.saturation, 1 + config.saturation),
        cutouts=_sample_cutouts(uniform, config, extent, min(size)),
    )


def _sample_cutouts(uniform, config: ViewConfig, extent: Tensor, shorter: int) -> Tensor:
    """(B, N, 4) boxes whose centres lie anywhere in the view, the bottom row included."""
    center = uniform(0, 1, config.num_cutouts, 2) * extent - 0.5
    half = uniform(0.25, 1, config.num_cutouts, 2) * config.cutout_size * shorter / 2
    return torch.cat([center - half, center + half], dim=-1)


def identity_views(batch_size: int, device: torch.device | str = "cpu") -> Views:
    """B views that change nothing: the reference frame itself."""
    ones = torch.ones(batch_size, device=device)
    return Views(
        matrix=torch.eye(3, device=device).repeat(batch_size, 1, 1),
        flip=torch.zeros(batch_size, dtype=torch.bool, device=device),
        brightness=ones,
        contrast=ones,
        saturation=ones,
        cutouts=torch.zeros(batch_size, 0, 4, device=device),
    )


def render_views(
    canvases: Tensor, views: Views, canvas_to_reference: Tensor, size: tuple[int, int], mean_color: Tensor,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Network inputs (V * B, 3, H, W) of uint8 canvases (B, 3, Hc, Wc) seen through V * `views`, in one resampling.

    The views are those of all canvases, then again of all, V times. Beyond the canvas a view is `mean_color` (3,) in
    [0, 1]. The result has ImageNet's mean and std removed. A CPU renders few crops at a time, which fit its cache.
    """
    batch = len(canvases)
    images = torch.empty(len(views.matrix), 3, *size, device=canvases.device, memory_format=layout)
    if not batch:
        return images
    matrix = (views.matrix @ canvas_to_reference.to(views.matrix)).unflatten(0, (-1, batch))
    places = torch.arange(len(images), device=canvases.device).unflatten(0, (-1, batch))  # (V, B)
    rendered, fill = images.unflatten(0, (-1, batch)), normalize_images(mean_color[None, :, None, None])
    for rows in _split_rows(canvases, images):
        seen = warp_views(canvases[rows], matrix[:, rows], size, fill=255 * mean_color).flatten(0, 1)
        own = views.rows(places[:, rows].flatten())
        seen = cut_out(color_images(seen, own), own.cutouts, fill)
        rendered[:, rows] = seen.unflatten(0, (len(matrix), -1))
    return images


def _split_rows(canvases: Tensor, images: Tensor) -> list[slice]:
    """Rows of `canvases` that are rendered together: all, but on a CPU as many as its cache holds with their views."""
    batch = len(canvases)
    floats = (canvases.numel() + 2 * images.numel()) // batch  # a canvas, its views before and after their colours
    together = max(1, CACHED_FLOATS // floats) if canvases.device.type == "cpu" else batch
    return [slice(first, first + together) for first in range(0, batch, together)]


def color_images(images: Tensor, views: Views) -> Tensor:
    """Network inputs of images (B, 3, H, W) in [0, 255], after saturation, contrast, then brightness.

    Each moves colours linearly, towards their own grey, the image's mean grey and black; then they are clamped to what
    a byte holds, and ImageNet's mean and std are removed. One matrix and one shift do, and a clamp at the end.
    """
    luma, mean, std = (constant(values, images.device) for values in (LUMA, IMAGENET_MEAN, IMAGENET_STD))
    mean_grey = (images.mean(dim=(2, 3)) * luma).sum(1)  # (B,)
    saturation, contrast, brightness = (factor[:, None, None] for factor in
                                        (views.saturation, views.contrast, views.brightness))
    to_grey = luma.expand(3, 3)
    unchanged = torch.eye(3, device=images.device)
    matrix = brightness * contrast * torch.lerp(to_grey, unchanged, saturation)  # (B, 3, 3)
    shift = brightness * (1 - contrast) * mean_grey[:, None, None]
    scale = 1 / (255 * std[:, None])
    colored = torch.baddbmm(shift * scale - (mean / std)[:, None], matrix * scale, images.flatten(2)).view_as(images)
    for channel, average, deviation in zip(colored.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True):
        channel.clamp_(-average / deviation, (1 - average) / deviation)
    return colored


def cut_out(images: Tensor, boxes: Tensor, color: Tensor) -> Tensor:
    """Images (B, 3, H, W) with boxes (B, N, 4), x1 y1 x2 y2 in px, painted in `color` (1, 3, 1, 1)."""
    if not boxes.shape[1]:
        return images
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)
    x1, y1, x2, y2 = boxes.unbind(-1)  # each (B, N)
    in_x = (x >= x1[..., None]) & (x <= x2[..., None])  # (B, N, W)
    in_y = (y >= y1[..., None]) & (y <= y2[..., None])  # (B, N, H)
    covered = (in_y[..., :, None] & in_x[..., None, :]).any(1)  # (B, H, W)
    return torch.where(covered[:, None], color, images)


def normalize_images(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with ImageNet's mean and standard deviation removed."""
    mean, std = constant(IMAGENET_MEAN, images.device), constant(IMAGENET_STD, images.device)
    return (images - mean[:, None, None]) / std[:, None, None]


def restore_colors(images: Tensor) -> Tensor:
    """The inverse of `normalize_images`: normalised images (B, 3, H, W) as colours in [0, 1]."""
    mean, std = constant(IMAGENET_MEAN, images.device), constant(IMAGENET_STD, images.device)
    return images * std[:, None, None] + mean[:, None, None]

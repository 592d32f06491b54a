"""The rasteriser: photos painted from tapered capsules and rounded-off bars, batched over photos, on any device.

Everything that can be seen is a capsule: an axis between two points with a radius at each end, in photo pixels.
Integer coordinates are pixel centres. Capsules are painted from back to front (by layer, then by depth), edges are
antialiased by the signed distance, and the topmost capsule of every pixel is kept, which decides what is visible.

Only the pixels inside a capsule's own window are looked at. All steps that touch pixels use additions, products and
square roots, which are rounded alike wherever a number stands in a batch, and capsules are first put on a grid of 1/64
px: a photo does not depend on the photos rendered beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GRID = 64.0  # capsule coordinates are multiples of 1 / GRID px


class Capsules(NamedTuple):
    """M capsules: coordinates and radii in px, colours in [0, 1]."""

    photo: Tensor  # (M,) int64, the photo in the batch
    owner: Tensor  # (M,) int64, the person in the batch, or NO_OWNER
    layer: Tensor  # (M,) photos are painted layer by layer, the lowest first
    depth: Tensor  # (M,) order within a layer; the larger, the nearer to the viewer
    start: Tensor  # (M, 2)
    end: Tensor  # (M, 2)
    radius: Tensor  # (M, 2) at the start and at the end
    color: Tensor  # (M, 2, 3) before and behind the cut
    cut: Tensor  # (M,) share of the axis that has the first colour
    bar: Tensor  # (M,) bool: flat ends and parallel sides instead of round ones
    stripe: Tensor  # (M, 3) period in px, contrast, and 1 for stripes along the axis (0: across it)


NO_OWNER = -1


def join_capsules(parts: list[Capsules]) -> Capsules:
    """One table of all capsules of the parts."""
    return Capsules(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def sort_capsules(capsules: Capsules) -> tuple[Capsules, Tensor]:
    """The capsules in painting order, and the step (M,) of each: its rank within its own photo; ascending.

    All photos are painted side by side, so rank 0 of every photo comes first, then rank 1 of every photo.
    """
    for key in ("depth", "layer", "photo"):  # stable: the last key is the first to order by
        order = torch.argsort(getattr(capsules, key), stable=True)
        capsules = Capsules(*(column[order] for column in capsules))
    first = torch.searchsorted(capsules.photo, capsules.photo)
    rank = torch.arange(len(first), device=first.device) - first
    order = torch.argsort(rank, stable=True)
    return Capsules(*(column[order] for column in capsules)), rank[order]


def snap_capsules(capsules: Capsules) -> Capsules:
    """The capsules as float32, their coordinates and radii on the grid of 1/64 px."""
    snapped = {name: snap(getattr(capsules, name), GRID) for name in ("start", "end", "radius")}
    rounded = {name: snap(getattr(capsules, name)) for name in ("layer", "depth", "color", "cut", "stripe")}
    return capsules._replace(**snapped, **rounded)


def snap(values: Tensor, grid: float = 4096.0) -> Tensor:
    """Values rounded to multiples of 1 / grid, as float32."""
    return ((values * grid).round() / grid).float()


def paint(
    background: Tensor, texture: Tensor, light: Tensor, capsules: Capsules, step: Tensor
) -> tuple[Tensor, Tensor]:
    """Photos (B, H, W, 3) in [0, 1] and the topmost capsule (B, H, W) of every pixel, -1 for the background.

    `capsules` and `step` come from `sort_capsules`. `texture` (B, H, W) modulates what is painted; a capsule's side
    is brightened towards `light` (B, 2), a vector of the photo's plane.
    """
    batch, height, width, _ = background.shape
    capsule, x, y = find_fragments(capsules, (height, width))
    distance, share, offset, across = _measure(capsules, capsule, x, y)
    seen = (distance < 0.5).nonzero()[:, 0]
    capsule, x, y, share, offset = capsule[seen], x[seen], y[seen], share[seen], offset[seen]
    coverage = (0.5 - distance[seen]).clamp(max=1.0)
    pixel = (capsules.photo[capsule] * height + y) * width + x
    color = _shade(capsules, capsule, share, offset, across[seen], light)
    color = color * texture.reshape(-1)[pixel, None]
    image = background.reshape(-1, 3).clone()
    top = torch.full((batch * height * width,), -1, device=image.device)
    # One painter's step paints one capsule in every photo, so that no pixel occurs twice in it.
    sizes = torch.bincount(step[capsule]).tolist()
    fragments = (part.split(sizes) for part in (pixel, coverage[:, None], color, capsule))
    for pixels, alpha, colors, index in zip(*fragments, strict=True):
        below = image.index_select(0, pixels)
        image.index_copy_(0, pixels, below + alpha * (colors - below))
        solid = alpha[:, 0] >= 0.5
        top.index_copy_(0, pixels, torch.where(solid, index, top.index_select(0, pixels)))
    return image.view(background.shape), top.view(batch, height, width)


def find_fragments(capsules: Capsules, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Every (capsule, x, y) (F,) whose pixel lies in the capsule's window, in the order of the capsules."""
    height, width = size
    # The corners of a bar reach further than its radius; its coordinates are padded by both radii.
    reach = torch.where(capsules.bar, 1.5, 1.0) * capsules.radius.amax(1) + 1
    low = (torch.minimum(capsules.start, capsules.end) - reach[:, None]).floor().long()
    high = (torch.maximum(capsules.start, capsules.end) + reach[:, None]).ceil().long() + 1
    limit = torch.tensor([width, height], device=low.device)
    low, high = low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)
    extent = (high - low).clamp(min=0)  # (M, 2) the window's width and height
    count = extent[:, 0] * extent[:, 1]
    capsule = torch.repeat_interleave(count)
    place = torch.arange(len(capsule), device=low.device) - (count.cumsum(0) - count)[capsule]
    columns = extent[:, 0][capsule]
    row = torch.div(place, columns, rounding_mode="floor")
    return capsule, low[:, 0][capsule] + place - row * columns, low[:, 1][capsule] + row


def _measure(capsules: Capsules, capsule: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each fragment: signed distance to the outline, share of the axis, offset from it (F, 2) in radii, and
    signed distance from the axis's line in px."""
    axis = capsules.end - capsules.start
    length = (axis * axis).sum(1).sqrt().clamp(min=1e-3)  # a disc is a capsule of no length
    direction = axis / length[:, None]
    length, (axis_x, axis_y) = length[capsule], direction[capsule].unbind(1)
    start_x, start_y = capsules.start[capsule].unbind(1)
    dx, dy = x - start_x, y - start_y
    along, across = dx * axis_x + dy * axis_y, dx * axis_y - dy * axis_x
    clamped = along.clamp(min=0.0).minimum(length)
    share = clamped / length
    first, last = capsules.radius[capsule].unbind(1)
    radius = first + share * (last - first)
    offset_x, offset_y = dx - clamped * axis_x, dy - clamped * axis_y
    flat = torch.maximum(torch.maximum(-along, along - length), across.abs() - radius)
    rounded = (offset_x * offset_x + offset_y * offset_y).sqrt() - radius
    distance = torch.where(capsules.bar[capsule], flat, rounded)
    offset = torch.stack((offset_x, offset_y), 1) / radius[:, None].clamp(min=0.5)
    return distance, share, offset, across


def _shade(
    capsules: Capsules, capsule: Tensor, share: Tensor, offset: Tensor, across: Tensor, light: Tensor
) -> Tensor:
    """Colours (F, 3): striped, darker towards the outline, brighter on the side of the light."""
    behind = (share > capsules.cut[capsule]).long()
    color = capsules.color.reshape(-1, 3)[2 * capsule + behind]
    period, contrast, lengthwise = capsules.stripe[capsule].unbind(1)
    length = (capsules.end - capsules.start).square().sum(1).sqrt()[capsule]
    phase = torch.where(lengthwise > 0.5, across, share * length) / period
    dark = ((phase - phase.floor()) < 0.5) & (behind == 0)
    lit = (offset * light[capsules.photo[capsule]]).sum(1)
    shade = (1.0 - 0.3 * (offset * offset).sum(1) + 0.18 * lit) * (1 - contrast * dark)
    return color * shade[:, None]


def expose(image: Tensor, grain: Tensor, camera: Tensor) -> Tensor:
    """The photo (B, H, W, 3) uint8 that a camera takes of an image (B, H, W, 3) in [0, 1].

    `grain` (B, H, W, 3) is uint8 noise; `camera` (B, 8) holds blur in [0, 1], contrast, brightness, bend of the tone
    curve in [-1, 1], strength of the grain, and the gain of red, green and blue.
    """
    blur, contrast, brightness, bend, noise = (camera[:, i, None, None, None] for i in range(5))
    image = image + blur * (_smooth(_smooth(image, 1), 2) - image)
    image = (0.5 + contrast * (image - 0.5) + brightness).clamp(0, 1)
    image = image + bend * image * (1 - image)  # a tone curve without a power, which rounds differently
    image = image * camera[:, None, None, 5:] + noise * (grain.float() / 255 - 0.5)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _smooth(image: Tensor, axis: int) -> Tensor:
    """Binomial weights (1, 4, 6, 4, 1) / 16 along a spatial axis, the border repeated."""
    size = image.shape[axis]
    first, last = image.narrow(axis, 0, 1), image.narrow(axis, size - 1, 1)
    padded = torch.cat((first, first, image, last, last), axis)
    outer, inner, middle = (
        padded.narrow(axis, by, size) + padded.narrow(axis, 4 - by, size) for by in range(3)
    )
    return (outer + 4 * inner + 3 * middle) / 16

"""Heatmaps from keypoints and keypoints from heatmaps, and the coordinates in between.

A heatmap (h, w) holds a Gaussian of peak 1 whose centre is never rounded. Its coordinates are cells, (x, y),
with integer cell centres. With the `centre` alignment a cell lies over the middle of its stride x stride
image pixels, x_h = (x + 1/2) / stride - 1/2; with `corner`, the convention of published weights, it is
x_h = x / stride.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_pose.geometry import Size, cell_offset

DECODERS = ("argmax", "quarter", "dark")


def render_heatmaps(keypoints: Tensor, size: Size, sigma: float) -> Tensor:
    """Heatmaps (B, K, h, w) of `size` with a Gaussian of peak 1 at each of `keypoints` (B, K, 2); cells.

    An isotropic Gaussian is the product of one along x and one along y: h + w exponentials, not h * w.
    """
    height, width = size
    columns = _gaussian(keypoints[..., 0], width, sigma)  # (B, K, w)
    rows = _gaussian(keypoints[..., 1], height, sigma)  # (B, K, h)
    return rows[..., :, None] * columns[..., None, :]


def decode_heatmaps(heatmaps: Tensor, decoder: str, sigma: float) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in cells and their confidence (B, K) from heatmaps (B, K, h, w).

    `argmax`: the centre of the highest cell; off by up to half a cell.
    `quarter`: moved a quarter of a cell towards the higher neighbour along each axis (SimpleBaseline, 2018).
    `dark`: moved to the vertex of the parabola through the logarithms of three cells along each axis, one
    `sigma` (cells, the targets' width) apart and rounded up: a Taylor step of the log-heatmap, as in DARK
    (Zhang et al. 2020), without its cross term. It is exact for an isotropic Gaussian, whose logarithm is a
    parabola along each axis and has no cross term; the wide spacing, not smoothing, is what makes it robust
    to the ripple that bilinear warps leave.
    The confidence is the height of the highest cell in all three.
    Raises ValueError for an unknown decoder and for heatmaps too small for three such cells.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")
    heatmaps = heatmaps.float()
    cells, confidence = argmax_keypoints(heatmaps)
    if decoder == "argmax":
        return cells, confidence
    spacing = math.ceil(sigma) if decoder == "dark" else 1
    if min(heatmaps.shape[-2:]) < 2 * spacing + 1:
        least, got = 2 * spacing + 1, tuple(heatmaps.shape[-2:])
        raise ValueError(f"decoder {decoder!r} needs heatmaps of at least {least}x{least} cells, got {got}")
    step = _quarter_step if decoder == "quarter" else _log_parabola_step
    return cells + step(*_stencil(heatmaps, cells, spacing), spacing), confidence


def argmax_keypoints(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (B, K, 2) of the highest cells and their heights (B, K); the first cell of a flat heatmap."""
    width = heatmaps.shape[-1]
    confidence, index = heatmaps.flatten(2).max(-1)
    return torch.stack([index % width, index // width], -1).to(heatmaps.dtype), confidence


def image_to_heatmap_points(points: Tensor, stride: int, alignment: str = "centre") -> Tensor:
    """Points (..., 2) in image px, as heatmap cells."""
    return (points - cell_offset(stride, alignment)) / stride


def heatmap_to_image_points(points: Tensor, stride: int, alignment: str = "centre") -> Tensor:
    """Points (..., 2) in heatmap cells, as image px."""
    return points * stride + cell_offset(stride, alignment)


def _gaussian(center: Tensor, length: int, sigma: float) -> Tensor:
    """Profiles (B, K, length) with peak 1 at `center` (B, K)."""
    cells = torch.arange(length, device=center.device, dtype=center.dtype)
    return torch.exp((cells - center[..., None]).square() * (-0.5 / sigma**2))


def _stencil(heatmaps: Tensor, cells: Tensor, spacing: int) -> tuple[Tensor, Tensor]:
    """Three cells along x and along y, (B, K, 2, 3), `spacing` apart, and how far they had to move, (B, K, 2).

    The middle one is `cells` (B, K, 2); at a border the three move inwards, so that none is missing.
    """
    height, width = heatmaps.shape[-2:]
    last = torch.tensor([width - 1, height - 1], device=cells.device)
    middle = torch.minimum(cells.clamp(min=spacing), last - spacing)
    (x, y), (middle_x, middle_y) = cells.long().unbind(-1), middle.long().unbind(-1)
    around = torch.arange(-1, 2, device=cells.device) * spacing
    along_x = y[..., None] * width + middle_x[..., None] + around  # (B, K, 3)
    along_y = (middle_y[..., None] + around) * width + x[..., None]
    values = heatmaps.flatten(2).gather(-1, torch.cat([along_x, along_y], -1))
    return values.unflatten(-1, (2, 3)), middle - cells


def _quarter_step(values: Tensor, moved: Tensor, spacing: int) -> Tensor:
    """Steps (B, K, 2) of 1/4 towards the higher neighbour; 0 along an axis at whose border the cell lies."""
    return 0.25 * torch.sign(values[..., 2] - values[..., 0]) * (moved == 0)


def _log_parabola_step(values: Tensor, moved: Tensor, spacing: int) -> Tensor:
    """Steps (B, K, 2) to the vertex of the parabola through three logarithms, of at most 1 cell.

    What is no peak, or one wider than four spacings, has no usable curvature and stays at its highest cell.
    """
    low, center, high = values.clamp(min=1e-10).log().unbind(-1)
    slope, curvature = (high - low) / 2, low - 2 * center + high  # per spacing, per spacing^2
    step = moved + spacing * slope / (-curvature).clamp(min=1 / 16)
    return torch.where(-curvature >= 1 / 16, step.clamp(-1.0, 1.0), 0.0)

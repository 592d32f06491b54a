"""Affine maps between pixel frames, and the warps of points, images and heatmaps that follow from them.

Conventions of the whole library: points are (x, y), sizes are (height, width), integer coordinates are
pixel centres, so pixel i covers [i - 1/2, i + 1/2] and a view's centre is ((W - 1) / 2, (H - 1) / 2).
Matrices are (B, 3, 3) and map SOURCE px to DESTINATION px: `second @ first` applies `first` first. Positive
angles turn x towards y, which is clockwise on a screen. Sampling uses `align_corners=False`, which is the
same convention, so that mirroring an array and warping by the mirror's matrix agree with no shift.

Compose matrices outside autocast and TF32: a product in bfloat16 moves points by whole pixels. The functions
below multiply element by element, hence are safe there, and none waits for the device.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from ssl_pose.skeleton import FLIP_PERMUTATION

Size = tuple[int, int]


def translation(offset: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that move points by `offset` (B, 2), px."""
    one, zero = torch.ones_like(offset[:, 0]), torch.zeros_like(offset[:, 0])
    return _matrix(one, zero, offset[:, 0], zero, one, offset[:, 1])


def rotation(degrees: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn by `degrees` (B,) about the origin, x towards y."""
    cosine, sine = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    zero = torch.zeros_like(cosine)
    return _matrix(cosine, -sine, zero, sine, cosine, zero)


def scaling(factor: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that enlarge by `factor` (B,) about the origin."""
    zero = torch.zeros_like(factor)
    return _matrix(factor, zero, zero, zero, factor, zero)


def reflection(flip: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that mirror x at the origin where `flip` (B,) is true; identities elsewhere.

    A mirrored person also exchanges left and right keypoints: see `flip_points` and `flip_channels`.
    """
    sign = 1.0 - 2.0 * flip.float()
    one, zero = torch.ones_like(sign), torch.zeros_like(sign)
    return _matrix(sign, zero, zero, zero, one, zero)


@functools.cache
def constant(values: tuple[float, ...], device: torch.device | str) -> Tensor:
    """`values` as float32 on `device`, made once and not to be written to: a copy at every step would wait for it."""
    with torch.inference_mode(False):  # whoever asks first, training may use them later
        return torch.tensor(values, device=device)


def view_center(size: Size, device: torch.device | str = "cpu") -> Tensor:
    """Centre (2,) of a view of `size`, px: the middle between its first and its last pixel centre."""
    height, width = size
    return constant(((width - 1) / 2, (height - 1) / 2), device)


def about(matrix: Tensor, center: Tensor) -> Tensor:
    """`matrix` (B, 3, 3) carried out about `center` ((2,) or (B, 2)) instead of about the origin."""
    center = center.expand(len(matrix), 2)
    return translation(center) @ matrix @ translation(-center)


def invert_affine(matrix: Tensor) -> Tensor:
    """Inverses (..., 3, 3) in closed form; a matrix of determinant zero gives infinities, not an error."""
    (a, b, x), (c, d, y) = matrix[..., 0, :].unbind(-1), matrix[..., 1, :].unbind(-1)
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    return _matrix(a, b, -(a * x + b * y), c, d, -(c * x + d * y))


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (B, N, 2) px of the source, as px of the destination of `matrix` (B, 3, 3)."""
    linear, offset = matrix[:, None, :2, :2], matrix[:, None, :2, 2]
    return (linear * points[:, :, None, :]).sum(-1) + offset


def cell_offset(stride: int, alignment: str = "centre") -> float:
    """Image px under the centre of heatmap cell 0: its middle (`centre`), or 0 (`corner`, published)."""
    return {"centre": (stride - 1) / 2, "corner": 0.0}[alignment]


def to_heatmap_matrix(matrix: Tensor, stride: int, alignment: str = "centre") -> Tensor:
    """The map `matrix` (B, 3, 3) between image px, as the same map between heatmap cells: S^-1 A S.

    S takes cells to px, x = stride * x_h + offset, with `cell_offset`; so only the translation changes.
    """
    offset = cell_offset(stride, alignment)
    moved = matrix[:, :2, :2].sum(-1) * offset + matrix[:, :2, 2] - offset
    return torch.cat([torch.cat([matrix[:, :2, :2], moved[:, :, None] / stride], -1), matrix[:, 2:]], 1)


def warp_images(images: Tensor, matrix: Tensor, size: Size, fill: float | Tensor = 0.0) -> Tensor:
    """Images (B, C, Hs, Ws), of any dtype, seen through `matrix` (B, 3, 3) as float32 (B, C, H, W) of `size`.

    Bilinear; what lies outside the source's pixels is `fill`, a number or one per channel (C,). Raises
    ValueError where images and matrices differ in number.
    """
    if len(images) != len(matrix):
        raise ValueError(f"{len(images)} images need {len(images)} matrices, got {len(matrix)}")
    return warp_views(images, matrix[None], size, fill)[0]


def warp_views(images: Tensor, matrix: Tensor, size: Size, fill: float | Tensor = 0.0) -> Tensor:
    """Images (B, C, Hs, Ws) seen through V matrices each (V, B, 3, 3), as float32 (V, B, C, H, W); see `warp_images`.

    The views of an image are sampled as one tall view of it, so that no image is copied V times.
    """
    height, source_size = size[0], images.shape[-2:]
    images = images.to(torch.float32, memory_format=torch.contiguous_format)
    grid = _normalised(invert_affine(matrix.float().transpose(0, 1)), source_size)  # (B, V, 3, 3)
    grid = _map_pixels(grid, size).flatten(2, 3).permute(0, 2, 3, 1)  # (B, V * H, W, 2)
    if isinstance(fill, float) and fill == 0.0:
        views = _sample(images, grid)
    else:
        fill = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)
        views = _sample(images - fill, grid).add_(fill)  # zero padding of the difference is padding by `fill`
    return views.unflatten(2, (len(matrix), height)).permute(2, 0, 1, 3, 4)


def warp_heatmaps(heatmaps: Tensor, matrix: Tensor, size: Size, flip: Tensor) -> Tensor:
    """Heatmaps (B, K, hs, ws) moved by `matrix` (B, 3, 3) in CELLS, as (B, K, h, w) of `size`; zero outside.

    Where `flip` (B,) is true, `matrix` mirrors the person, and left and right channels are exchanged. The
    same flag serves both directions, into a view and back, since the exchange is its own inverse.
    """
    return flip_channels(warp_images(heatmaps, matrix, size), flip)


def inside_mask(matrix: Tensor, source_size: Size, size: Size) -> Tensor:
    """Bool (B, 1, h, w): whether a destination pixel's centre comes from within the source's pixel area."""
    points = _map_pixels(invert_affine(matrix.float())[:, None], size)[:, :, 0]  # (B, 2, h, w) source px
    return points_inside(points.movedim(1, -1), source_size)[:, None]


def points_inside(points: Tensor, size: Size) -> Tensor:
    """Bool (...): whether points (..., 2) lie in the pixel area of `size`: -1/2 to W - 1/2 and H - 1/2."""
    height, width = size
    x, y = points.unbind(-1)
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def flip_channels(heatmaps: Tensor, flip: Tensor) -> Tensor:
    """`heatmaps` (B, K, ...), left and right channels exchanged where `flip` (B,) is true; no pixel moves."""
    if heatmaps.shape[1] != len(FLIP_PERMUTATION):
        raise ValueError(f"flips need {len(FLIP_PERMUTATION)} keypoints, got {heatmaps.shape[1]}")
    mirrored, identity = _channel_orders(heatmaps.device)
    batch = torch.arange(len(heatmaps), device=heatmaps.device)[:, None]
    return heatmaps[batch, torch.where(flip[:, None], mirrored, identity)]


def flip_points(points: Tensor, flip: Tensor) -> Tensor:
    """`points` (B, K, 2), or any (B, K), with left and right exchanged where `flip` (B,) is true."""
    return flip_channels(points, flip)


@functools.cache
def _channel_orders(device: torch.device) -> tuple[Tensor, Tensor]:
    """FLIP_PERMUTATION and the identity, kept on the device: a copy at every step would wait for it."""
    with torch.inference_mode(False):  # whoever asks first, training may use them later
        return torch.tensor(FLIP_PERMUTATION, device=device), torch.arange(len(FLIP_PERMUTATION), device=device)


def _matrix(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    """Matrices (..., 3, 3) with rows (a, b, x), (c, d, y), (0, 0, 1), each entry (...)."""
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    return torch.stack([a, b, x, c, d, y, zero, zero, one], -1).unflatten(-1, (3, 3))


def _map_pixels(matrix: Tensor, size: Size) -> Tensor:
    """Where matrices (B, V, 2 or 3, 3) take the pixels of views of `size`, (B, 2, V, h, w): a plane of x, one of y."""
    height, width = size
    x = torch.arange(width, device=matrix.device, dtype=matrix.dtype)
    y = torch.arange(height, device=matrix.device, dtype=matrix.dtype)
    of_x, of_y, offset = matrix[:, :, :2].transpose(1, 2)[..., None].unbind(-2)  # each (B, 2, V, 1)
    return (of_x * x)[..., None, :] + (of_y * y + offset)[..., :, None]


def _normalised(matrix: Tensor, size: Size) -> Tensor:
    """Two rows (..., 2, 3): `matrix` (..., 3, 3) to px, followed by the map to grid_sample's square [-1, 1].

    The square's edges are those of the pixel area of `size`.
    """
    height, width = size
    scale = constant((2 / width, 2 / height), matrix.device)[:, None]
    linear, offset = matrix[..., :2, :2] * scale, torch.addcmul(scale / 2 - 1, matrix[..., :2, 2:], scale)
    return torch.cat([linear, offset], -1)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

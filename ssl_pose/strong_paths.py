"""What makes a strong view harder than its warp: occlusions at predicted joints, and colour operations.

`STRONG_PATHS` names functions of (images, joints, draws): normalised images (B, 3, H, W), the joints (B, K, 2)
in view px at which the label's source sees them, and the view's random numbers. Sizes are those of the peers'
256 px high input, scaled to this one; boxes reach every row and column. To add a path, write it here, name it
in STRONG_PATHS and in `MethodConfig.strong_paths`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ssl_pose.augment import normalize_images, restore_colors

REFERENCE_HEIGHT = 256  # px, of the input for which the sizes below were published
JITTER = 10.0  # px, standard deviation of a box's centre about its joint (Xie et al. 2021)
HALF_SIZES = (10.0, 20.0)  # px, of a box, along each axis (Xie et al. 2021)
NUM_CUTOUTS = 5  # joints under a box of Joint Cutout (Xie et al. 2021, whose code may draw a joint twice)
NUM_PASTES = 2  # of keypoint cut-occlude (Huang et al. 2023)
NUM_OPERATIONS = 2  # of RandAugment (Xie et al. 2021: N = 2)
MAGNITUDE = 20 / 30  # of each operation (Xie et al. 2021: 20 of 30)
POSTERIZE_LEVELS = 2 ** (8 - round(4 * MAGNITUDE))


@dataclass(frozen=True)
class Draws:
    """Random numbers of B strong views for at most N boxes or operations each."""

    choice: Tensor  # (B, N) in [0, 1): which joint, or which operation
    source: Tensor  # (B, N) in [0, 1): which joint of the other person is pasted
    jitter: Tensor  # (B, N, 2) standard normal
    extent: Tensor  # (B, N, 2) in [0, 1)

    def rows(self, index: slice) -> Draws:
        """The draws of some of the views."""
        return Draws(*(getattr(self, f.name)[index] for f in fields(self)))


def sample_draws(batch_size: int, generator: torch.Generator) -> Draws:
    """The random numbers of `batch_size` views, on the generator's device."""
    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch_size, NUM_CUTOUTS, *shape, generator=generator, device=generator.device)

    normal = torch.randn(batch_size, NUM_CUTOUTS, 2, generator=generator, device=generator.device)
    return Draws(choice=uniform(), source=uniform(), jitter=normal, extent=uniform(2))


def plain(images: Tensor, joints: Tensor, draws: Draws) -> Tensor:
    """The strong view as it is."""
    return images


def joint_cutout(images: Tensor, joints: Tensor, draws: Draws) -> Tensor:
    """Joint Cutout (Xie et al. 2021): boxes of the mean colour over some of the joints that the peer sees."""
    centers = _pick_different(joints, draws.choice[:, :joints.shape[1]])
    covered = _inside(_boxes(images, centers, draws), images).any(1)
    return images.masked_fill(covered[:, None], 0.0)  # the mean colour: images are normalised


def cut_occlude(images: Tensor, joints: Tensor, draws: Draws) -> Tensor:
    """Keypoint cut-occlude (Huang et al. 2023): patches around another person's joints laid over one's own."""
    others, their_joints = images.roll(1, 0), joints.roll(1, 0)
    start = _pick(their_joints, draws.source[:, :NUM_PASTES])
    target = _pick(joints, draws.choice[:, :NUM_PASTES])
    inside = _inside(_boxes(images, target, draws), images)  # (B, N, H, W)
    for number in range(NUM_PASTES):  # one paste over the other, each for the whole batch
        patch = _shift(others, (start - target)[:, number])
        images = torch.where(inside[:, number, None], patch, images)
    return images


def cut_occlude_cutout(images: Tensor, joints: Tensor, draws: Draws) -> Tensor:
    """Cut-occlude, then Joint Cutout, as MultiAugs (Huang and Zhou 2024) stacks them."""
    flipped = Draws(draws.source, draws.choice, draws.jitter.flip(1), draws.extent.flip(1))
    return joint_cutout(cut_occlude(images, joints, draws), joints, flipped)


def randaugment(images: Tensor, joints: Tensor, draws: Draws) -> Tensor:
    """The colour operations of RandAugment, N of them an image; geometry is the strong view's own business."""
    colors = restore_colors(images)
    number = (draws.choice[:, :NUM_OPERATIONS] * len(OPERATIONS)).long()
    sign = torch.where(draws.source[:, :NUM_OPERATIONS] < 0.5, -1.0, 1.0)
    for turn in range(NUM_OPERATIONS):
        results = torch.stack([operation(colors, sign[:, turn, None, None, None]) for operation in OPERATIONS])
        colors = results[number[:, turn], torch.arange(len(colors), device=colors.device)].clamp(0, 1)
    return normalize_images(colors)


StrongPath = Callable[[Tensor, Tensor, Draws], Tensor]
STRONG_PATHS: dict[str, StrongPath] = {
    "plain": plain,
    "joint_cutout": joint_cutout,
    "cut_occlude": cut_occlude,
    "cut_occlude_cutout": cut_occlude_cutout,
    "randaugment": randaugment,
}


def _pick(joints: Tensor, choice: Tensor) -> Tensor:
    """Points (B, N, 2) of the joints (B, K, 2) that `choice` (B, N) in [0, 1) names."""
    index = (choice * joints.shape[1]).long()
    return joints.gather(1, index[..., None].expand(-1, -1, 2))


def _pick_different(joints: Tensor, choice: Tensor) -> Tensor:
    """Points (B, N, 2) of N different joints of (B, K, 2): `choice` (B, N) names each among those that are left."""
    batch, count = joints.shape[:2]
    left, picked = torch.ones(batch, count, dtype=torch.bool, device=joints.device), []
    for turn, number in enumerate(choice.unbind(1)):
        rank = (number * (count - turn)).long() + 1
        index = (left & (left.cumsum(1) == rank[:, None])).int().argmax(1, keepdim=True)
        left = left.scatter(1, index, False)
        picked.append(index)
    return joints.gather(1, torch.stack(picked, 1).expand(-1, -1, 2))


def _boxes(images: Tensor, centers: Tensor, draws: Draws) -> Tensor:
    """Boxes (B, N, 4), x1 y1 x2 y2 in px, about `centers` (B, N, 2), with the jitter and size of the draws."""
    scale, count = images.shape[-2] / REFERENCE_HEIGHT, centers.shape[1]
    low, high = HALF_SIZES
    center = centers + JITTER * scale * draws.jitter[:, :count]
    half = scale * (low + (high - low) * draws.extent[:, :count])
    return torch.cat([center - half, center + half], -1)


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Bool (B, N, H, W): pixels of `images` whose centres lie in boxes (B, N, 4)."""
    height, width = images.shape[-2:]
    x, y = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # each (B, N, 1)
    return ((y >= y1) & (y <= y2))[..., :, None] & ((x >= x1) & (x <= x2))[..., None, :]


def _shift(images: Tensor, offset: Tensor) -> Tensor:
    """Images whose pixel (x, y) is that of the input at (x, y) + `offset` (B, 2), rounded; edges repeat."""
    height, width = images.shape[-2:]
    dx, dy = offset.round().long().unbind(-1)
    x = (torch.arange(width, device=images.device) + dx[:, None]).clamp(0, width - 1)  # (B, W)
    y = (torch.arange(height, device=images.device) + dy[:, None]).clamp(0, height - 1)  # (B, H)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[batch, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def _blend(first: Tensor, second: Tensor, sign: Tensor) -> Tensor:
    """`second` brought towards `first`, or away from it, by the magnitude.

    So do PIL's enhancers, whose grey weighs the colours and whose smoothing weighs the centre, where ours take means.
    """
    return first + (second - first) * (1 + 0.9 * MAGNITUDE * sign)


def _grey(colors: Tensor) -> Tensor:
    return colors.mean(1, keepdim=True).expand_as(colors)


def _auto_contrast(colors: Tensor, sign: Tensor) -> Tensor:
    low, high = colors.amin((2, 3), keepdim=True), colors.amax((2, 3), keepdim=True)
    return (colors - low) / (high - low).clamp(min=1 / 255)


def _equalize(colors: Tensor, sign: Tensor) -> Tensor:
    """Each of a channel's 256 values replaced by the share of pixels below it, of those below the highest, as PIL does.

    Equal values stay equal, and a channel of one value stays as it is.
    """
    levels = (colors.flatten(2) * 255).round().long().clamp(0, 255)  # (B, C, H * W)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    below = counts.cumsum(2) - counts
    most = below.gather(2, levels.amax(2, keepdim=True))
    shares = (below / most.clamp(min=1)).to(colors.dtype).gather(2, levels).view_as(colors)
    return torch.where(most[..., None] > 0, shares, colors)


def _smooth(colors: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(colors, (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 3, 1)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda colors, sign: colors,
    _auto_contrast,
    _equalize,
    lambda colors, sign: torch.where(colors < 1 - MAGNITUDE, colors, 1 - colors),  # solarize
    lambda colors, sign: (colors * POSTERIZE_LEVELS).floor() / POSTERIZE_LEVELS,
    lambda colors, sign: _blend(_grey(colors), colors, sign),  # saturation
    lambda colors, sign: _blend(_grey(colors).mean((2, 3), keepdim=True), colors, sign),  # contrast
    lambda colors, sign: _blend(torch.zeros_like(colors), colors, sign),  # brightness
    lambda colors, sign: _blend(_smooth(colors), colors, sign),  # sharpness
)

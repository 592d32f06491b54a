"""What surrounds people in a photo: a noisy background, limb-like clutter behind them, and things in front of them.

Clutter comes in pieces of two capsules that meet at an angle, as an upper and a lower arm do; many have the skin or the
clothes of somebody on the photo, so that colour and shape alone do not tell a limb.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_pose.clothing import MATERIALS, Outfit
from ssl_pose.draws import Draws, choose, color, happens, uniform
from ssl_pose.render import NO_OWNER, Capsules, snap

NUM_CLUTTER = 8  # pieces behind everybody, in every photo
NUM_OCCLUDERS = 2  # pieces among the people, in every photo; two in three are left out
NUM_OCTAVES = 5
BEHIND_EVERYBODY = -1.0  # layer; people's layers are their sizes in px


def octave_sizes(photo_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, columns) of the noise grids: cells of a half of the photo's height, a quarter, an eighth, ..."""
    height, width = photo_size
    return [(2**octave + 1, math.ceil(2**octave * width / height) + 1) for octave in range(1, NUM_OCTAVES + 1)]


def make_background(draws: Draws, grids: Tensor, photo_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Backgrounds (B, H, W, 3) in [0, 1] and the texture (B, H, W) around 1 that people are painted with.

    `draws` has a row per photo; `grids` (B, 3 * cells) are normal numbers, octave by octave.
    """
    upper, lower = _mute(color(draws)), _mute(color(draws))
    colorfulness, roughness, strength = (
        snap(uniform(draws, low, high))[:, None, None, None] for low, high in ((0.1, 0.6), (0.45, 0.9), (0.05, 0.17))
    )
    position = torch.linspace(0, 1, photo_size[0], device=grids.device)[None, None, :, None]
    image = snap(upper)[:, :, None, None] * (1 - position) + snap(lower)[:, :, None, None] * position
    octaves = grids.split([3 * rows * columns for rows, columns in octave_sizes(photo_size)], dim=1)
    for octave, size in zip(octaves, octave_sizes(photo_size), strict=True):
        noise = octave.view(-1, 3, *size)
        grey = noise[:, :1]
        noise = _stretch(_stretch(grey + colorfulness * (noise - grey), 3, photo_size[1]), 2, photo_size[0])
        image = image + strength * noise
        strength = strength * roughness
    texture = (1 + 0.06 * noise[:, 1]).clamp(0.8, 1.2)  # of the finest octave
    return image.clamp(0, 1).movedim(1, -1).contiguous(), texture


def _stretch(grid: Tensor, axis: int, size: int) -> Tensor:
    """Linear interpolation along an axis, ends kept; interpolate() rounds by the number of threads, this does not."""
    cells = grid.shape[axis] - 1
    place = torch.arange(size, device=grid.device) * (cells / (size - 1))
    low = place.long().clamp(max=cells - 1)
    share = (place - low).view([-1 if index == axis else 1 for index in range(grid.ndim)])
    first, second = grid.index_select(axis, low), grid.index_select(axis, low + 1)
    return first + share * (second - first)


def _mute(colors: Tensor) -> Tensor:
    """Colours (B, 3) on half the way to grey."""
    return (colors + colors.mean(1, keepdim=True)) / 2


def make_clutter(
    draws: Draws, outfit: Outfit, num_people: Tensor, largest_layer: float, photo_size: tuple[int, int]
) -> Capsules:
    """The capsules of all clutter and occluders, in px; `draws` has a row per piece, `num_people` (B,) per photo.

    `outfit` is that of the people, photo after photo: half of the limb-like pieces take over a colour from it.
    """
    height, width = photo_size
    pieces = NUM_CLUTTER + NUM_OCCLUDERS
    photo = torch.arange(len(num_people), device=num_people.device).repeat_interleave(pieces)
    occluder = torch.arange(pieces, device=photo.device).repeat(len(num_people)) >= NUM_CLUTTER
    left_out = occluder & happens(draws, 0.67)
    bulky, bar = happens(draws, 0.3), happens(draws, 0.3)
    length = height * uniform(draws, 0.06, 0.35)
    radius = height * torch.where(bulky | occluder, uniform(draws, 0.03, 0.12), uniform(draws, 0.008, 0.035))
    taper = uniform(draws, 0.6, 1.0)
    start = torch.stack((uniform(draws, 0, width), uniform(draws, 0, height)), -1)
    angle, bend = uniform(draws, -math.pi, math.pi), uniform(draws, -1.8, 1.8)
    middle, end = (_walk(start, angle, length), _walk(_walk(start, angle, length), angle + bend, length))
    layer = torch.where(occluder, uniform(draws, 0.3, 1.0) * largest_layer, BEHIND_EVERYBODY)
    hue = _piece_colors(draws, outfit, num_people, photo)
    period = height * uniform(draws, 0.02, 0.1)
    contrast = torch.where(happens(draws, 0.35), uniform(draws, 0.2, 0.6), 0.0)
    stripe = torch.stack((period, contrast, happens(draws, 0.5).double()), -1)
    segments = [
        Capsules(
            photo=photo,
            owner=torch.full_like(photo, NO_OWNER),
            layer=layer,
            depth=uniform(draws, 0.0, 1.0),
            start=first,
            end=last,
            radius=torch.stack((radius * wide, radius * narrow), -1),
            color=hue[:, None].expand(-1, 2, -1),
            cut=torch.ones_like(radius),
            bar=bar,
            stripe=stripe,
        )
        for first, last, wide, narrow in ((start, middle, 1.0, taper), (middle, end, taper, taper * taper))
    ]
    keep = [Capsules(*(column[~left_out] for column in segment)) for segment in segments]
    return Capsules(*(torch.cat(columns) for columns in zip(*keep, strict=True)))


def _walk(start: Tensor, angle: Tensor, length: Tensor) -> Tensor:
    """The points (N, 2) at a distance from others, in a direction in radians."""
    return start + length[:, None] * torch.stack((angle.cos(), angle.sin()), -1)


def _piece_colors(draws: Draws, outfit: Outfit, num_people: Tensor, photo: Tensor) -> Tensor:
    """Colours (N, 3): for half of the pieces the skin, shirt or trousers of a person on the same photo."""
    first = (num_people.cumsum(0) - num_people)[photo]
    person = first + (next(draws) * num_people[photo]).long()
    material = choose(draws, [{"skin": 4, "shirt": 2, "trousers": 2}.get(name, 0) for name in MATERIALS])
    own = outfit.palette[person, material]
    return torch.where(happens(draws, 0.5)[:, None], own, color(draws))

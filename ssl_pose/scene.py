"""Photos of people: who stands where, and what of each person can be seen.

Every photo is a draw of its own from (seed, split, index): a table of uniform numbers per person and per piece of
clutter, coarse grids for the background, and grain. The draws of a batch are stacked, and from there on all photos are
worked on together, on any device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_pose.backdrop import NUM_CLUTTER, NUM_OCCLUDERS, make_background, make_clutter, octave_sizes
from ssl_pose.body import FACE, Body, pose_body, sample_pose, sample_shape
from ssl_pose.clothing import PARTS, dress_body, sample_outfit
from ssl_pose.draws import Draws, happens, normal, uniform
from ssl_pose.render import Capsules, expose, join_capsules, paint, snap, snap_capsules, sort_capsules
from ssl_pose.skeleton import KEYPOINT_NAMES

MAX_PEOPLE = 12
COLUMNS = 128  # uniform numbers per row, more than any row uses
TALLEST = 1.2  # stature of the largest person, in heights of the photo

# A joint is hidden by its own body when what is painted there lies nearer by this many statures.
SELF_OCCLUSION_DEPTH = 0.1
# Directions out of the head at the facial points, in its frame.
FACE_NORMALS = {
    "nose": (0.0, 0.0, 1.0),
    "left_eye": (0.35, 0.0, 0.94),
    "right_eye": (-0.35, 0.0, 0.94),
    "left_ear": (0.97, 0.0, 0.25),
    "right_ear": (-0.97, 0.0, 0.25),
}
FACING_AWAY = -0.1  # cosine to the viewer below which a facial point is out of sight


class PhotoDraws(NamedTuple):
    """The random numbers of one photo with n people."""

    photo: np.ndarray  # (1, COLUMNS) uniform
    people: np.ndarray  # (n, COLUMNS) uniform
    clutter: np.ndarray  # (NUM_CLUTTER + NUM_OCCLUDERS, COLUMNS) uniform
    grids: np.ndarray  # (1, 3 * cells of all octaves) normal
    grain: np.ndarray  # (1, H, W, 3) uint8


class Placement(NamedTuple):
    """Space to photo: x' = center_x + scale * (x - middle_x), y' = center_y - scale * (y - middle_y)."""

    center: Tensor  # (N, 2) px
    middle: Tensor  # (N, 2) statures
    scale: Tensor  # (N,) px per stature


class People(NamedTuple):
    """N people of a batch, in photo pixels; integer coordinates are pixel centres."""

    photo: Tensor  # (N,) photo in the batch
    keypoints: Tensor  # (N, 17, 2)
    visibility: Tensor  # (N, 17) COCO's 0, 1, 2
    area: Tensor  # (N,) visible pixels
    box_xyxy: Tensor  # (N, 4) around the whole dressed body, not clipped to the photo


def draw_photo(
    seed: int, split: int, index: int, photo_size: tuple[int, int], persons_per_photo: float
) -> PhotoDraws:
    """All random numbers of photo `index`; they depend on nothing but the arguments."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, split, index)))
    num_people = min(1 + rng.poisson(persons_per_photo - 1), MAX_PEOPLE)
    cells = sum(rows * columns for rows, columns in octave_sizes(photo_size))
    return PhotoDraws(
        photo=rng.random((1, COLUMNS)),
        people=rng.random((num_people, COLUMNS)),
        clutter=rng.random((NUM_CLUTTER + NUM_OCCLUDERS, COLUMNS)),
        grids=rng.standard_normal((1, 3 * cells), dtype=np.float32),
        grain=rng.integers(0, 256, (1, *photo_size, 3), dtype=np.uint8),
    )


def render_photos(
    photos: list[PhotoDraws], photo_size: tuple[int, int], device: str | torch.device = "cpu"
) -> tuple[Tensor, People]:
    """Photos (B, H, W, 3) uint8 and the people on them, one photo for each `draw_photo`."""
    tables = PhotoDraws(*(torch.from_numpy(np.concatenate(part)).to(device) for part in zip(*photos, strict=True)))
    photo_draws, person_draws, clutter_draws = (iter(table.unbind(1)) for table in tables[:3])
    num_people = torch.tensor([len(photo.people) for photo in photos], device=device)
    photo = torch.repeat_interleave(num_people)
    slot = torch.arange(len(photo), device=photo.device) - (num_people.cumsum(0) - num_people)[photo]
    body = pose_body(sample_shape(person_draws), sample_pose(person_draws))
    outfit = sample_outfit(person_draws)
    place = _place_people(person_draws, body, slot, num_people[photo], photo_size)
    dressed, worn = dress_body(body, outfit)
    people_capsules = project_capsules(dressed, worn, photo, place)
    clutter = make_clutter(clutter_draws, outfit, num_people, TALLEST * photo_size[0], photo_size)
    capsules, step = sort_capsules(snap_capsules(join_capsules([people_capsules, clutter])))
    background, texture = make_background(photo_draws, tables.grids, photo_size)
    light = snap(torch.stack([uniform(photo_draws, -1.0, 1.0) for _ in range(2)], -1))
    image, top = paint(background, texture, light, capsules, step)
    seen = see_people(body, photo, place, capsules, top)
    people = People(photo, *seen, _find_boxes(people_capsules, len(photo)))
    return expose(image, tables.grain, _sample_camera(photo_draws)), people


def _place_people(
    draws: Draws, body: Body, slot: Tensor, num_people: Tensor, photo_size: tuple[int, int]
) -> Placement:
    """People side by side in slots of the photo's width, of all sizes, some cut by the border."""
    height, width = photo_size
    points = torch.stack([body.points[name][:, :2] for name in KEYPOINT_NAMES], 1)
    middle = (points.amin(1) + points.amax(1)) / 2
    crowding = num_people.double().pow(-0.2)
    scale = height * TALLEST * torch.exp(uniform(draws, -0.9, 0.0)) * crowding
    center_x = width * (0.04 + 0.92 * (slot + next(draws)) / num_people)
    center_y = height * uniform(draws, 0.33, 0.72)
    return Placement(torch.stack((center_x, center_y), -1), middle, scale)


def _project(place: Placement, points: Tensor) -> Tensor:
    """Points (N, P, 2) of the photo from points (N, P, 2 or 3) in space."""
    flip_y = points.new_tensor([1.0, -1.0])
    offset = (points[..., :2] - place.middle[:, None]) * flip_y
    return place.center[:, None] + place.scale[:, None, None] * offset


def project_capsules(capsules: Capsules, worn: Tensor, photo: Tensor, place: Placement) -> Capsules:
    """The capsules of `dress_body` in the photo's pixels, without the parts that are not worn."""
    scale = place.scale.repeat_interleave(len(PARTS))
    parts = (len(photo), len(PARTS), 2)
    capsules = capsules._replace(
        photo=photo.repeat_interleave(len(PARTS)),
        layer=scale,
        start=_project(place, capsules.start.view(parts)).flatten(0, 1),
        end=_project(place, capsules.end.view(parts)).flatten(0, 1),
        radius=capsules.radius * scale[:, None],
        stripe=capsules.stripe * torch.stack((scale, torch.ones_like(scale), torch.ones_like(scale)), -1),
    )
    return Capsules(*(column[worn] for column in capsules))


def _find_boxes(capsules: Capsules, num_people: int) -> Tensor:
    """Boxes (N, 4) around all capsules of each person."""
    index = capsules.owner[:, None].expand(-1, 2)
    first, last = capsules.radius[:, :1], capsules.radius[:, 1:]
    low = torch.minimum(capsules.start - first, capsules.end - last)
    high = torch.maximum(capsules.start + first, capsules.end + last)
    empty = low.new_zeros(num_people, 2)
    low = empty.scatter_reduce(0, index, low, "amin", include_self=False)
    high = empty.scatter_reduce(0, index, high, "amax", include_self=False)
    return torch.cat((low, high), 1)


def see_people(
    body: Body, photo: Tensor, place: Placement, capsules: Capsules, top: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints (N, 17, 2), their visibility (N, 17) and visible areas (N,), read off the topmost capsules.

    0: outside the photo, or a facial point on the far side of the own head. 1: behind somebody else, an occluder,
    or a part of the own body that is nearer by more than SELF_OCCLUSION_DEPTH. 2: visible. `capsules` and `top` are
    those of `paint`; `photo` (N,) is each person's photo.
    """
    height, width = top.shape[1:]
    joints = torch.stack([body.points[name] for name in KEYPOINT_NAMES], 1)
    keypoints = snap(_project(place, joints))
    pixel = keypoints.round().long()
    inside = (pixel >= 0).all(-1) & (pixel < pixel.new_tensor([width, height])).all(-1)
    x, y = pixel[..., 0].clamp(0, width - 1), pixel[..., 1].clamp(0, height - 1)
    cover = top[photo[:, None], y, x]  # (N, 17) capsules
    person = torch.arange(len(photo), device=photo.device)[:, None]
    own = (cover >= 0) & (capsules.owner[cover] == person)
    nearer = capsules.depth[cover] - joints[..., 2] > SELF_OCCLUSION_DEPTH * body.shape.stature[:, None]
    other = (cover >= 0) & ~own & (capsules.layer[cover] > snap(place.scale)[:, None])
    visibility = torch.where(other | (own & nearer), 1, 2)
    visibility = torch.where(inside & ~_faces_away(body), visibility, 0)
    owner = torch.where(top >= 0, capsules.owner[top], -1)
    area = torch.bincount(owner[owner >= 0], minlength=len(photo))
    return keypoints, visibility, area


def _faces_away(body: Body) -> Tensor:
    """Which keypoints (N, 17) are facial points on the far side of their own head: COCO leaves them unlabelled."""
    head = body.frames["head"]
    away = [
        (head @ head.new_tensor(FACE_NORMALS[name]))[:, 2] < FACING_AWAY
        if name in FACE
        else torch.zeros_like(head[:, 0, 0], dtype=torch.bool)
        for name in KEYPOINT_NAMES
    ]
    return torch.stack(away, 1)


def _sample_camera(draws: Draws) -> Tensor:
    """Settings (B, 8) of `expose`."""
    blur = torch.where(happens(draws, 0.3), uniform(draws, 0.3, 1.0), 0.0)
    contrast, brightness = uniform(draws, 0.75, 1.2), uniform(draws, -0.1, 0.1)
    bend, noise = uniform(draws, -0.4, 0.5), uniform(draws, 0.02, 0.14)
    gains = [normal(draws, 1.0, 0.06) for _ in range(3)]
    return snap(torch.stack((blur, contrast, brightness, bend, noise, *gains), -1))

"""Dressed people: the capsules that a posed body shows, with skin, hair, clothes and what they carry.

A person is a table of parts; each is a capsule between two anchors (joints, or places given in the frame of the head or
the trunk). Front and back differ in what the depth order shows: a face, the opening and the print of a shirt, toes;
or hair, the back of a shirt, a rucksack, heels. So left and right can be told, and must be.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_pose.body import Body, at
from ssl_pose.draws import Draws, choose, color, happens, uniform
from ssl_pose.render import Capsules

MATERIALS = ("skin", "hair", "shirt", "trousers", "shoe", "accent", "bag", "eye", "mouth", "shade")

SKIN_TONES = ((0.97, 0.80, 0.69), (0.88, 0.66, 0.52), (0.70, 0.48, 0.35), (0.45, 0.29, 0.20), (0.29, 0.18, 0.13))
HAIR_COLORS = ((0.07, 0.06, 0.06), (0.22, 0.13, 0.08), (0.42, 0.25, 0.13), (0.80, 0.64, 0.36), (0.62, 0.60, 0.58))

# Places in a frame, x to the person's left, y up, z forward: on the head in heights of the head; on the trunk in
# (shoulder half-widths, torso lengths, tenths of a stature).
HEAD_ANCHORS = {
    "skull": (0, 0.12, 0),
    "jaw": (0, -0.2, 0.05),
    "crown": (0, 0.24, -0.09),
    "nape": (0, -0.08, -0.15),
    "mane": (0, -0.85, -0.26),
    "mouth_left": (0.08, -0.25, 0.34),
    "mouth_right": (-0.08, -0.25, 0.34),
    "cap": (0, 0.28, -0.05),
    "peak": (0, 0.24, 0.5),
}
TRUNK_ANCHORS = {
    "chest_left": (0.56, 0.9, 0),
    "chest_right": (-0.56, 0.9, 0),
    "waist_left": (0.36, 0.12, 0),
    "waist_right": (-0.36, 0.12, 0),
    "breastbone": (0, 0.86, 0.05),
    "belly": (0, 0.22, 0.1),
    "throat": (0, 1.02, 0.32),
    "opening": (0, 0.76, 0.42),
    "print_left": (0.3, 0.55, 0.4),
    "print_right": (-0.3, 0.55, 0.4),
    "bag_top": (0, 0.85, -1.0),
    "bag_bottom": (0, 0.4, -1.1),
}


class Outfit(NamedTuple):
    """What N people wear."""

    palette: Tensor  # (N, materials, 3)
    sleeve: Tensor  # (N,) 0 bare arm, 1 to the elbow, 2 to the wrist
    trouser_leg: Tensor  # (N,) 0 bare leg, 1 to the knee, 2 to the ankle
    stripe: Tensor  # (N, materials, 3): period in statures, contrast, lengthwise
    worn: dict[str, Tensor]  # (N,) bool of the optional parts


class Part(NamedTuple):
    """A row of the table: radii in statures (or heights of the head), `nearer` moves it towards the viewer."""

    start: str
    end: str
    radius: tuple[float, float]
    scale: str  # limb, trunk or head: what the radii are multiplied with
    material: str
    nearer: float = 0.0
    beyond: str = ""  # material behind the cut
    cut: str = ""  # which share of the outfit ends the first material
    worn: str = ""  # an optional part


def _pair(part: Part) -> tuple[Part, Part]:
    """The left part and its mirror."""
    return part, part._replace(
        start=part.start.replace("left", "right"), end=part.end.replace("left", "right")
    )


PARTS = (
    *_pair(Part("chest_left", "waist_left", (0.057, 0.058), "trunk", "shirt")),
    Part("left_shoulder", "right_shoulder", (0.036, 0.036), "limb", "shirt"),
    Part("breastbone", "belly", (0.055, 0.066), "trunk", "shirt", 0.006),
    Part("left_hip", "right_hip", (0.062, 0.062), "limb", "trousers", 0.004),
    Part("throat", "opening", (0.021, 0.006), "limb", "skin", 0.012),
    Part("print_left", "print_right", (0.026, 0.026), "limb", "accent", 0.01, worn="print"),
    Part("bag_top", "bag_bottom", (0.07, 0.08), "trunk", "bag", worn="bag"),
    Part("neck", "jaw", (0.033, 0.03), "limb", "skin"),
    Part("skull", "jaw", (0.36, 0.28), "head", "skin", 0.01),
    Part("crown", "nape", (0.41, 0.35), "head", "hair", 0.016, worn="hair"),
    Part("nape", "mane", (0.33, 0.24), "head", "hair", 0.01, worn="long_hair"),
    Part("cap", "peak", (0.36, 0.2), "head", "accent", 0.02, worn="cap"),
    *_pair(Part("left_eye", "left_eye", (0.085, 0.085), "head", "eye", 0.012)),
    Part("mouth_left", "mouth_right", (0.05, 0.05), "head", "mouth", 0.012),
    Part("nose", "nose", (0.085, 0.085), "head", "shade", 0.012),
    *_pair(Part("left_ear", "left_ear", (0.1, 0.09), "head", "shade", 0.012)),
    *_pair(Part("left_shoulder", "left_elbow", (0.034, 0.027), "limb", "shirt", 0.015, "skin", "upper_arm")),
    *_pair(Part("left_elbow", "left_wrist", (0.027, 0.018), "limb", "shirt", 0.015, "skin", "forearm")),
    *_pair(Part("left_wrist", "left_hand", (0.018, 0.025), "limb", "skin", 0.015)),
    *_pair(Part("left_hip", "left_knee", (0.056, 0.038), "limb", "trousers", 0, "skin", "thigh")),
    *_pair(Part("left_knee", "left_ankle", (0.037, 0.022), "limb", "trousers", 0, "skin", "shank")),
    *_pair(Part("left_heel", "left_toe", (0.026, 0.02), "limb", "shoe")),
    Part("pelvis", "skirt", (0.075, 0.125), "trunk", "trousers", 0.03, worn="skirt"),
)


def sample_outfit(draws: Draws) -> Outfit:
    """Skin, hair and clothes of N people."""
    tones = [_blend(draws, table) for table in (SKIN_TONES, HAIR_COLORS)]
    clothes = [color(draws) for _ in range(5)]  # shirt, trousers, shoe, accent, bag
    skin = tones[0]
    suit = happens(draws, 0.12)[:, None]  # shirt and trousers of one colour
    clothes[1] = torch.where(suit, clothes[0], clothes[1])
    face = (skin * 0.15, skin * skin.new_tensor((0.75, 0.4, 0.4)), skin * 0.86)  # eye, mouth, shade
    palette = torch.stack((*tones, *clothes, *face), 1)
    length = choose(draws, (0.15, 0.4, 0.45))
    sleeve = torch.where(length == 2, uniform(draws, 1.8, 2.0), 0.25 + 0.4 * length)
    skirt, shorts = happens(draws, 0.15), happens(draws, 0.3)
    trouser_leg = torch.where(skirt, 0.3, torch.where(shorts, uniform(draws, 0.45, 1.1), 1.93))
    worn = {
        "skirt": skirt,
        "print": happens(draws, 0.5),
        "bag": happens(draws, 0.15),
        "hair": happens(draws, 0.94),
        "long_hair": happens(draws, 0.35),
        "cap": happens(draws, 0.18),
    }
    worn["long_hair"] &= worn["hair"]
    return Outfit(palette, sleeve, trouser_leg, _sample_stripes(draws), worn)


def _blend(draws: Draws, table: tuple) -> Tensor:
    """Colours (N, 3) on the way between neighbouring rows of a table."""
    place = uniform(draws, 0.0, len(table) - 1.001)
    rows = torch.tensor(table, dtype=place.dtype, device=place.device)
    low, share = place.long(), (place - place.floor())[:, None]
    return rows[low] * (1 - share) + rows[low + 1] * share


def _sample_stripes(draws: Draws) -> Tensor:
    """Stripes (N, materials, 3) of shirts and trousers; the contrast of plain ones is 0."""
    stripes = []
    for material in MATERIALS:
        share = {"shirt": 0.4, "trousers": 0.15}.get(material, 0.0)
        period = uniform(draws, 0.035, 0.1)
        contrast = torch.where(happens(draws, share), uniform(draws, 0.25, 0.7), 0.0)
        stripes.append(torch.stack((period, contrast, happens(draws, 0.4).double()), -1))
    return torch.stack(stripes, 1)


def dress_body(body: Body, outfit: Outfit) -> tuple[Capsules, Tensor]:
    """The capsules of N people in space, (N * parts,), and which of them are worn.

    Coordinates and radii are in statures with y up; photo, owner and layer are left at the person's index.
    """
    anchors = _find_anchors(body)
    people = len(body.shape.stature)
    start, end = (torch.stack([anchors[getattr(part, side)] for part in PARTS], 1) for side in ("start", "end"))
    nearer = start.new_tensor([part.nearer for part in PARTS])
    worn = [outfit.worn.get(part.worn, torch.ones_like(outfit.worn["skirt"])) for part in PARTS]
    first, behind = (
        [MATERIALS.index(part.material) for part in PARTS],
        [MATERIALS.index(part.beyond or part.material) for part in PARTS],
    )
    person = torch.arange(people, device=start.device).repeat_interleave(len(PARTS))
    capsules = Capsules(
        photo=person,
        owner=person,
        layer=person,
        depth=((start[..., 2] + end[..., 2]) / 2 + nearer * body.shape.stature[:, None]).flatten(),
        start=start[..., :2].flatten(0, 1),
        end=end[..., :2].flatten(0, 1),
        radius=_find_radii(body).flatten(0, 1),
        color=torch.stack((outfit.palette[:, first], outfit.palette[:, behind]), 2).flatten(0, 1),
        cut=_find_cuts(outfit).flatten(),
        bar=torch.zeros_like(person, dtype=torch.bool),
        stripe=outfit.stripe[:, first].flatten(0, 1),
    )
    return capsules, torch.stack(worn, 1).flatten()


def _find_anchors(body: Body) -> dict[str, Tensor]:
    """All points (N, 3) between which parts span."""
    shape, frames = body.shape, body.frames
    anchors = dict(body.points)
    for name, place in HEAD_ANCHORS.items():
        anchors[name] = body.points["head"] + at(frames["head"], shape.head, place)
    units = torch.stack((shape.shoulder_half_width, shape.torso, 0.1 * shape.stature * shape.trunk_girth), -1)
    for name, place in TRUNK_ANCHORS.items():
        anchors[name] = (frames["chest"] @ (units * units.new_tensor(place))[..., None])[..., 0]
    knees = (body.points["left_knee"] + body.points["right_knee"]) / 2
    anchors["skirt"] = 0.25 * body.points["pelvis"] + 0.75 * knees
    return anchors


def _find_radii(body: Body) -> Tensor:
    """Radii (N, parts, 2) at both ends, in statures."""
    shape = body.shape
    scales = {
        "limb": shape.stature * shape.limb_girth,
        "trunk": shape.stature * shape.trunk_girth,
        "head": shape.head,
    }
    return torch.stack([scales[part.scale][:, None] * scales["head"].new_tensor(part.radius) for part in PARTS], 1)


def _find_cuts(outfit: Outfit) -> Tensor:
    """Share (N, parts) of each axis that has the part's first material."""
    cuts = {
        "": torch.ones_like(outfit.sleeve),
        "upper_arm": outfit.sleeve.clamp(0, 1),
        "forearm": (outfit.sleeve - 1).clamp(-1, 1),
        "thigh": outfit.trouser_leg.clamp(0, 1),
        "shank": (outfit.trouser_leg - 1).clamp(-1, 1),
    }
    return torch.stack([cuts[part.cut] for part in PARTS], 1)

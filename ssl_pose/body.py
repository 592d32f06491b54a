"""People as 3D kinematic skeletons: body shapes, poses, and the points that both of them put into space.

Space: x to the viewer's right, y up, z towards the viewer, the pelvis at the origin; one unit is an average adult's
stature. A person at yaw 0 faces the viewer, so that the person's left (+x of its own frame) is on the right of the
photo. Angles are degrees; arrays with a pair axis hold (left, right). Proportions follow common anthropometric tables,
rounded; they are this project's own choice, as are the ranges of the poses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_pose.draws import Draws, choose, happens, normal, uniform, within

# share of people, then ranges in degrees: hip flexion, hip abduction, knee flexion, forward lean
LEG_POSES = (
    (0.46, (-8, 12), (0, 10), (0, 10), (-3, 8)),  # standing
    (0.27, (-25, 40), (-3, 8), (5, 60), (0, 15)),  # walking, running
    (0.08, (-20, 60), (5, 30), (0, 80), (-5, 25)),  # a wide stance
    (0.09, (65, 100), (0, 25), (60, 110), (-10, 25)),  # sitting
    (0.04, (60, 115), (5, 35), (90, 140), (10, 45)),  # crouching
    (0.06, (-20, 80), (0, 40), (0, 90), (-20, 15)),  # kicking, dancing
)

# share of arms, then ranges in degrees: shoulder flexion, abduction, inward twist, elbow flexion
ARM_POSES = (
    (0.40, (-15, 20), (3, 18), (-20, 60), (0, 35)),  # hanging
    (0.25, (-25, 40), (8, 45), (-20, 85), (50, 130)),  # bent, a hand on the hip or before the body
    (0.15, (0, 30), (100, 170), (-40, 40), (0, 80)),  # raised
    (0.10, (-20, 20), (55, 100), (-90, 90), (0, 90)),  # out to the side
    (0.10, (45, 100), (-10, 30), (-20, 50), (0, 80)),  # reaching forward
)

# Places on the head in its own frame (x to the person's left, y up, z out of the face), in heights of the head.
FACE = {
    "nose": (0.0, -0.05, 0.42),
    "left_eye": (0.17, 0.07, 0.34),
    "right_eye": (-0.17, 0.07, 0.34),
    "left_ear": (0.38, 0.0, -0.02),
    "right_ear": (-0.38, 0.0, -0.02),
}


class Shape(NamedTuple):
    """Lengths (N,) in statures of an average adult; `limb_girth` and `trunk_girth` multiply radii."""

    stature: Tensor
    torso: Tensor
    shoulder_half_width: Tensor
    hip_half_width: Tensor
    neck: Tensor
    head: Tensor
    upper_arm: Tensor
    forearm: Tensor
    thigh: Tensor
    shank: Tensor
    limb_girth: Tensor
    trunk_girth: Tensor


class Pose(NamedTuple):
    """Angles in degrees: of the whole body, the spine and the head (N,), of the limbs (N, 2) for left and right."""

    yaw: Tensor
    elevation: Tensor
    roll: Tensor
    lean: Tensor
    bend: Tensor
    twist: Tensor
    head_yaw: Tensor
    head_nod: Tensor
    head_tilt: Tensor
    hip_flexion: Tensor
    hip_abduction: Tensor
    knee: Tensor
    shoulder_flexion: Tensor
    shoulder_abduction: Tensor
    arm_twist: Tensor
    elbow: Tensor


class Body(NamedTuple):
    """Named points (N, 3) and frames (N, 3, 3) (columns: the person's left, up, forward) in space."""

    points: dict[str, Tensor]
    frames: dict[str, Tensor]
    shape: Shape


def turn(axis: str, degrees: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3): about x turns y to z, about y turns z to x, about z turns x to y."""
    angle = torch.deg2rad(degrees)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = {
        "x": (one, zero, zero, zero, cos, -sin, zero, sin, cos),
        "y": (cos, zero, sin, zero, one, zero, -sin, zero, cos),
        "z": (cos, -sin, zero, sin, cos, zero, zero, zero, one),
    }
    return torch.stack(rows[axis], -1).unflatten(-1, (3, 3))


def sample_shape(draws: Draws) -> Shape:
    """Adults of varied build, and one child in five, with a child's proportions."""
    child, growth = happens(draws, 0.2), uniform(draws, 0.55, 0.82)
    stature = torch.where(child, growth, normal(draws, 1.0, 0.05))
    youth = torch.where(child, (1 - growth) / 0.45, 0.0)

    def length(share: float, for_a_child: float = 1.0) -> Tensor:
        return normal(draws, share, 0.05 * share) * stature * (1 + (for_a_child - 1) * youth)

    return Shape(
        stature=stature,
        torso=length(0.285, 1.05),
        shoulder_half_width=length(0.097),
        hip_half_width=length(0.05),
        neck=length(0.045, 0.8),
        head=length(0.14, 1.6),
        upper_arm=length(0.17, 0.9),
        forearm=length(0.145, 0.9),
        thigh=length(0.24, 0.85),
        shank=length(0.235, 0.85),
        limb_girth=normal(draws, 1.08, 0.13),
        trunk_girth=uniform(draws, 0.85, 1.3),
    )


def sample_pose(draws: Draws) -> Pose:
    """Standing, walking, sitting, crouching, lying people, seen from all around, more often from the front."""
    facing = choose(draws, (0.55, 0.25, 0.20))
    jitter, anywhere = normal(draws, 0.0, 25.0), uniform(draws, -180.0, 180.0)
    yaw = torch.where(facing == 2, anywhere, jitter + 180.0 * facing)
    lying, side = happens(draws, 0.03), happens(draws, 0.5)
    roll = normal(draws, 0.0, 6.0) + torch.where(lying, 90.0 - 180.0 * side, 0.0)
    legs = _sample_limbs(draws, LEG_POSES, same_share=1.0)
    arms = _sample_limbs(draws, ARM_POSES, same_share=0.5)
    return Pose(
        yaw=yaw,
        elevation=uniform(draws, -5.0, 20.0),
        roll=roll,
        lean=legs[3][:, 0],
        bend=normal(draws, 0.0, 6.0),
        twist=normal(draws, 0.0, 12.0),
        head_yaw=normal(draws, 0.0, 25.0),
        head_nod=normal(draws, 5.0, 12.0),
        head_tilt=normal(draws, 0.0, 7.0),
        hip_flexion=legs[0],
        hip_abduction=legs[1],
        knee=legs[2],
        shoulder_flexion=arms[0],
        shoulder_abduction=arms[1],
        arm_twist=arms[2],
        elbow=arms[3],
    )


def _sample_limbs(draws: Draws, poses: tuple, same_share: float) -> list[Tensor]:
    """Four angles (N, 2) each for a left and a right limb that share their kind of pose with `same_share`."""
    shares = [row[0] for row in poses]
    left, other, same = choose(draws, shares), choose(draws, shares), happens(draws, same_share)
    right = torch.where(same, left, other)
    ranges = torch.tensor([row[1:] for row in poses], dtype=torch.float64, device=left.device)  # (P, 4, 2)
    return [
        torch.stack([within(draws, ranges[kind, angle]) for kind in (left, right)], -1) for angle in range(4)
    ]


def pose_body(shape: Shape, pose: Pose) -> Body:
    """The body's joints, hands, toes and facial points, and the frames of pelvis, chest and head."""
    pelvis = turn("z", pose.roll) @ turn("x", pose.elevation) @ turn("y", pose.yaw)
    chest = pelvis @ turn("x", pose.lean) @ turn("z", pose.bend) @ turn("y", pose.twist)
    head = chest @ turn("y", pose.head_yaw) @ turn("x", pose.head_nod) @ turn("z", pose.head_tilt)
    zero = torch.zeros_like(shape.stature)
    points = {"pelvis": torch.stack((zero, zero, zero), -1)}
    points["neck"] = _along(chest, 1, shape.torso)
    points["head"] = points["neck"] + _along(chest, 1, shape.neck) + _along(head, 1, 0.5 * shape.head)
    for name, offset in FACE.items():
        points[name] = points["head"] + at(head, shape.head, offset)
    for side, name in enumerate(("left", "right")):
        points |= {f"{name}_{part}": point for part, point in _arm(shape, pose, chest, points, side).items()}
        points |= {f"{name}_{part}": point for part, point in _leg(shape, pose, pelvis, side).items()}
    return Body(points, {"pelvis": pelvis, "chest": chest, "head": head}, shape)


def _arm(shape: Shape, pose: Pose, chest: Tensor, points: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    outward = 1 - 2 * side
    upper = chest @ turn("z", outward * pose.shoulder_abduction[:, side])
    upper = upper @ turn("x", -pose.shoulder_flexion[:, side]) @ turn("y", -outward * pose.arm_twist[:, side])
    fore = upper @ turn("x", -pose.elbow[:, side])
    shoulder = points["neck"] + _along(chest, 0, outward * shape.shoulder_half_width)
    elbow = shoulder - _along(upper, 1, shape.upper_arm)
    wrist = elbow - _along(fore, 1, shape.forearm)
    hand = wrist - _along(fore, 1, 0.3 * shape.forearm)
    return {"shoulder": shoulder, "elbow": elbow, "wrist": wrist, "hand": hand}


def _leg(shape: Shape, pose: Pose, pelvis: Tensor, side: int) -> dict[str, Tensor]:
    outward = 1 - 2 * side
    thigh = pelvis @ turn("z", outward * pose.hip_abduction[:, side])
    thigh = thigh @ turn("x", -pose.hip_flexion[:, side])
    shank = thigh @ turn("x", pose.knee[:, side])
    hip = _along(pelvis, 0, outward * shape.hip_half_width)
    knee = hip - _along(thigh, 1, shape.thigh)
    ankle = knee - _along(shank, 1, shape.shank)
    heel = ankle - _along(shank, 1, 0.09 * shape.shank)
    toe = heel + _along(shank, 2, 0.4 * shape.shank) - _along(shank, 1, 0.06 * shape.shank)
    return {"hip": hip, "knee": knee, "ankle": ankle, "heel": heel, "toe": toe}


def at(frame: Tensor, unit: Tensor, offset: tuple[float, float, float]) -> Tensor:
    """Offsets (N, 3) in space of a place given in its own frame (N, 3, 3), in `unit`s (N,)."""
    return (frame @ frame.new_tensor(offset)) * unit[:, None]


def _along(frame: Tensor, axis: int, length: Tensor) -> Tensor:
    return frame[..., axis] * length[:, None]

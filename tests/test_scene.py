"""Photos of people: keypoints lie on the right part, visibility is what the painting order says."""

import pytest
import torch

from ssl_pose.body import Pose, Shape, pose_body
from ssl_pose.clothing import MATERIALS, PARTS, Outfit, dress_body
from ssl_pose.render import Capsules, join_capsules, paint, snap_capsules, sort_capsules
from ssl_pose.scene import Placement, draw_photo, project_capsules, render_photos, see_people
from ssl_pose.skeleton import KEYPOINT_NAMES

SIZE = (160, 120)  # height, width
PROPORTIONS = {
    "stature": 1.0,
    "torso": 0.285,
    "shoulder_half_width": 0.097,
    "hip_half_width": 0.05,
    "neck": 0.045,
    "head": 0.14,
    "upper_arm": 0.17,
    "forearm": 0.145,
    "thigh": 0.24,
    "shank": 0.235,
    "limb_girth": 1.0,
    "trunk_girth": 1.0,
}
KNEE = KEYPOINT_NAMES.index("left_knee")


def adult(yaw=0.0, shoulder_abduction=(25.0, 25.0)):
    """A standing adult, arms a little away from the trunk."""
    shape = Shape(*(torch.tensor([PROPORTIONS[name]], dtype=torch.float64) for name in Shape._fields))
    angles = {"yaw": yaw, "shoulder_abduction": shoulder_abduction}
    first_pair = Pose._fields.index("hip_flexion")
    pose = [angles.get(name, 0.0 if i < first_pair else (0.0, 0.0)) for i, name in enumerate(Pose._fields)]
    return pose_body(shape, Pose(*(torch.tensor([angle], dtype=torch.float64) for angle in pose)))


def outfit():
    """Plain clothes, long sleeves and trousers, hair, nothing carried."""
    worn = {part.worn: torch.tensor([part.worn == "hair"]) for part in PARTS if part.worn}
    stripe = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1, len(MATERIALS), 3)
    palette = torch.rand(1, len(MATERIALS), 3, dtype=torch.float64)
    return Outfit(palette, torch.tensor([2.0]), torch.tensor([2.0]), stripe, worn)


def photograph(body, center=(60.0, 80.0), obstacle=None):
    """The people, the painted capsules (and the topmost of every pixel), of one person 130 px tall."""
    place = Placement(
        torch.tensor([center], dtype=torch.float64),
        torch.tensor([[0.0, 0.0]], dtype=torch.float64),
        torch.tensor([130.0], dtype=torch.float64),
    )
    photo = torch.tensor([0])
    parts = [project_capsules(*dress_body(body, outfit()), photo, place)]
    table, step = sort_capsules(snap_capsules(join_capsules(parts + ([obstacle] if obstacle else []))))
    _, top = paint(torch.zeros(1, *SIZE, 3), torch.ones(1, *SIZE), torch.zeros(1, 2), table, step)
    return see_people(body, photo, place, table, top), table, top


def disc(center, layer):
    """An occluder of 8 px radius."""
    center = torch.as_tensor([center], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.int64)
    return Capsules(
        photo=zero,
        owner=zero - 1,
        layer=torch.tensor([layer], dtype=torch.float64),
        depth=torch.zeros(1, dtype=torch.float64),
        start=center,
        end=center,
        radius=torch.full((1, 2), 8.0, dtype=torch.float64),
        color=torch.ones(1, 2, 3, dtype=torch.float64),
        cut=torch.ones(1, dtype=torch.float64),
        bar=torch.zeros(1, dtype=torch.bool),
        stripe=torch.tensor([[5.0, 0.0, 0.0]], dtype=torch.float64),
    )


@pytest.mark.parametrize("yaw", [0.0, 35.0, 180.0, -140.0])
def test_every_visible_joint_is_painted_with_a_part_that_meets_it(yaw):
    body = adult(yaw)
    (keypoints, visibility, _), _, top = photograph(body)
    wearing = [part for part in PARTS if part.worn in ("", "hair")]
    order = project_order(body)
    for joint, name in enumerate(KEYPOINT_NAMES):
        if visibility[0, joint] != 2 or "eye" in name or "ear" in name or name == "nose":
            continue
        x, y = keypoints[0, joint].round().long()
        part = wearing[order[int(top[0, y, x])]]
        around = {"shoulder": "shirt", "hip": "trousers", "ankle": "shoe"}.get(name.split("_")[1])
        assert name in (part.start, part.end) or part.material == around, (name, part)


def project_order(body):
    """Which worn part stands at each place of the painting order: painting is by depth within one person."""
    capsules, worn = dress_body(body, outfit())
    return torch.argsort(snap_capsules(capsules).depth[worn], stable=True).tolist()


def test_left_and_right_change_sides_between_a_front_and_a_back_view_but_both_are_labelled():
    (front, seen_front, _), *_ = photograph(adult(0.0))
    (back, seen_back, _), *_ = photograph(adult(180.0))
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        left, right = KEYPOINT_NAMES.index(f"left_{name}"), KEYPOINT_NAMES.index(f"right_{name}")
        assert front[0, left, 0] > front[0, right, 0]
        assert back[0, left, 0] < back[0, right, 0]
        assert (seen_front[0, [left, right]] == 2).all()
        assert (seen_back[0, [left, right]] == 2).all()


def test_a_face_is_labelled_from_the_front_not_from_behind_and_in_profile_on_the_near_side_only():
    face = range(5)
    assert photograph(adult(0.0))[0][1][0, face].tolist() == [2, 2, 2, 2, 2]
    assert photograph(adult(180.0))[0][1][0, face].tolist() == [0, 0, 0, 0, 0]
    # At yaw 90 the person looks to the right of the photo and shows its right side.
    assert photograph(adult(90.0))[0][1][0, face].tolist() == [2, 0, 2, 0, 2]


def test_a_wrist_behind_the_own_back_is_occluded():
    body = adult(0.0)
    wrist = KEYPOINT_NAMES.index("left_wrist")
    body.points["left_wrist"] = torch.tensor([[0.0, 0.15, -0.2]], dtype=torch.float64)
    assert photograph(body)[0][1][0, wrist] == 1
    body.points["left_wrist"] = torch.tensor([[0.0, 0.15, 0.2]], dtype=torch.float64)
    assert photograph(body)[0][1][0, wrist] == 2


@pytest.mark.parametrize(("layer", "visibility"), [(131.0, 1), (129.0, 2), (-1.0, 2)])
def test_a_joint_is_occluded_by_what_stands_before_the_person_only(layer, visibility):
    body = adult()
    (keypoints, *_), *_ = photograph(body)
    (_, seen, area), *_ = photograph(body, obstacle=disc(keypoints[0, KNEE].tolist(), layer))
    assert seen[0, KNEE] == visibility
    assert seen[0, KEYPOINT_NAMES.index("right_shoulder")] == 2
    assert (area < photograph(body)[0][2]).item() == (visibility == 1)


def test_a_joint_outside_the_photo_has_visibility_0_up_to_the_border_pixel():
    (keypoints, *_), *_ = photograph(adult())
    offset = keypoints[0, KNEE].double() - torch.tensor([60.0, 80.0])
    for edge, visibility in ((0.0, 2), (-0.4, 2), (-0.6, 0)):
        (_, seen, _), *_ = photograph(adult(), center=(edge - offset[0].item(), 80.0))
        assert seen[0, KNEE] == visibility


def test_the_area_is_the_number_of_pixels_inside_the_union_of_the_capsules():
    (_, _, area), table, _ = photograph(adult(20.0))
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    pixels = torch.stack((x, y), -1).double()[:, :, None]  # (H, W, 1, 2)
    axis = (table.end - table.start).double()
    share = ((pixels - table.start) * axis).sum(-1) / (axis * axis).sum(-1).clamp(min=1e-6)
    share = share.clamp(0, 1)[..., None]
    radius = table.radius[:, :1] + share * (table.radius[:, 1:] - table.radius[:, :1])
    inside = (pixels - table.start - share * axis).norm(dim=-1) <= radius[..., 0]
    assert area.item() == pytest.approx(inside.any(-1).sum().item(), abs=2)


def test_a_photo_does_not_depend_on_its_batch():
    size = (48, 80)
    draws = [draw_photo(5, 0, index, size, 3.0) for index in range(7)]
    together, people = render_photos(draws, size)
    for index in (0, 3, 6):
        alone, person = render_photos(draws[index : index + 1], size)
        rows = people.photo == index
        assert torch.equal(together[index], alone[0])
        for name in ("keypoints", "visibility", "area"):
            assert torch.equal(getattr(people, name)[rows], getattr(person, name))


def test_a_photo_does_not_depend_on_the_number_of_threads():
    size, threads, photos = (64, 96), torch.get_num_threads(), []
    draws = [draw_photo(4, 0, index, size, 3.0) for index in range(8)]
    for count in (1, 2):
        torch.set_num_threads(count)
        photos.append(render_photos(draws, size)[0])
    torch.set_num_threads(threads)
    assert torch.equal(*photos)


def test_global_random_numbers_are_neither_used_nor_changed():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, _ = render_photos([draw_photo(1, 0, 0, (40, 56), 2.0)], (40, 56))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(99)
    second, _ = render_photos([draw_photo(1, 0, 0, (40, 56), 2.0)], (40, 56))
    assert torch.equal(first, second)


def test_seed_split_and_index_each_give_another_photo():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = [draw_photo(*key, (40, 56), 2.0).photo[0, 0] for key in keys]
    assert len(set(draws)) == len(keys)


def test_the_mean_number_of_people_is_near_the_parameter():
    counts = [len(draw_photo(0, 0, index, (32, 32), 3.0).people) for index in range(600)]
    assert sum(counts) / 600 == pytest.approx(3.0, abs=0.2)  # three standard errors: 1.41 * 3 / sqrt(600)
    assert {1, 2, 3, 4, 5} <= set(counts)
    assert {len(draw_photo(0, 0, index, (32, 32), 1.0).people) for index in range(20)} == {1}

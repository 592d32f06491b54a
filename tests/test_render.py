"""The rasteriser against areas by formula, and against a look at every pixel."""

import math

import pytest
import torch

from ssl_pose.render import Capsules, expose, find_fragments, paint, snap_capsules, sort_capsules

SIZE = (40, 60)  # height, width


def capsules(*rows):
    """Capsules from dictionaries: start, end, radius, and what else differs from a white one in layer 0."""
    plain = {"photo": 0, "owner": -1, "layer": 0.0, "depth": 0.0, "cut": 1.0, "bar": False, "stripe": (5.0, 0.0, 0.0)}
    plain["color"] = ((1.0,) * 3,) * 2
    rows = [plain | row for row in rows]
    kinds = {"photo": torch.int64, "owner": torch.int64, "bar": torch.bool}
    columns = [torch.tensor([row[name] for row in rows], dtype=kinds.get(name)) for name in Capsules._fields]
    return sort_capsules(snap_capsules(Capsules(*columns)))


def paint_plain(table, step, photos=1):
    """Painted on black, without light or texture."""
    return paint(torch.zeros(photos, *SIZE, 3), torch.ones(photos, *SIZE), torch.zeros(photos, 2), table, step)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ({"start": (20.3, 15.6), "end": (20.3, 15.6), "radius": (9.0, 9.0)}, math.pi * 81),
        ({"start": (15.0, 12.0), "end": (39.0, 22.0), "radius": (6.0, 6.0)}, math.pi * 36 + 12 * 26),
        ({"start": (15.0, 12.0), "end": (39.0, 22.0), "radius": (6.0, 6.0), "bar": True}, 12 * 26),
    ],
    ids=["disc", "capsule", "bar"],
)
def test_the_pixels_of_a_shape_add_up_to_its_area(shape, area):
    _, top = paint_plain(*capsules(shape))
    assert (top == 0).sum().item() == pytest.approx(area, rel=0.03)


def test_a_disc_at_a_pixel_centre_is_its_own_mirror_image():
    image, _ = paint_plain(*capsules({"start": (29.0, 19.0), "end": (29.0, 19.0), "radius": (7.5, 7.5)}))
    window = image[0, 19 - 9 : 19 + 10, 29 - 9 : 29 + 10]
    assert window.sum() > 0
    assert (image > 0).sum() == (window > 0).sum()
    for axis in (0, 1):
        torch.testing.assert_close(window, window.flip(axis))


def test_the_window_of_a_capsule_misses_no_pixel_of_it():
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "start": (torch.rand(2, generator=generator) * 80 - 10).tolist(),
            "end": (torch.rand(2, generator=generator) * 80 - 10).tolist(),
            "radius": (torch.rand(2, generator=generator) * 8 + 1).tolist(),
            "bar": index % 2 == 1,
        }
        for index in range(40)
    ]
    for row in rows:
        distance = signed_distance(row)
        _, top = paint_plain(*capsules(row))
        assert (top[0][distance < -0.05] == 0).all()
        assert (top[0][distance > 0.05] == -1).all()


def signed_distance(row):
    """Signed distance (H, W) of every pixel centre to the outline, negative inside; of a bar, the larger of two."""
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    (ax, ay), (bx, by), (first, last) = row["start"], row["end"], row["radius"]
    length = math.hypot(bx - ax, by - ay)
    along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length
    across = ((x - ax) * (by - ay) - (y - ay) * (bx - ax)).abs() / length
    share = (along / length).clamp(0, 1)
    radius = first + share * (last - first)
    if row["bar"]:
        return torch.stack((-along, along - length, across - radius)).amax(0)
    return torch.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay)) - radius


def test_fragments_stay_inside_the_photo():
    table, _ = capsules({"start": (-20.0, 10.0), "end": (90.0, 55.0), "radius": (9.0, 3.0)})
    _, x, y = find_fragments(table, SIZE)
    assert x.min() >= 0
    assert x.max() < SIZE[1]
    assert y.min() >= 0
    assert y.max() < SIZE[0]


def test_a_capsule_wholly_outside_the_photo_leaves_no_trace():
    image, top = paint_plain(*capsules({"start": (-50.0, 5.0), "end": (-30.0, 5.0), "radius": (9.0, 9.0)}))
    assert image.sum() == 0
    assert (top == -1).all()


@pytest.mark.parametrize(
    ("layers", "depths", "winner"), [((0, 1), (5, 0), 1), ((2, 2), (5, 0), 0), ((2, 1), (0, 5), 0)]
)
def test_the_higher_layer_then_the_larger_depth_is_on_top(layers, depths, winner):
    place = {"start": (20.0, 20.0), "end": (30.0, 20.0), "radius": (5.0, 5.0)}
    rows = [place | {"layer": float(layers[i]), "depth": float(depths[i]), "owner": i} for i in range(2)]
    table, step = capsules(*rows)
    _, top = paint_plain(table, step)
    assert table.owner[top[0, 20, 25]] == winner


def test_the_second_colour_begins_behind_the_cut():
    row = {"start": (10.0, 20.0), "end": (50.0, 20.0), "radius": (6.0, 6.0), "cut": 0.5}
    image, _ = paint_plain(*capsules(row | {"color": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))}))
    assert image[0, 20, 25].tolist() == [1, 0, 0]
    assert image[0, 20, 35].tolist() == [0, 0, 1]


def test_a_photo_does_not_depend_on_the_photos_beside_it():
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index in range(30):
        coordinates = (torch.rand(4, generator=generator) * 50).tolist()
        rows.append({"photo": index % 3, "start": coordinates[:2], "end": coordinates[2:], "radius": (4.0, 2.0)})
    together, _ = paint_plain(*capsules(*rows), photos=3)
    for photo in range(3):
        alone, _ = paint_plain(*capsules(*(row | {"photo": 0} for row in rows if row["photo"] == photo)))
        assert torch.equal(together[photo], alone[0])


def test_a_neutral_camera_changes_nothing_and_blur_keeps_a_constant_image():
    image = torch.rand(1, *SIZE, 3, generator=torch.Generator().manual_seed(0))
    grain = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    neutral = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    assert torch.equal(expose(image, grain, neutral), (image * 255).round().to(torch.uint8))
    blurred = torch.cat((torch.ones(1, 1), neutral[:, 1:]), 1)
    assert (expose(torch.full_like(image, 0.4), grain, blurred) == 102).all()

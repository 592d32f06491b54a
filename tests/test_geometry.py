"""Matrices, warped points and warped images agree: on non-square views, under flips, and at borders."""

import math

import pytest
import torch

from ssl_pose import geometry
from ssl_pose.heatmap import (
    decode_heatmaps,
    heatmap_to_image_points,
    image_to_heatmap_points,
    render_heatmaps,
)
from ssl_pose.skeleton import FLIP_PERMUTATION, NUM_KEYPOINTS

SOURCE_SIZE, SIZE = (72, 54), (64, 40)
FLIPS = torch.tensor([False, True, False, True])


def sample_matrices(flips: torch.Tensor = FLIPS) -> torch.Tensor:
    """Four maps of SOURCE_SIZE into SIZE, each with its own turn, zoom, shift and flip."""
    turn = geometry.rotation(torch.tensor([0.0, 25.0, -40.0, 90.0]))
    zoom = geometry.scaling(torch.tensor([0.8, 0.9, 1.1, 0.75]))
    source_center, center = geometry.view_center(SOURCE_SIZE), geometry.view_center(SIZE)
    offset = torch.tensor([[2.3, -1.7], [-3.1, 0.4], [0.0, 2.6], [1.9, 1.1]])
    into_view = geometry.translation(offset + center - source_center)
    return into_view @ geometry.about(turn @ zoom @ geometry.reflection(flips), source_center)


def sample_points(batch: int = 4) -> torch.Tensor:
    """Points (batch, 17, 2) in the middle of SOURCE_SIZE, so that every view above still shows them."""
    unit = torch.rand(batch, NUM_KEYPOINTS, 2, generator=torch.Generator().manual_seed(0))
    return geometry.view_center(SOURCE_SIZE) + (unit - 0.5) * 20


def test_a_positive_angle_turns_x_towards_y():
    turned = geometry.transform_points(geometry.rotation(torch.tensor([90.0])), torch.tensor([[[1.0, 0.0]]]))
    torch.testing.assert_close(turned, torch.tensor([[[0.0, 1.0]]]))


def test_the_center_of_a_view_is_between_its_first_and_last_pixel_centre():
    assert geometry.view_center((64, 48)).tolist() == [23.5, 31.5]
    assert geometry.view_center((5, 3)).tolist() == [1.0, 2.0]


def test_a_map_about_a_center_keeps_the_center():
    center = torch.tensor([[3.0, 7.0], [-2.0, 5.5]])
    matrix = geometry.about(geometry.rotation(torch.tensor([33.0, 120.0])), center)
    torch.testing.assert_close(geometry.transform_points(matrix, center[:, None]), center[:, None])


def test_a_product_applies_the_right_factor_first():
    first = geometry.translation(torch.tensor([[1.0, 0.0]]))
    second = geometry.scaling(torch.tensor([2.0]))
    moved = geometry.transform_points(second @ first, torch.tensor([[[3.0, 5.0]]]))
    assert moved.tolist() == [[[8.0, 10.0]]]


def test_the_inverse_is_that_of_linear_algebra_and_undoes_the_map():
    matrix = sample_matrices()
    inverse = geometry.invert_affine(matrix)
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix))
    points = sample_points()
    back = geometry.transform_points(inverse, geometry.transform_points(matrix, points))
    torch.testing.assert_close(back, points, atol=1e-4, rtol=0)
    assert torch.equal(inverse[:, 2], torch.tensor([[0.0, 0.0, 1.0]] * 4))


def test_a_warped_image_shows_its_blobs_where_the_warped_points_are():
    matrix, points = sample_matrices(), sample_points()
    images = render_heatmaps(points, SOURCE_SIZE, sigma=3.0)
    warped = geometry.warp_images(images, matrix, SIZE)
    expected = geometry.transform_points(matrix, points)
    assert geometry.points_inside(expected, SIZE).all()  # no blob left the view
    decoded, peak = decode_heatmaps(warped, "dark", sigma=3.0)
    assert (decoded - expected).norm(dim=-1).max() < 0.1
    assert peak.min() > 0.9


def test_a_warp_into_a_view_and_back_returns_every_keypoint_to_its_channel():
    matrix, points = sample_matrices(), sample_points()
    heatmaps = render_heatmaps(points, SOURCE_SIZE, sigma=3.0)
    in_view = geometry.warp_heatmaps(heatmaps, matrix, SIZE, FLIPS)
    back = geometry.warp_heatmaps(in_view, geometry.invert_affine(matrix), SOURCE_SIZE, FLIPS)
    decoded, _ = decode_heatmaps(back, "dark", sigma=3.0)
    assert (decoded - points).norm(dim=-1).max() < 0.1
    shown, _ = decode_heatmaps(in_view, "dark", sigma=3.0)
    expected = geometry.flip_points(geometry.transform_points(matrix, points), FLIPS)
    assert (shown - expected).norm(dim=-1).max() < 0.1


def test_the_mirror_matrix_is_the_flip_of_the_array_with_no_shift():
    images = torch.rand(2, 3, 6, 9)
    mirror = geometry.about(geometry.reflection(torch.tensor([True, False])), geometry.view_center((6, 9)))
    warped = geometry.warp_images(images, mirror, (6, 9))
    torch.testing.assert_close(warped[0], images[0].flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(warped[1], images[1], atol=1e-5, rtol=0)


def test_the_mirror_of_image_pixels_is_the_flip_of_the_heatmap_array():
    height, width, stride = 32, 24, 4
    mirror = geometry.about(geometry.reflection(torch.tensor([True])), geometry.view_center((height, width)))
    heatmaps = torch.rand(1, NUM_KEYPOINTS, height // stride, width // stride)
    warped = geometry.warp_heatmaps(
        heatmaps, geometry.to_heatmap_matrix(mirror, stride), heatmaps.shape[-2:], torch.tensor([True])
    )
    torch.testing.assert_close(warped, heatmaps.flip(-1)[:, list(FLIP_PERMUTATION)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("alignment", ["centre", "corner"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_heatmap_matrix_maps_cells_as_the_image_matrix_maps_their_pixels(stride, alignment):
    matrix, cells = sample_matrices(), sample_points() / stride
    mapped = geometry.transform_points(geometry.to_heatmap_matrix(matrix, stride, alignment), cells)
    pixels = geometry.transform_points(matrix, heatmap_to_image_points(cells, stride, alignment))
    torch.testing.assert_close(mapped, image_to_heatmap_points(pixels, stride, alignment), atol=1e-4, rtol=0)


def test_one_warp_by_a_product_is_close_to_two_warps():
    first, points = sample_matrices(), sample_points()
    second = geometry.about(geometry.rotation(torch.full((4,), 10.0)), geometry.view_center(SIZE))
    images = render_heatmaps(points, SOURCE_SIZE, sigma=4.0)
    once = geometry.warp_images(images, second @ first, SIZE)
    twice = geometry.warp_images(geometry.warp_images(images, first, SIZE), second, SIZE)
    whole = geometry.warp_images(torch.ones(4, 1, *SIZE), second, SIZE) > 0.999  # border pixels are part fill
    assert ((once - twice).abs() * whole).max() < 0.05


def test_outside_of_the_source_is_the_fill_of_each_channel():
    shift = geometry.translation(torch.tensor([[4.0, 0.0]]))
    images = torch.full((1, 3, 5, 7), 0.25)
    fill = torch.tensor([0.1, 0.5, 0.9])
    warped = geometry.warp_images(images, shift, (5, 7), fill=fill)
    torch.testing.assert_close(warped[0, :, :, :4], fill[:, None, None].expand(3, 5, 4))
    torch.testing.assert_close(warped[0, :, :, 4:], torch.full((3, 5, 3), 0.25))
    assert geometry.warp_images(images, shift, (5, 7))[0, :, :, :4].abs().max() < 1e-6


def test_bytes_are_warped_as_their_values():
    images = torch.randint(0, 256, (4, 3, *SOURCE_SIZE), dtype=torch.uint8)
    matrix = sample_matrices()
    assert torch.equal(
        geometry.warp_images(images, matrix, SIZE, fill=114.0),
        geometry.warp_images(images.float(), matrix, SIZE, fill=114.0),
    )


def test_a_mask_ends_half_a_pixel_beyond_the_outer_pixel_centres():
    shift = geometry.translation(torch.tensor([[0.5, 0.0], [0.51, 0.0], [-0.5, -2.0], [0.0, 0.51]]))
    mask = geometry.inside_mask(shift, (4, 6), (4, 6))
    assert mask.shape == (4, 1, 4, 6)
    assert mask[0].all()
    assert not mask[1, 0, :, 0].any()
    assert mask[1, 0, :, 1:].all()
    assert mask[2, 0, :2].all()
    assert not mask[2, 0, 2:].any()
    assert not mask[3, 0, 0].any()


def test_a_mask_says_where_a_warp_of_ones_is_at_least_a_half():
    matrix = sample_matrices()
    ones = geometry.warp_images(torch.ones(4, 1, *SOURCE_SIZE), matrix, (90, 70))
    mask = geometry.inside_mask(matrix, SOURCE_SIZE, (90, 70))
    assert mask[ones > 0.999].all()
    assert not mask[ones < 0.001].any()


def test_points_are_inside_up_to_the_outer_edges_of_the_border_pixels():
    points = torch.tensor([[-0.5, -0.5], [5.5, 3.5], [-0.6, 0.0], [0.0, 3.6], [math.nan, 0.0]])
    assert geometry.points_inside(points, (4, 6)).tolist() == [True, True, False, False, False]


def test_a_flip_exchanges_sides_only_where_it_is_asked_for():
    points = sample_points(batch=2)
    flipped = geometry.flip_points(points, torch.tensor([True, False]))
    assert torch.equal(flipped[0], points[0, list(FLIP_PERMUTATION)])
    assert torch.equal(flipped[1], points[1])
    weights, both = torch.rand(2, NUM_KEYPOINTS), torch.tensor([True, True])
    assert torch.equal(geometry.flip_points(geometry.flip_points(weights, both), both), weights)


def test_a_wrong_number_of_matrices_or_keypoints_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="3 images need 3 matrices, got 4"):
        geometry.warp_images(torch.zeros(3, 1, 8, 8), sample_matrices(), (8, 8))
    with pytest.raises(ValueError, match="flips need 17 keypoints, got 16"):
        geometry.flip_channels(torch.zeros(1, 16, 2, 2), torch.tensor([True]))

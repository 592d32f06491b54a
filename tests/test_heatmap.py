"""decode(render(points)) returns the points, on non-square heatmaps and up to their borders."""

import math

import pytest
import torch

from ssl_pose.heatmap import (
    DECODERS,
    argmax_keypoints,
    decode_heatmaps,
    heatmap_to_image_points,
    image_to_heatmap_points,
    render_heatmaps,
)

SIZE = (20, 14)


def grid_of_points() -> torch.Tensor:
    """Points (1, N, 2) every 0.3 cells over the pixel area of SIZE, its borders and corners included."""
    height, width = SIZE
    x = torch.cat([torch.arange(-0.5, width - 0.5, 0.3), torch.tensor([width - 0.5])])
    y = torch.cat([torch.arange(-0.5, height - 0.5, 0.3), torch.tensor([height - 0.5])])
    return torch.cartesian_prod(x, y)[None]


def test_a_heatmap_is_the_gaussian_of_the_formula():
    heatmap = render_heatmaps(torch.tensor([[[4.3, 11.8]]]), SIZE, sigma=1.5)[0, 0]
    assert heatmap.shape == SIZE
    squared_distance = (5 - 4.3) ** 2 + (10 - 11.8) ** 2
    assert heatmap[10, 5].item() == pytest.approx(math.exp(-squared_distance / (2 * 1.5**2)), abs=1e-6)


def test_a_keypoint_on_a_cell_has_peak_one():
    assert render_heatmaps(torch.tensor([[[4.0, 11.0]]]), SIZE, sigma=2.0)[0, 0, 11, 4] == 1.0


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
@pytest.mark.parametrize(("decoder", "error"), [("argmax", 0.501), ("quarter", 0.251), ("dark", 0.02)])
def test_decoding_a_rendered_keypoint_returns_it_also_at_the_borders(decoder, error, sigma):
    points = grid_of_points()
    decoded, confidence = decode_heatmaps(render_heatmaps(points, SIZE, sigma), decoder, sigma)
    at_border = (points < 0.51) | (points > torch.tensor([SIZE[1], SIZE[0]]) - 1.51)
    allowed = torch.where(at_border & (decoder == "quarter"), 0.501, error)  # no neighbour to compare with
    assert ((decoded - points).abs() <= allowed).all()
    assert confidence.min() > math.exp(-0.25 / sigma**2) - 1e-4


def test_dark_finds_a_keypoint_a_little_beyond_the_border():
    points = torch.tensor([[[-0.9, 7.2], [13.4, 20.0 - 0.2]]])
    decoded, _ = decode_heatmaps(render_heatmaps(points, SIZE, 1.5), "dark", 1.5)
    torch.testing.assert_close(decoded, points, atol=0.02, rtol=0)


def test_dark_is_exact_for_a_gaussian_of_another_width_and_height():
    points = torch.tensor([[[5.37, 9.81]]])
    decoded, _ = decode_heatmaps(0.2 * render_heatmaps(points, SIZE, sigma=2.5), "dark", sigma=1.5)
    torch.testing.assert_close(decoded, points, atol=1e-3, rtol=0)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_a_flat_heatmap_decodes_to_its_first_cell(decoder, value):
    decoded, confidence = decode_heatmaps(torch.full((2, 3, *SIZE), value), decoder, 1.5)
    assert torch.equal(decoded, torch.zeros(2, 3, 2))
    assert (confidence == value).all()


def test_noise_of_either_sign_never_moves_a_keypoint_by_more_than_a_cell():
    heatmaps = torch.randn(8, 17, *SIZE, generator=torch.Generator().manual_seed(0))
    cells, _ = argmax_keypoints(heatmaps)
    decoded, _ = decode_heatmaps(heatmaps, "dark", 1.5)
    assert ((decoded - cells).abs() <= 1).all()


def test_the_highest_cell_is_found_in_every_memory_layout():
    heatmaps = torch.rand(3, 5, *SIZE)
    cells, confidence = argmax_keypoints(heatmaps.contiguous(memory_format=torch.channels_last))
    for b in range(3):
        for k in range(5):
            x, y = cells[b, k].long().tolist()
            assert heatmaps[b, k, y, x] == heatmaps[b, k].max() == confidence[b, k]


def test_half_precision_heatmaps_decode_to_full_precision_points():
    heatmaps = render_heatmaps(torch.tensor([[[5.0, 9.0]]]), SIZE, 1.5).bfloat16()
    decoded, confidence = decode_heatmaps(heatmaps, "dark", 1.5)
    assert decoded.dtype == confidence.dtype == torch.float32
    torch.testing.assert_close(decoded, torch.tensor([[[5.0, 9.0]]]), atol=0.02, rtol=0)


def test_a_cell_lies_over_the_middle_of_its_pixels():
    assert heatmap_to_image_points(torch.tensor([0.0, 1.0]), 4).tolist() == [1.5, 5.5]
    assert heatmap_to_image_points(torch.tensor([0.0, 1.0]), 4, "corner").tolist() == [0.0, 4.0]


@pytest.mark.parametrize("alignment", ["centre", "corner"])
def test_image_and_heatmap_coordinates_are_inverse(alignment):
    points = grid_of_points()
    there = image_to_heatmap_points(points, 4, alignment)
    torch.testing.assert_close(heatmap_to_image_points(there, 4, alignment), points, atol=1e-5, rtol=0)


def test_both_borders_of_the_image_are_borders_of_the_heatmap():
    edges = torch.tensor([-0.5, 47.5])
    assert image_to_heatmap_points(edges, 4).tolist() == [-0.5, 11.5]


def test_an_unknown_decoder_and_a_tiny_heatmap_are_refused():
    with pytest.raises(ValueError, match="unknown decoder 'taylor'; known: argmax, quarter, dark"):
        decode_heatmaps(torch.zeros(1, 17, 8, 8), "taylor", 1.0)
    with pytest.raises(ValueError, match=r"'dark' needs heatmaps of at least 5x5 cells, got \(8, 4\)"):
        decode_heatmaps(torch.zeros(1, 17, 8, 4), "dark", 1.5)

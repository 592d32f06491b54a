"""Second peaks and counts of peaks on heatmaps that are drawn by hand."""

import torch

from ssl_pose.heatmap import render_heatmaps
from ssl_pose.peaks import peak_structure

SIZE, SIGMA = (32, 24), 1.5


def test_one_gaussian_has_one_peak_and_no_second():
    heatmaps = render_heatmaps(torch.tensor([[[7.0, 20.0], [0.0, 0.0]]]), SIZE, SIGMA)
    ratio, number = peak_structure(heatmaps, SIGMA)
    assert ratio.tolist() == [[0.0, 0.0]]
    assert number.tolist() == [[1, 1]]


def test_a_weaker_gaussian_far_away_is_the_second_peak_and_counts_from_half_on():
    strong, weak = (render_heatmaps(torch.tensor([[[x, 5.0]]]), SIZE, SIGMA) for x in (4.0, 18.0))
    ratio, number = peak_structure(strong + 0.4 * weak, SIGMA)
    assert abs(ratio.item() - 0.4) < 1e-3
    assert number.item() == 1
    assert peak_structure(strong + 0.6 * weak, SIGMA)[1].item() == 2


def test_two_gaussians_within_two_sigma_are_one_peak():
    near = render_heatmaps(torch.tensor([[[10.0, 10.0]]]), SIZE, SIGMA)
    near += 0.9 * render_heatmaps(torch.tensor([[[12.0, 10.0]]]), SIZE, SIGMA)
    assert peak_structure(near, SIGMA)[1].item() == 1


def test_a_blank_map_has_no_peak():
    ratio, number = peak_structure(torch.zeros(1, 1, *SIZE), SIGMA)
    assert (ratio.item(), number.item()) == (0.0, 0)

"""Views: drawn within their limits, applied where their matrices say."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms import functional as reference

from ssl_pose import augment
from ssl_pose.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    color_images,
    cut_out,
    identity_views,
    join_views,
    normalize_images,
    render_views,
    restore_colors,
    sample_views,
)
from ssl_pose.config import load_config
from ssl_pose.crops import canvas_to_reference
from ssl_pose.geometry import transform_points, translation
from ssl_pose.seeding import make_generator

SIZE = (64, 48)
CANVAS = (96, 72)
PARAMS = Path(__file__).parent.parent / "params.yaml"
STRONG = load_config(PARAMS).views.strong
GREY = torch.tensor([0.5, 0.5, 0.5])


def test_draws_stay_within_their_limits_and_reach_both_sides():
    views = sample_views(STRONG, 2000, SIZE, make_generator(0, "views"))
    linear = views.matrix[:, :2, :2]
    zoom = torch.linalg.det(linear).abs().sqrt()
    low, high = STRONG.box_scale
    assert 1 / high - 1e-5 <= zoom.min()
    assert zoom.max() <= 1 / low + 1e-5
    degrees = torch.atan2(-linear[:, 0, 1], linear[:, 1, 1]).rad2deg()  # the mirror leaves the second column alone
    assert degrees.abs().max() <= 2 * STRONG.rotation_deg + 1e-3
    assert degrees.min() < -45 < 45 < degrees.max()
    assert abs((degrees == 0).float().mean() - (1 - STRONG.rotation_probability)) < 0.04
    assert abs(views.flip.float().mean() - STRONG.flip_probability) < 0.04


def test_views_come_from_their_generator_alone():
    first = sample_views(STRONG, 5, SIZE, make_generator(0, "a"))
    torch.rand(3)
    second = sample_views(STRONG, 5, SIZE, make_generator(0, "a"))
    assert torch.equal(first.matrix, second.matrix)
    assert torch.equal(first.cutouts, second.cutouts)


def test_the_identity_view_is_the_centred_window_of_the_canvas():
    canvases = torch.randint(0, 256, (2, 3, *CANVAS), dtype=torch.uint8)
    images = render_views(canvases, identity_views(2), canvas_to_reference(CANVAS, SIZE), SIZE, GREY)
    window = canvases[:, :, 16:80, 12:60].float() / 255
    torch.testing.assert_close(images, normalize_images(window), atol=1e-4, rtol=0)


def test_a_bright_dot_moves_where_the_matrix_says():
    canvases = torch.zeros(64, 3, *CANVAS, dtype=torch.uint8)
    canvases[:, :, 50:52, 35:37] = 255  # centre (35.5, 50.5) in canvas px
    to_reference = canvas_to_reference(CANVAS, SIZE)
    views = sample_views(load_config(PARAMS).views.weak, 64, SIZE, make_generator(1, "dot"))
    images = render_views(canvases, views, to_reference, SIZE, torch.zeros(3))
    dot = torch.tensor([[[35.5, 50.5]]]).expand(64, 1, 2)
    expected = transform_points(views.matrix, transform_points(to_reference.expand(64, 3, 3), dot))[:, 0]
    weight = images.sum(1) - images.sum(1).amin(dim=(1, 2), keepdim=True)
    grid = torch.stack(torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="xy"), -1)
    found = (weight[..., None] * grid).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))[:, None]
    assert (found - expected).norm(dim=-1).max() < 0.2


def test_beyond_the_canvas_lies_the_mean_colour_which_is_nothing_to_the_network():
    canvases = torch.full((1, 3, *CANVAS), 255, dtype=torch.uint8)
    far = replace(identity_views(1), matrix=translation(torch.tensor([[1000.0, 0.0]])))
    mean = torch.tensor(IMAGENET_MEAN)
    images = render_views(canvases, far, canvas_to_reference(CANVAS, SIZE), SIZE, mean)
    torch.testing.assert_close(images, torch.zeros_like(images), atol=1e-5, rtol=0)


def test_normalisation_removes_mean_and_standard_deviation():
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    images = (mean + 2 * std)[None, :, None, None].expand(1, 3, 2, 3)
    torch.testing.assert_close(normalize_images(images), torch.full((1, 3, 2, 3), 2.0))


def test_colour_factors_of_one_only_normalise_and_zero_saturation_is_grey():
    images = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(color_images(255 * images, identity_views(2)), normalize_images(images))
    grey = restore_colors(color_images(255 * images, replace(identity_views(2), saturation=torch.zeros(2))))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    expected = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    torch.testing.assert_close(grey[:, 0], expected)


def test_contrast_moves_from_the_mean_grey_brightness_from_black_and_colours_end_where_bytes_do():
    images = torch.tensor([20.0, 200.0])[None, None, None].repeat(1, 3, 1, 1)  # two grey pixels of mean 110
    views = replace(identity_views(1), contrast=torch.tensor([1.5]), brightness=torch.tensor([1.2]))
    colored = 255 * restore_colors(color_images(images, views))
    expected = torch.tensor([0.0, 255.0])  # 1.2 * (110 - 1.5 * 90) is under 0, 1.2 * (110 + 1.5 * 90) over 255
    torch.testing.assert_close(colored[0, 1, 0], expected, atol=1e-3, rtol=0)
    mild = replace(views, contrast=torch.tensor([0.5]), brightness=torch.tensor([0.8]))
    colored = 255 * restore_colors(color_images(images, mild))
    torch.testing.assert_close(colored[0, 2, 0], torch.tensor([52.0, 124.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("floats", [1, 40_000, 10**9])
def test_views_are_the_same_however_few_crops_are_rendered_at_once(floats: int, monkeypatch):
    monkeypatch.setattr(augment, "CACHED_FLOATS", floats)
    canvases = torch.randint(0, 256, (5, 3, *CANVAS), dtype=torch.uint8, generator=make_generator(0, "canvases"))
    to_reference, generator = canvas_to_reference(CANVAS, SIZE), make_generator(0, "views")
    views = [sample_views(STRONG, 5, SIZE, generator) for _ in range(3)]
    joined = render_views(canvases, join_views(views), to_reference, SIZE, GREY, torch.channels_last)
    assert joined.is_contiguous(memory_format=torch.channels_last)
    for number, images in enumerate(joined.split(5)):
        for row in range(5):
            one = slice(row, row + 1)
            alone = render_views(canvases[one], views[number].rows(one), to_reference, SIZE, GREY)
            torch.testing.assert_close(images[one], alone, atol=1e-5, rtol=0)
    assert render_views(canvases[:0], identity_views(0), to_reference, SIZE, GREY).shape == (0, 3, *SIZE)


def test_a_view_is_what_scipy_and_torchvision_make_of_it_one_step_at_a_time():
    """Colours that no step clamps, so that it does not matter that ours are clamped once, at the end."""
    canvases = torch.randint(70, 180, (6, 3, *CANVAS), dtype=torch.uint8, generator=make_generator(0, "canvases"))
    mild = replace(STRONG, brightness=0.1, contrast=0.1, saturation=0.1, num_cutouts=0)
    views, to_reference = sample_views(mild, 6, SIZE, make_generator(0, "views")), canvas_to_reference(CANVAS, SIZE)
    images = render_views(canvases, views, to_reference, SIZE, GREY)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].reshape(2, -1)
    for row, image in enumerate(images):
        to_canvas = np.linalg.inv((views.matrix[row] @ to_reference).double().numpy())
        places = (to_canvas @ np.stack([x, y, np.ones_like(x)]))[[1, 0]]
        plain = np.stack([ndimage.map_coordinates(channel, places, order=1, mode="grid-constant", cval=127.5)
                          for channel in canvases[row].double().numpy()])
        plain = torch.from_numpy(plain / 255).float().view(3, *SIZE)
        plain = reference.adjust_saturation(plain, float(views.saturation[row]))
        plain = reference.adjust_contrast(plain, float(views.contrast[row]))
        plain = reference.adjust_brightness(plain, float(views.brightness[row]))
        torch.testing.assert_close(image, normalize_images(plain[None])[0], atol=2e-3, rtol=0)


def test_cutouts_paint_their_box_and_reach_the_bottom_row():
    images = torch.zeros(1, 3, *SIZE)
    painted = cut_out(images, torch.tensor([[[10.0, 60.0, 12.0, 99.0]]]), torch.ones(1, 3, 1, 1))
    assert painted[0, 0].sum() == 3 * 4  # columns 10-12, rows 60-63
    assert painted[0, 0, 63, 11] == 1
    views = sample_views(STRONG, 500, SIZE, make_generator(0, "cut"))
    covered = cut_out(torch.zeros(500, 3, *SIZE), views.cutouts, torch.ones(1, 3, 1, 1))[:, 0].mean(0)
    assert covered[63].min() > 0
    assert covered[:, 47].min() > 0
    assert math.isclose(covered.mean(), covered[20:44, 15:33].mean(), abs_tol=0.05)

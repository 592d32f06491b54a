"""Occlusions and colour operations of strong views: where they land, how large they are, what they leave alone."""

import typing
from dataclasses import replace

import pytest
import torch
from torchvision.transforms.functional import equalize

from ssl_pose.augment import normalize_images
from ssl_pose.config import MethodConfig
from ssl_pose.seeding import make_generator
from ssl_pose.strong_paths import (
    NUM_CUTOUTS,
    STRONG_PATHS,
    Draws,
    _equalize,
    cut_occlude,
    joint_cutout,
    randaugment,
    sample_draws,
)

HEIGHT, WIDTH = 128, 96  # half of the size for which boxes were published


def images_of(batch: int = 2) -> torch.Tensor:
    return normalize_images(torch.rand(batch, 3, HEIGHT, WIDTH, generator=make_generator(0, "images")))


def draws_of(batch: int = 2, choice: float = 0.0, source: float = 0.0, extent: float = 0.0) -> Draws:
    """Draws without jitter, all of them alike."""
    full = torch.ones(batch, NUM_CUTOUTS)
    pairs = torch.ones(batch, NUM_CUTOUTS, 2)
    return Draws(full * choice, full * source, 0 * pairs, pairs * extent)


def test_every_path_of_the_configuration_has_a_function_and_no_other():
    (names, *_) = typing.get_args(typing.get_type_hints(MethodConfig)["strong_paths"])
    assert set(typing.get_args(names)) == set(STRONG_PATHS)


@pytest.mark.parametrize(("extent", "side"), [(0.0, 11), (0.999, 21)])
def test_a_cutout_of_the_published_size_lies_on_its_joint_and_nothing_else_changes(extent: float, side: int):
    """Half sizes of 10 to 20 px at 256 px are 5 to 10 at 128: boxes of 11 to 21 whole pixels less a rim."""
    images = images_of()
    joints = torch.tensor([[[40.0, 60.0]], [[50.0, 70.0]]])
    changed = (joint_cutout(images, joints, draws_of(extent=extent)) != images).any(1)
    for number, (x, y) in enumerate(((40, 60), (50, 70))):
        rows, columns = changed[number].any(1).nonzero().flatten(), changed[number].any(0).nonzero().flatten()
        assert (rows.min() + rows.max()) / 2 == y
        assert (columns.min() + columns.max()) / 2 == x
        assert abs(len(rows) - side) <= 2
        assert changed[number].sum() == len(rows) * len(columns)


def test_five_different_joints_lie_under_a_cutout_and_every_joint_as_often():
    """17 joints 40 px apart, boxes of at most 21 px without jitter: a joint is covered by its own box alone."""
    images = normalize_images(torch.rand(400, 3, 80, 700, generator=make_generator(0, "images")))
    joints = torch.stack([20 + 40 * torch.arange(17.0), torch.full((17,), 40.0)], -1).expand(400, -1, -1)
    draws = sample_draws(400, make_generator(0, "draws"))
    draws = replace(draws, jitter=0 * draws.jitter)
    covered = (joint_cutout(images, joints, draws) != images).any(1)[:, 40, 20::40][:, :17]
    assert (covered.sum(1) == NUM_CUTOUTS).all()
    share = covered.float().mean(0)
    assert ((share - 5 / 17).abs() < 4 * (5 / 17 * 12 / 17 / 400) ** 0.5).all()


def test_a_cutout_reaches_the_bottom_row_and_the_last_column():
    images = images_of(1)
    joints = torch.tensor([[[WIDTH - 1.0, HEIGHT - 1.0]]])
    changed = (joint_cutout(images, joints, draws_of(1)) != images).any(1)[0]
    assert changed[-1, -1]
    assert not changed[0].any()


def test_cut_occlusion_lays_the_other_persons_joint_over_ones_own():
    images = images_of()
    joints = torch.tensor([[[30.0, 40.0], [80.0, 90.0]], [[60.0, 100.0], [20.0, 25.0]]])
    pasted = cut_occlude(images, joints, draws_of(choice=0.0, source=0.99))  # own first joint, other's second
    torch.testing.assert_close(pasted[0, :, 40, 30], images[1, :, 25, 20])
    torch.testing.assert_close(pasted[0, :, 43, 28], images[1, :, 28, 18])
    torch.testing.assert_close(pasted[1, :, 100, 60], images[0, :, 90, 80])
    untouched = pasted == images
    assert untouched[0, :, 60:].all()
    assert untouched[1, :, :80].all()


def test_randaugment_keeps_colours_in_range_and_its_first_operation_is_the_identity():
    images = images_of()
    torch.testing.assert_close(randaugment(images, images, draws_of(choice=0.0)), images)
    low, high = normalize_images(torch.zeros(1, 3, 1, 1)), normalize_images(torch.ones(1, 3, 1, 1))
    for number in range(1, 9):
        changed = randaugment(images, images, draws_of(choice=(number + 0.5) / 9, source=0.9))
        assert not torch.equal(changed, images), number
        assert (changed >= low - 1e-5).all()
        assert (changed <= high + 1e-5).all()


@pytest.mark.parametrize("num_levels", [2, 7, 256])
def test_equalising_is_that_of_pil_and_leaves_equal_pixels_equal(num_levels):
    """Half of the pixels share one value, as the sky of a photo does."""
    levels = torch.randint(0, num_levels, (2, 3, 64, 48), generator=torch.Generator().manual_seed(0))
    images = (levels * (255 // (num_levels - 1))).to(torch.uint8)
    images[:, :, :32] = 0
    changed = _equalize(images / 255, torch.ones(2, 1, 1, 1))
    torch.testing.assert_close(changed, equalize(images) / 255, atol=0.03, rtol=0)  # PIL counts in whole steps
    assert all(len(channel.unique()) <= num_levels for channel in changed.flatten(0, 1))


def test_equalising_leaves_a_channel_of_one_value_as_it_is():
    flat = torch.full((1, 3, 16, 12), 0.4)
    torch.testing.assert_close(_equalize(flat, torch.ones(1, 1, 1, 1)), flat)


def test_draws_repeat_with_their_generator():
    first, again = (sample_draws(3, make_generator(1, "draws")) for _ in range(2))
    assert torch.equal(first.choice, again.choice)
    assert torch.equal(first.jitter, again.jitter)
    assert first.extent.shape == (3, NUM_CUTOUTS, 2)

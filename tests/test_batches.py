"""What a step sees: the right persons, targets on the right pixels, draws that need no history."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_pose.batches import draw_labeled, draw_unlabeled, open_pool, pool_positions
from ssl_pose.config import Config, load_config
from ssl_pose.geometry import invert_affine, transform_points
from ssl_pose.heatmap import decode_heatmaps, heatmap_to_image_points
from ssl_pose.seeding import make_generator
from tests.fake_crops import INPUT_SIZE, make_crops

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> Config:
    config = load_config(Path(__file__).parent.parent / "params.yaml")
    training = replace(config.training, labeled_batch=6, unlabeled_batch=5, channels_last=False)
    return replace(config, data=replace(config.data, input_size=INPUT_SIZE), training=training)


def test_every_pass_over_the_pool_visits_each_row_once_in_a_new_order():
    positions = torch.cat([pool_positions(step, 4, 10, seed=0) for step in range(5)])  # two passes of ten
    first, second = positions[:10], positions[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_a_batch_larger_than_the_pool_goes_round_it():
    positions = pool_positions(0, 8, 3, seed=0)
    assert np.bincount(positions.numpy()).tolist() == [3, 3, 2] or len(positions) == 8
    assert set(positions[:3].tolist()) == set(positions[3:6].tolist()) == {0, 1, 2}


def test_labelled_heatmaps_peak_where_the_keypoints_move_to(config: Config):
    """A person drawn as dots: the target's peak and the brightest colour of its dot lie on the same pixel."""
    crops = make_crops(1)
    crops.crops[:] = 0
    x, y = crops.keypoints[0, 0]
    crops.crops[0, round(float(y)) - 1 : round(float(y)) + 2, round(float(x)) - 1 : round(float(x)) + 2] = 255
    pool = open_pool(crops, CPU)
    batch = draw_labeled(pool, torch.zeros(1, dtype=torch.long), config, 0, "test", 0)
    cells, _ = decode_heatmaps(batch.heatmaps, "dark", config.model.heatmap_sigma)
    target = heatmap_to_image_points(cells, config.model.heatmap_stride)[:, 0]
    bright = batch.images.sum(1)
    width = bright.shape[-1]
    index = bright.flatten(1).argmax(1)
    found = torch.stack([index % width, index // width], -1).float()
    seen = batch.weight[:, 0] > 0
    assert seen.any()
    assert (found - target)[seen].norm(dim=-1).max() < 2.0  # px; the dot is 3 px wide and its centre is rounded


def test_joints_without_a_label_or_outside_the_view_weigh_nothing(config: Config):
    crops = make_crops(2)
    crops.visibility[:, 4] = 0
    crops.keypoints[:, 7] = 500.0
    batch = draw_labeled(open_pool(crops, CPU), torch.arange(2), config, 0, "test", 0)
    for joint, mirrored in ((4, 3), (7, 8)):  # a flipped view exchanges left and right
        dropped = (batch.weight[:, joint] == 0) | (batch.weight[:, mirrored] == 0)
        assert dropped.all()
    assert batch.weight.max() == 1


def test_labelled_persons_can_be_seen_in_both_families_the_first_as_other_arms_see_it(config: Config):
    pool, rows = open_pool(make_crops(12), CPU), torch.arange(12)
    strong = replace(config.views.strong, num_cutouts=0, flip_probability=0.0, brightness=0.0, contrast=0.0,
                     saturation=0.0, rotation_probability=0.0, box_scale=(1.0, 1.0), shift=0.0)
    config = replace(config, views=replace(config.views, strong=strong))  # the identity
    one, both = (draw_labeled(pool, rows, config, 3, "run", 7, views) for views in ("labeled", "both"))
    assert both.images.shape == (2 * 6, 3, *INPUT_SIZE)
    for name in ("images", "heatmaps", "weight"):
        torch.testing.assert_close(getattr(both, name)[:6], getattr(one, name))
    persons = rows[torch.randint(12, (6,), generator=make_generator(3, "run", "labeled", 7))]
    cells, _ = decode_heatmaps(both.heatmaps[6:], "dark", config.model.heatmap_sigma)
    found = heatmap_to_image_points(cells, config.model.heatmap_stride)
    seen = both.weight[6:] > 0
    assert seen.any()
    assert (found - pool.keypoints[persons])[seen].norm(dim=-1).max() < 0.2  # px


def test_the_same_step_gives_the_same_batch_and_arms_share_their_weak_and_strong_views(config: Config):
    pool, rows = open_pool(make_crops(12), CPU), torch.arange(12)
    method = config.arm("dual_student")
    plain, again = (draw_unlabeled(pool, rows, method, config, 3, 7) for _ in range(2))
    more = replace(method, num_views=2, strong_paths=("plain", "joint_cutout"))
    wide = draw_unlabeled(pool, rows, more, config, 3, 7)
    assert torch.equal(plain.strong[0].images, again.strong[0].images)
    assert torch.equal(plain.strong[0].images, wide.strong[0].images)
    assert not torch.equal(wide.strong[0].matrix, wide.strong[1].matrix)
    assert torch.equal(plain.view_matrix[0], wide.view_matrix[0])
    assert torch.equal(plain.view_images, wide.view_images[:5])
    assert wide.view_images.shape == (3 * 5, 3, *INPUT_SIZE)
    other = draw_unlabeled(pool, rows, method, config, 3, 8)
    assert not torch.equal(plain.strong[0].matrix, other.strong[0].matrix)


def test_the_weak_view_can_be_the_reference_itself(config: Config):
    pool, method = open_pool(make_crops(8), CPU), replace(config.arm("dual_student"), weak_view="reference")
    batch = draw_unlabeled(pool, torch.arange(8), method, config, 0, 0)
    torch.testing.assert_close(batch.view_matrix[0], torch.eye(3).expand(5, 3, 3))
    assert not batch.view_flip.any()


def test_view_matrices_are_in_cells_and_invert(config: Config):
    method = config.arm("dual_student")
    strong = draw_unlabeled(open_pool(make_crops(8), CPU), torch.arange(8), method, config, 0, 0).strong[0]
    points = torch.tensor([[[5.0, 9.0], [0.0, 0.0]]]).expand(5, 2, 2)
    there = transform_points(strong.matrix, points)
    torch.testing.assert_close(transform_points(invert_affine(strong.matrix), there), points, atol=1e-3, rtol=0)

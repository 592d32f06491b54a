"""The heatmap loss, by hand."""

import pytest
import torch

from ssl_pose.losses import heatmap_loss


def test_the_loss_is_the_weighted_mean_square_error_over_batch_times_joints():
    predicted = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2)
    target = torch.zeros_like(predicted)
    assert heatmap_loss(predicted, target, torch.ones(1, 2)).item() == pytest.approx((5 + 0) / 2)
    assert heatmap_loss(predicted, target, torch.tensor([[0.5, 1.0]])).item() == pytest.approx(2.5 / 2)


def test_a_dropped_joint_contributes_zero_and_does_not_raise_the_share_of_the_others():
    predicted, target = torch.ones(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    assert heatmap_loss(predicted, target, torch.tensor([[1.0, 1.0]])).item() == 1.0
    assert heatmap_loss(predicted, target, torch.tensor([[1.0, 0.0]])).item() == 0.5


def test_masked_cells_contribute_zero():
    predicted, target = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert heatmap_loss(predicted, target, torch.ones(1, 1), mask).item() == 0.25


def test_no_gradient_reaches_a_target():
    predicted, target = torch.rand(1, 2, 3, 4, requires_grad=True), torch.rand(1, 2, 3, 4, requires_grad=True)
    weight = torch.ones(1, 2, requires_grad=True)
    heatmap_loss(predicted, target, weight).backward()
    assert predicted.grad is not None
    assert target.grad is None
    assert weight.grad is None

"""Algorithm 1, line by line: known answers by hand, on non-square heatmaps."""

import math
from dataclasses import replace

import pytest
import torch

from ssl_pose.config import MethodConfig
from ssl_pose.geometry import (
    about,
    flip_points,
    reflection,
    rotation,
    scaling,
    to_heatmap_matrix,
    transform_points,
    translation,
    view_center,
)
from ssl_pose.geometry import invert_affine as invert
from ssl_pose.heatmap import argmax_keypoints, decode_heatmaps, render_heatmaps
from ssl_pose.model import UNet
from ssl_pose.pseudo_label import (
    PseudoLabel,
    align_to_reference,
    denoise,
    ensemble_heatmaps,
    estimate_uncertainty,
    move_refined,
    move_soft,
    pair_closest,
    select_targets,
    shape_target,
    threshold_and_refine,
    update_ema,
    weigh_agreement,
    weigh_joints,
)
from ssl_pose.seeding import make_generator
from ssl_pose.skeleton import NUM_KEYPOINTS

SIZE = (32, 24)
STRIDE = 2
SIGMA = 1.5
METHOD = MethodConfig(
    framework="dual_student", labels="few", label_count=0, burn_in=True, relative_steps=1.0,
    labeled_views="labeled", weak_view="augmented", num_views=2, ensemble="maximum", target="threshold_and_refine",
    confidence_threshold=0.3, below_threshold="drop", selection="cross", uncertainty_margin=0.05,
    uncertainty_guard=True, view_fill="mask", label_source="student", label_weight="equal", pairing="off",
    strong_paths=("plain",), consistency_weight=1.0, ema_horizon=0.02, pseudo_label_batch_norm="eval",
)


def keypoints_inside(batch: int = 2, margin: float = 9.0) -> torch.Tensor:
    """Keypoints (B, 17, 2) in cells, at least `margin` away from the border."""
    random = torch.rand(batch, NUM_KEYPOINTS, 2, generator=make_generator(0, "points"))
    low, high = torch.tensor([margin, margin]), torch.tensor([SIZE[1] - 1 - margin, SIZE[0] - 1 - margin])
    return low + random * (high - low)


def oracle_views(keypoints: torch.Tensor, matrices: list[torch.Tensor], flips: list[bool]) -> tuple:
    """What a perfect network says of views: Gaussians of fixed sigma at the moved keypoints."""
    batch = len(keypoints)
    flip = torch.tensor(flips)[:, None].expand(-1, batch)
    matrix = torch.stack([m.expand(batch, 3, 3) for m in matrices])
    heatmaps = torch.stack([
        render_heatmaps(flip_points(transform_points(m, keypoints), f), SIZE, SIGMA)
        for m, f in zip(matrix, flip, strict=True)
    ])
    return heatmaps, matrix, flip


def turned(degrees: float = 0.0, zoom: float = 1.0, mirror: bool = False) -> torch.Tensor:
    """The matrix (1, 3, 3), in cells, of a view turned, zoomed and mirrored about its centre."""
    one = torch.ones(1)
    matrix = rotation(one * degrees) @ scaling(one * zoom) @ reflection(one.bool() & mirror)
    return about(matrix, view_center(SIZE))


def views_of(values: list[list[list[float]]]) -> torch.Tensor:
    """Heatmaps (V, 1, 1, h, w) from nested lists."""
    return torch.tensor(values)[:, None, None]


EVERYWHERE = torch.ones(3, 1, 1, 2, 3, dtype=torch.bool)
THREE = views_of([[[0.2, 0.0, 0.1], [0.0, 0.6, 0.0]],
                  [[0.4, 0.0, 0.1], [0.0, 0.3, 0.0]],
                  [[0.0, 0.3, 0.1], [0.0, 0.0, 0.9]]])


def test_the_average_is_the_mean_over_views():
    expected = torch.tensor([[0.2, 0.1, 0.1], [0.0, 0.3, 0.3]])
    torch.testing.assert_close(ensemble_heatmaps(THREE, EVERYWHERE, "average")[0, 0], expected)


def test_the_maximum_takes_the_largest_view_per_cell_and_is_no_smaller_than_any():
    best = ensemble_heatmaps(THREE, EVERYWHERE, "maximum")
    torch.testing.assert_close(best[0, 0], torch.tensor([[0.4, 0.3, 0.1], [0.0, 0.6, 0.9]]))
    assert (best >= THREE).all()


def test_none_is_the_weak_view_alone():
    torch.testing.assert_close(ensemble_heatmaps(THREE, EVERYWHERE, "none"), THREE[0])


def test_an_unknown_ensemble_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown ensemble 'median'"):
        ensemble_heatmaps(THREE, EVERYWHERE, "median")


def test_a_cell_outside_a_view_counts_in_neither_the_average_nor_the_maximum():
    valid = EVERYWHERE.clone()
    valid[0, 0, 0, 0, 0] = False  # the first view does not see the first cell
    assert ensemble_heatmaps(THREE, valid, "average")[0, 0, 0, 0] == pytest.approx((0.4 + 0.0) / 2)
    assert ensemble_heatmaps(-THREE, valid, "maximum")[0, 0, 0, 0] == pytest.approx(0.0)
    valid[:, 0, 0, 0, 0] = False  # nobody sees it
    assert ensemble_heatmaps(THREE, valid, "average")[0, 0, 0, 0] == 0
    assert ensemble_heatmaps(THREE, valid, "maximum")[0, 0, 0, 0] == 0


def test_uncertainty_is_the_largest_cell_of_the_population_standard_deviation():
    # column (0.0, 0.0, 0.9): mean 0.3, variance (0.09 + 0.09 + 0.36) / 3 = 0.18
    assert estimate_uncertainty(THREE, EVERYWHERE).item() == pytest.approx(math.sqrt(0.18))
    torch.testing.assert_close(estimate_uncertainty(THREE, EVERYWHERE)[0, 0], THREE.std(0, correction=0).max())


def test_fewer_than_two_views_are_wholly_uncertain():
    assert estimate_uncertainty(THREE[:1], EVERYWHERE[:1]).isinf().all()
    lonely = EVERYWHERE.clone()
    lonely[1:] = False
    assert estimate_uncertainty(THREE, lonely).isinf().all()


def test_padding_adds_no_uncertainty():
    """A view shifted half out of the frame agrees where it sees; zero fill would call that disagreement."""
    keypoints = keypoints_inside()
    shift = translation(torch.tensor([[SIZE[1] * 0.75, 0.0]]))
    heatmaps, matrix, flip = oracle_views(keypoints, [turned(), shift], [False, False])
    aligned, valid = align_to_reference(heatmaps, matrix, flip)
    assert estimate_uncertainty(aligned, valid).max() < 1e-3
    assert estimate_uncertainty(aligned, torch.ones_like(valid)).max() > 0.3


def test_a_perfect_oracle_is_certain_under_flips_and_nearly_so_under_rotations_and_shifts():
    keypoints = keypoints_inside()
    heatmaps, matrix, flip = oracle_views(keypoints, [turned(), turned(mirror=True)], [False, True])
    assert estimate_uncertainty(*align_to_reference(heatmaps, matrix, flip)).max() < 1e-5
    shift = translation(torch.tensor([[3.0, -2.0]]))
    heatmaps, matrix, flip = oracle_views(keypoints, [turned(), shift], [False, False])
    assert estimate_uncertainty(*align_to_reference(heatmaps, matrix, flip)).max() < 1e-5
    heatmaps, matrix, flip = oracle_views(keypoints, [turned(), turned(30), turned(-45)], [False] * 3)
    assert estimate_uncertainty(*align_to_reference(heatmaps, matrix, flip)).max() < 0.12  # bilinear resampling


def test_zooms_leave_an_uncertainty_floor_that_no_network_can_beat():
    """A Gaussian of fixed sigma, seen at another scale, has another width; Delta must be judged against this."""
    keypoints = keypoints_inside()
    zooms = [turned(), turned(zoom=0.8), turned(zoom=1.25)]
    heatmaps, matrix, flip = oracle_views(keypoints, zooms, [False] * 3)
    floor = estimate_uncertainty(*align_to_reference(heatmaps, matrix, flip))
    assert 0.03 < floor.mean() < 0.2


def test_views_turned_back_lie_on_the_reference_keypoints():
    keypoints = keypoints_inside()
    matrices = [turned(25, 1.1), turned(-40, 0.9, mirror=True)]
    heatmaps, matrix, flip = oracle_views(keypoints, matrices, [False, True])
    aligned, _ = align_to_reference(heatmaps, matrix, flip)
    for view in aligned:
        found, _ = decode_heatmaps(view, "dark", SIGMA)
        assert (found - keypoints).norm(dim=-1).max() < 0.15


def test_refined_maps_are_gaussians_at_the_arg_max_and_refining_again_changes_nothing():
    heatmaps = 0.7 * render_heatmaps(keypoints_inside(), SIZE, 2.5) + 0.1
    refined, weight = threshold_and_refine(heatmaps, 0.3, SIGMA)
    assert weight.eq(1).all()
    torch.testing.assert_close(refined, render_heatmaps(argmax_keypoints(heatmaps)[0], SIZE, SIGMA))
    again, weight = threshold_and_refine(refined, 0.3, SIGMA)
    torch.testing.assert_close(again, refined)
    assert weight.eq(1).all()


@pytest.mark.parametrize("value", [0.0, -1.0, 0.29, float("nan")])
def test_blank_weak_negative_and_broken_maps_are_dropped(value):
    heatmaps = torch.full((1, NUM_KEYPOINTS, *SIZE), value)
    refined, weight = threshold_and_refine(heatmaps, 0.3, SIGMA, "drop")
    assert refined.eq(0).all()
    assert weight.eq(0).all()
    refined, weight = threshold_and_refine(heatmaps, 0.3, SIGMA, "zero")
    assert refined.eq(0).all()
    assert weight.eq(1).all()


def label_with(uncertainty: list[float], value: float) -> PseudoLabel:
    count = len(uncertainty)
    return PseudoLabel(
        heatmaps=torch.full((1, count, *SIZE), value), keypoints=torch.full((1, count, 2), value),
        confidence=torch.full((1, count), value), weight=torch.full((1, count), value),
        uncertainty=torch.tensor([uncertainty]),
    )


def test_selection_follows_its_truth_table():
    """Clear winners teach both students in either reading; ties go to the other (cross) or to oneself (literal)."""
    own = label_with([0.1, 0.5, 0.30, math.inf], value=1.0)
    other = label_with([0.5, 0.1, 0.32, math.inf], value=2.0)
    margin = 0.05
    assert select_targets(own, other, "cross", margin).confidence.tolist() == [[1.0, 2.0, 2.0, 2.0]]
    assert select_targets(own, other, "literal", margin).confidence.tolist() == [[1.0, 2.0, 1.0, 1.0]]
    assert select_targets(own, other, "off", margin).confidence.tolist() == [[2.0] * 4]
    assert select_targets(own, other, "own", margin).confidence.tolist() == [[1.0] * 4]
    chosen = select_targets(own, other, "cross", margin)
    assert chosen.heatmaps[0, 0].eq(1).all()
    assert chosen.keypoints[0, 1].eq(2).all()


def test_targets_are_soft_rescaled_thresholded_refined_or_both():
    """Two joints with peaks 0.2 and 0.8 under a threshold of 0.3, each with a hill as wide as 2.5 cells."""
    peaks = torch.tensor([0.2, 0.8])[None, :, None, None]
    wide = render_heatmaps(torch.tensor([[[7.0, 9.0], [15.0, 20.0]]]), SIZE, 2.5)
    clean = render_heatmaps(torch.tensor([[[7.0, 9.0], [15.0, 20.0]]]), SIZE, SIGMA)
    kept = torch.tensor([0.0, 1.0])[None, :, None, None]
    expected = {
        "soft": (peaks * wide, [1.0, 1.0]), "rescaled": (torch.cat([peaks[:, :1], kept[:, 1:]], 1) * wide, [1.0, 1.0]),
        "thresholded": (kept * peaks * wide, [0.0, 1.0]), "refined": (clean, [1.0, 1.0]),
        "threshold_and_refine": (kept * clean, [0.0, 1.0]),
    }
    for target, (maps, weights) in expected.items():
        found, weight = shape_target(peaks * wide, replace(METHOD, target=target), SIGMA)
        torch.testing.assert_close(found, maps, msg=target)
        assert weight.tolist() == [weights], target


def test_joints_weigh_by_their_peak_or_by_how_far_the_views_agree_on_it():
    confidence, uncertainty = torch.tensor([[0.5, 1.2, 0.4]]), torch.tensor([[0.1, 0.3, math.inf]])
    assert weigh_joints(confidence, uncertainty, "equal").tolist() == [[1, 1, 1]]
    torch.testing.assert_close(weigh_joints(confidence, uncertainty, "confidence"), torch.tensor([[0.5, 1.0, 0.4]]))
    torch.testing.assert_close(weigh_joints(confidence, uncertainty, "certainty"), torch.tensor([[0.8, 0.75, 0.0]]))


def test_students_that_disagree_on_a_place_weigh_less():
    first, second = label_with([0.1, 0.1], 1.0), label_with([0.1, 0.1], 1.0)
    second.keypoints[0, 1] += torch.tensor([2 * SIGMA, 0.0])
    for label in weigh_agreement([first, second], SIGMA):
        torch.testing.assert_close(label.weight, torch.tensor([[1.0, math.exp(-0.5)]]))


def test_the_closest_pair_of_peaks_is_the_target_and_their_mean_its_place():
    """Students see a joint at 0 and 8, their copies at 6 and 7: the copies are closest."""
    students, copies = [label_at(0.0, 0.9), label_at(8.0, 0.9)], [label_at(6.0, 0.5), label_at(7.0, 0.3)]
    chosen = pair_closest([students[0], copies[0]], [students[1], copies[1]], METHOD)
    torch.testing.assert_close(chosen.keypoints, torch.full((1, 1, 2), 6.5))
    torch.testing.assert_close(chosen.confidence, torch.full((1, 1), 0.4))
    assert chosen.weight.item() == 1.0
    strict = pair_closest([students[0], copies[0]], [students[1], copies[1]], replace(METHOD, confidence_threshold=0.5))
    assert strict.weight.item() == 0.0


def label_at(place: float, confidence: float) -> PseudoLabel:
    keypoints, full = torch.full((1, 1, 2), place), torch.full((1, 1), confidence)
    return PseudoLabel(confidence * render_heatmaps(keypoints, SIZE, SIGMA), keypoints, full, torch.ones(1, 1), full)


def test_an_infinite_margin_is_plain_cross_supervision_and_literally_two_self_trainers():
    own, other = label_with([0.1, 0.5], 1.0), label_with([0.5, 0.1], 2.0)
    assert select_targets(own, other, "cross", math.inf).confidence.eq(2.0).all()
    assert select_targets(own, other, "literal", math.inf).confidence.eq(1.0).all()


def test_the_guard_keeps_blank_maps_from_winning_by_agreement():
    keypoints = keypoints_inside(1)
    heatmaps, matrix, flip = oracle_views(keypoints, [turned()] * 3, [False] * 3)
    blank = torch.zeros_like(heatmaps)
    guarded = denoise(blank, matrix, flip, METHOD, SIGMA)
    assert guarded.uncertainty.isinf().all()
    assert guarded.weight.eq(0).all()
    unguarded = denoise(blank, matrix, flip, replace(METHOD, uncertainty_guard=False), SIGMA)
    assert unguarded.uncertainty.eq(0).all()


@pytest.mark.parametrize("mirror", [False, True])
def test_targets_in_the_strong_view_lie_where_the_keypoints_move(mirror):
    keypoints = keypoints_inside().round()
    heatmaps = render_heatmaps(keypoints, SIZE, SIGMA)
    ones = torch.ones(keypoints.shape[:2])
    label = PseudoLabel(heatmaps, keypoints, ones, ones, ones)
    matrix = turned(20, 1.1, mirror).expand(len(keypoints), 3, 3)
    flip = torch.full((len(keypoints),), mirror)
    expected = flip_points(transform_points(matrix, keypoints), flip)
    for target in (move_refined(label, matrix, flip, SIGMA), move_soft(label, matrix, flip)):
        found, _ = decode_heatmaps(target.heatmaps, "dark", SIGMA)
        assert (found - expected).norm(dim=-1).max() < 0.15


def test_refined_targets_keep_sigma_under_zoom_and_drop_joints_that_leave():
    keypoints = torch.full((1, NUM_KEYPOINTS, 2), 12.0)
    keypoints[0, 3] = torch.tensor([1.0, 1.0])  # a corner, which a zoom pushes out
    ones = torch.ones(1, NUM_KEYPOINTS)
    label = PseudoLabel(render_heatmaps(keypoints, SIZE, SIGMA), keypoints, ones, ones, ones)
    matrix, flip = turned(zoom=1.5), torch.tensor([False])
    target = move_refined(label, matrix, flip, SIGMA)
    assert target.weight[0, 3] == 0
    assert target.weight.sum() == NUM_KEYPOINTS - 1
    torch.testing.assert_close(target.heatmaps, render_heatmaps(transform_points(matrix, keypoints), SIZE, SIGMA))


def test_soft_targets_say_nothing_outside_the_reference_frame():
    ones = torch.ones(1, NUM_KEYPOINTS)
    label = PseudoLabel(torch.ones(1, NUM_KEYPOINTS, *SIZE), torch.zeros(1, NUM_KEYPOINTS, 2), ones, ones, ones)
    target = move_soft(label, translation(torch.tensor([[6.0, 0.0]])), torch.tensor([False]))
    assert target.mask[0, 0, :, :6].sum() == 0
    assert target.mask[0, 0, :, 6:].all()


def test_a_view_and_its_inverse_compose_to_the_identity_in_cells():
    matrix = torch.cat([turned(33, 1.2, True), turned(-5, 0.7)])
    cells = to_heatmap_matrix(matrix, STRIDE)
    torch.testing.assert_close(cells @ to_heatmap_matrix(invert(matrix), STRIDE), torch.eye(3).expand(2, 3, 3),
                               atol=1e-5, rtol=0)


def test_the_ema_teacher_follows_the_closed_form_buffers_too():
    teacher, student = UNet(4, 4), UNet(4, 4)
    start = {name: value.clone() for name, value in teacher.state_dict().items()}
    student(torch.rand(2, 3, 32, 48))  # moves the running statistics
    decay, steps = 0.9, 3
    for _ in range(steps):
        update_ema(teacher, student, decay)
    for name, value in student.state_dict().items():
        if value.is_floating_point():
            expected = decay**steps * start[name] + (1 - decay**steps) * value
            torch.testing.assert_close(teacher.state_dict()[name], expected)
        else:
            assert teacher.state_dict()[name] == value == 1
    assert any("running_mean" in name for name in start)

"""Perfect predictions score 100, files return what was written, and an oracle is found to be one."""

import contextlib
import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.nn import functional

from ssl_pose import batches, evaluation, pseudo_quality, scoring
from ssl_pose.coco import DataError, write_results
from ssl_pose.config import Config, load_config
from ssl_pose.crops import CropSet
from ssl_pose.predictions import (
    MODES,
    Predictions,
    dequantize,
    quantize,
    read_predictions,
    thousandths,
    write_predictions,
)
from ssl_pose.read_ahead import open_rows
from ssl_pose.skeleton import NUM_KEYPOINTS
from ssl_pose.workspace import REPOSITORY

CANVAS, INPUT = (72, 56), (48, 32)
PEAK = 150  # of the bright dots, of 255


class DotFinder(nn.Module):
    """An ideal network: every keypoint lies at the bright dot of the image, (B, 3, 48, 32) -> (B, 17, 24, 16)."""

    def __init__(self, alignment: str = "centre") -> None:
        super().__init__()
        self.alignment = alignment
        self.scale = nn.Parameter(torch.tensor(255 / PEAK))

    def forward(self, images: Tensor) -> Tensor:
        red = images[:, :1] * 0.229 + 0.485  # normalize_images undone
        cells = functional.avg_pool2d(red, 2) if self.alignment == "centre" else red[..., ::2, ::2]
        return cells.expand(-1, NUM_KEYPOINTS, -1, -1) * self.scale


class Blank(nn.Module):
    """A network that never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), NUM_KEYPOINTS, 24, 16) + self.bias


def small_config(**evaluation_options) -> Config:
    config = load_config(REPOSITORY / "params.yaml")
    options = {"batch_size": 4, "num_pseudo_persons": 8, "num_views": 2, **evaluation_options}
    return replace(
        config,
        data=replace(config.data, input_size=INPUT),
        training=replace(config.training, device="cpu"),
        evaluation=replace(config.evaluation, **options),
    )


def people_with_dots(num_persons: int = 10) -> CropSet:
    """Crops with one dot each; all 17 keypoints lie on it. Two persons a photo, seen at half the photo's size."""
    generator = np.random.default_rng(0)
    center = (np.array(CANVAS[::-1]) - 1) / 2
    dots = center + generator.uniform(-6, 6, (num_persons, 2))
    y, x = np.mgrid[: CANVAS[0], : CANVAS[1]]
    distance = np.square(x - dots[:, 0, None, None]) + np.square(y - dots[:, 1, None, None])
    pixels = np.rint(PEAK * np.exp(-distance / (2 * 3.0**2))).astype(np.uint8)
    matrix = np.tile(np.diag([0.5, 0.5, 1.0]), (num_persons, 1, 1))
    matrix[:, :2, 2] = generator.uniform(-40, -10, (num_persons, 2))
    visibility = generator.integers(0, 3, (num_persons, NUM_KEYPOINTS)).astype(np.uint8)
    visibility[:, 0], visibility[:, -1] = 2, 1
    return CropSet(
        crops=np.repeat(pixels[..., None], 3, -1),
        keypoints=np.repeat(dots[:, None], NUM_KEYPOINTS, 1).astype(np.float32),
        visibility=visibility,
        crop_matrix=matrix,
        image_id=np.arange(num_persons) // 2 + 7,
        annotation_id=np.arange(num_persons) + 100,
        area=np.full(num_persons, 3000.0),
        box_xywh=np.tile([20.0, 30.0, 64.0, 90.0], (num_persons, 1)),
        mean_color=np.zeros(3, np.float32),
        canvas_size=CANVAS,
        input_size=INPUT,
        annotations_sha256="0" * 64,
        content_sha256="0" * 64,
    )


def predictions_at(keypoints: np.ndarray, score: np.ndarray | None = None) -> Predictions:
    count = len(keypoints)
    score = np.linspace(0.2, 0.9, count) if score is None else score
    return Predictions(
        0, quantize(keypoints), np.full((count, NUM_KEYPOINTS), 0.5, np.float16), score.astype(np.float32)
    )


def scores_of(crops: CropSet, predictions: Predictions) -> dict:
    return scoring.score_network(crops, predictions, (0.1, 0.5), "torso")


def test_perfect_predictions_score_one_hundred():
    crops = people_with_dots()
    scores = scores_of(crops, predictions_at(crops.keypoints))
    assert scores["AP"] == scores["AP75"] == scores["AR"] == pytest.approx(100)
    assert scores["pck"] == {"0.1": 100, "0.2": 100, "0.5": 100}
    assert {share for share in scores["pck_per_joint"].values() if share is not None} == {100}


def test_what_nobody_has_is_none_and_not_a_number_that_json_lacks():
    crops = people_with_dots()
    crops.visibility[:, 3] = 0
    scores = scores_of(crops, predictions_at(crops.keypoints))
    assert scores["pck_per_joint"]["left_ear"] is None
    assert scores["APL"] is None  # all areas are below 96^2 px
    json.dumps(scores, allow_nan=False)


def test_where_a_joint_is_not_labelled_its_point_changes_no_score_and_no_target():
    config, crops = small_config(), people_with_dots()
    keypoints = np.where(crops.visibility[..., None] > 0, crops.keypoints, np.float32(1e4))
    moved, predictions = replace(crops, keypoints=keypoints), predictions_at(crops.keypoints + 3)
    assert scores_of(moved, predictions) == scores_of(crops, predictions)
    targets = []
    for chosen in (crops, moved):
        pool = batches.open_pool(chosen, torch.device("cpu"))
        batch = batches.draw_labeled(pool, torch.arange(len(crops)), config, 0, "burn_in", 0)
        targets.append((batch.weight, batch.heatmaps * batch.weight[..., None, None]))
    assert all(torch.equal(*pair) for pair in zip(*targets, strict=True))
    assert 0 < targets[0][0].mean() < 1


@pytest.mark.parametrize("place", ["auto", "always", "never"])
def test_crops_lie_where_the_parameter_says_and_predictions_are_the_same(place, monkeypatch):
    config, crops, asked = small_config(), people_with_dots(), []
    expected = evaluation.predict_keypoints([DotFinder()], crops, config)[0].keypoints
    monkeypatch.setattr(batches, "open_rows", lambda *given: asked.append(given[2]) or open_rows(*given))
    placed = replace(config, training=replace(config.training, crops_on_device=place))
    (predictions,) = evaluation.predict_keypoints([DotFinder()], crops, placed)
    assert np.array_equal(predictions.keypoints, expected)
    assert asked == [place]


def test_far_predictions_score_zero_and_nothing_is_printed(capsys):
    crops = people_with_dots()
    scores = scores_of(crops, predictions_at(crops.keypoints + 500))
    assert scores["AP"] == scores["AR"] == scores["pck"]["0.5"] == 0
    assert capsys.readouterr().out == ""


def test_scores_are_those_of_the_same_people_written_as_coco_files(tmp_path):
    crops = people_with_dots()
    noisy = predictions_at(crops.keypoints + np.random.default_rng(1).normal(0, 4, crops.keypoints.shape))
    photo = scoring.canvas_to_photo(dequantize(noisy.keypoints), crops.crop_matrix)
    write_results(tmp_path / "results.json", crops.image_id, photo, noisy.score)
    true = (crops.keypoints - crops.crop_matrix[:, None, :2, 2]) / 0.5  # the matrix by hand
    triples = np.concatenate([true, crops.visibility[..., None]], -1).reshape(len(crops), -1)
    annotations = [
        {"id": int(crops.annotation_id[i]), "image_id": int(crops.image_id[i]), "category_id": 1, "iscrowd": 0,
         "area": 3000.0, "bbox": [20, 30, 64, 90], "num_keypoints": int((crops.visibility[i] > 0).sum()),
         "keypoints": triples[i].tolist()}
        for i in range(len(crops))
    ]
    images = [{"id": int(image)} for image in np.unique(crops.image_id)]
    content = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "truth.json")
        expected = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    scores = scores_of(crops, noisy)
    assert 0 < scores["AP"] < 100
    assert [scores[name] for name in ("AP", "AP50", "AR")] == pytest.approx(100 * expected.stats[[0, 1, 5]])


def test_canvas_points_return_to_the_photo_px_that_they_came_from():
    crops = people_with_dots()
    photo = scoring.canvas_to_photo(crops.keypoints, crops.crop_matrix)
    homogeneous = np.concatenate([photo, np.ones_like(photo[..., :1])], -1)
    back = np.einsum("nij,nkj->nki", crops.crop_matrix, homogeneous)[..., :2]
    np.testing.assert_allclose(back, crops.keypoints, atol=1e-4)


def test_reference_lengths_are_in_canvas_px():
    crops = people_with_dots()
    expected = 0.4 * np.hypot(32, 45)  # the box at half size; the dots give no torso
    np.testing.assert_allclose(scoring.reference_lengths(crops, "box"), expected, rtol=1e-6)
    np.testing.assert_allclose(scoring.reference_lengths(crops, "torso"), expected, rtol=1e-6)


def test_predictions_read_back_are_those_written_and_score_the_same(tmp_path):
    crops = people_with_dots()
    noise = np.random.default_rng(1).normal(0, 4, crops.keypoints.shape)
    written = [predictions_at(crops.keypoints + noise), replace(predictions_at(crops.keypoints), network=2)]
    write_predictions(tmp_path / "predictions.parquet", written)
    read = read_predictions(tmp_path / "predictions.parquet")
    assert [part.network for part in read] == [0, 2]
    for before, after in zip(written, read, strict=True):
        np.testing.assert_array_equal(before.keypoints, after.keypoints)
        np.testing.assert_array_equal(before.confidence, after.confidence)
        assert before.confidence.dtype == after.confidence.dtype
        assert scores_of(crops, before) == scores_of(crops, after)


def test_equal_predictions_make_equal_files(tmp_path):
    predictions = [predictions_at(people_with_dots().keypoints)]
    for name in ("one", "two"):
        write_predictions(tmp_path / name, predictions)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_missing_or_truncated_predictions_file_is_a_line_for_the_user(tmp_path):
    with pytest.raises(DataError, match="run the evaluate stage"):
        read_predictions(tmp_path / "none.parquet")
    path = tmp_path / "predictions.parquet"
    write_predictions(path, [predictions_at(people_with_dots().keypoints)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated"):
        read_predictions(path)


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("alignment", ["centre", "corner"])
def test_an_ideal_network_is_found_to_be_one(flip_test, alignment):
    config = small_config(flip_test=flip_test)
    config = replace(config, model=replace(config.model, heatmap_alignment=alignment))
    crops = people_with_dots()
    predictions = evaluation.predict_keypoints([DotFinder(alignment), Blank()], crops, config)
    assert [part.network for part in predictions] == [0, 1, 2]
    for ideal in (predictions[0], predictions[2]):  # the mean with a blank map has its peaks at half height
        assert np.abs(dequantize(ideal.keypoints) - crops.keypoints).max() < 0.1
    assert predictions[0].score.min() > 0.85
    np.testing.assert_allclose(predictions[2].score, predictions[0].score / 2, rtol=0.02)


def test_a_blank_network_scores_without_a_failure():
    config, crops = small_config(), people_with_dots()
    (predictions,) = evaluation.predict_keypoints([Blank()], crops, config)
    assert predictions.score.max() == 0
    json.dumps(scores_of(crops, predictions), allow_nan=False)
    sample = pseudo_quality.sample_pool(crops, np.arange(10) < 2, config, seed=0)
    arm = config.arm("dual_student")
    blank = pseudo_quality.predict_pool(Blank(), 0, crops, sample, config, arm, seed=0)
    quality = pseudo_quality.score_pool([blank], sample, arm.confidence_threshold, (32, 24))
    assert quality["maximum"]["kept"] == quality["maximum"]["pck_above_threshold"] == 0
    assert quality["maximum"]["num_peaks"] == quality["maximum"]["second_peak"] == 0
    assert quality["maximum"]["pck_refined"] is None  # nothing is kept


def test_an_ideal_network_has_ideal_pseudo_heatmaps_whatever_the_views():
    config, crops = small_config(), people_with_dots()
    sample = pseudo_quality.sample_pool(crops, np.zeros(10, bool), config, seed=0)
    arm = config.arm("dual_student")
    found = pseudo_quality.predict_pool(DotFinder(), 0, crops, sample, config, arm, seed=0)
    for mode in MODES:
        error = np.linalg.norm(dequantize(found.keypoints[mode]) - dequantize(sample.keypoints), axis=-1)
        assert np.median(error) < 0.3  # cells
    quality = pseudo_quality.score_pool([found], sample, 0.3, (32, 24))
    assert quality["none"]["pck"] == quality["average"]["pck"] == quality["maximum"]["pck"] == 100
    assert (found.confidence["maximum"] >= found.confidence["none"]).all()


def test_the_strength_widens_the_extra_views_and_leaves_the_weak_one_alone():
    config = small_config()
    none, usual, wide = (pseudo_quality.draw_pool_views(config, 64, 0, strength) for strength in (0.0, 1.0, 2.0))
    torch.testing.assert_close(none[0].matrix, wide[0].matrix, rtol=0, atol=0)
    family = replace(config.views.multi, flip_probability=0.0)
    assert family.scaled(1.0) == family
    narrow = replace(family, rotation_deg=20.0, box_scale=(0.75, 1.25)).scaled(0.5)
    assert (narrow.rotation_deg, narrow.box_scale, narrow.rotation_probability) == (
        10.0, (0.875, 1.125), family.rotation_probability)
    still = torch.eye(3).expand(64, 3, 3)
    upright = torch.where(none[1].flip[:, None, None], still, none[1].matrix)
    torch.testing.assert_close(upright, still, rtol=0, atol=1e-4)
    turns = [torch.atan2(views[1].matrix[:, 1, 0], views[1].matrix[:, 1, 1]).std() for views in (usual, wide)]
    assert turns[1] > 1.5 * turns[0]


def test_all_arms_of_a_seed_meet_the_same_persons_in_the_same_views_in_batches_of_any_size():
    crops, labeled = people_with_dots(), np.arange(10) < 3
    samples, answers = [], []
    for batch_size, arm in ((3, "supervised"), (64, "full")):
        config = small_config(batch_size=batch_size, num_pseudo_persons=5)
        samples.append(pseudo_quality.sample_pool(crops, labeled, config, seed=1))
        answers.append(
            pseudo_quality.predict_pool(DotFinder(), 0, crops, samples[-1], config, config.arm(arm), seed=1)
        )
    np.testing.assert_array_equal(samples[0].person, samples[1].person)
    assert len(samples[0].person) == 5
    assert samples[0].person.min() >= 3
    for mode in MODES:
        np.testing.assert_allclose(answers[0].keypoints[mode], answers[1].keypoints[mode], atol=1)
    other = pseudo_quality.sample_pool(crops, labeled, config, seed=2)
    assert set(other.person) != set(samples[0].person)


def test_a_pool_without_anybody_is_refused():
    with pytest.raises(DataError, match="every person is labelled"):
        pseudo_quality.sample_pool(people_with_dots(), np.ones(10, bool), small_config(), seed=0)


def test_pseudo_labels_are_written_for_annotated_joints_only(tmp_path):
    config, crops = small_config(), people_with_dots()
    sample = pseudo_quality.sample_pool(crops, np.arange(10) < 2, config, seed=0)
    arm = config.arm("dual_student")
    both = [
        pseudo_quality.predict_pool(network, number, crops, sample, config, arm, seed=0)
        for number, network in enumerate([DotFinder(), Blank()])
    ]
    pseudo_quality.write_pool(tmp_path / "pool.parquet", both, sample)
    table = pd.read_parquet(tmp_path / "pool.parquet")
    assert len(table) == 2 * (crops.visibility[sample.person] > 0).sum()
    row = table[(table.network == 0) & (table.person == sample.person[0]) & (table.joint == 16)].iloc[0]
    assert row.image_id == crops.image_id[sample.person[0]]
    x, y = (both[0].keypoints["average"][0, 16] - sample.keypoints[0, 16]) / 64
    assert row.error_average / 1000 == pytest.approx(math.hypot(x, y) / sample.reference_length[0], abs=1e-3)
    quality = pseudo_quality.score_pool(both, sample, arm.confidence_threshold, (32, 24))
    assert quality["none"]["pck"] == pytest.approx(100 * (table.error_none <= 200).mean())
    assert quality["maximum"]["kept"] == pytest.approx(
        100 * (table.confidence_maximum >= 1000 * arm.confidence_threshold).mean())


def test_thousandths_keep_which_side_of_a_threshold_a_value_is_on_and_end_somewhere():
    assert thousandths(np.array([0.2, 0.2001, 0.1999, 0.0, 70.0, np.inf]), up=True).tolist() == [
        200, 201, 200, 0, 65535, 65535]
    assert thousandths(np.array([0.3, 0.2999, 0.3001, -0.1]), up=False).tolist() == [300, 299, 300, 0]


def pool_answers(uncertainties: list[float], confidence: float) -> list[pseudo_quality.PoolPredictions]:
    shape = (1, NUM_KEYPOINTS)
    return [
        pseudo_quality.PoolPredictions(
            number, {}, {}, {"none": np.full(shape, confidence, np.float16)}, {}, {},
            np.full(shape, uncertainty, np.float16)
        )
        for number, uncertainty in enumerate(uncertainties)
    ]


def test_the_more_certain_student_keeps_its_own_map_by_a_margin():
    config = small_config()
    sample = pseudo_quality.sample_pool(people_with_dots(1), np.zeros(1, bool), config, seed=0)
    arm = replace(config.arm("dual_student"), uncertainty_margin=0.05, confidence_threshold=0.3)
    shares = pseudo_quality.score_selection(pool_answers([0.1, 0.2], 0.5), sample, arm)
    assert shares == {"own_share": [100.0, 0.0], "cross_share": [0.0, 100.0]}
    shares = pseudo_quality.score_selection(pool_answers([0.1, 0.14], 0.5), sample, arm)
    assert shares["own_share"] == [0.0, 0.0]
    shares = pseudo_quality.score_selection(pool_answers([0.1, 0.2], 0.2), sample, arm)
    assert shares["own_share"] == [0.0, 0.0]  # both are blank, hence wholly uncertain
    assert pseudo_quality.score_selection(pool_answers([0.1], 0.5), sample, arm) is None


def test_the_headline_is_that_of_the_networks_that_make_the_labels_but_for_a_frozen_teacher():
    networks = {str(n): {"AP": ap, "AR": ap, "pck": {"0.2": ap}} for n, ap in enumerate([40.0, 50.0, 60.0])}
    arms = small_config().arms
    assert evaluation.headline(networks, arms["dual_student"]) == {"AP": 45, "AR": 45, "pck": 45, "AP_ensemble": 60}
    assert evaluation.headline(networks, arms["teacher_student"])["AP"] == 50
    frozen = replace(arms["teacher_student"], label_source="frozen")
    assert evaluation.headline(networks, frozen)["AP"] == 40
    assert frozen.label_networks == (1,)
    assert evaluation.headline({"0": networks["0"]}, arms["supervised"])["AP_ensemble"] is None


def test_examples_are_the_best_and_the_worst_persons_in_reference_px():
    crops = people_with_dots()
    offset = np.linspace(0, 20, 10)[:, None, None]
    crops.visibility[:] = 2
    examples = evaluation.validation_examples(crops, predictions_at(crops.keypoints + offset), count=4)
    assert examples["persons"].tolist() == [0, 1, 8, 9]
    assert (np.diff(examples["oks"]) < 0).all()
    assert examples["crops"].shape == (4, *INPUT, 3)
    np.testing.assert_array_equal(examples["crops"], crops.crops[examples["persons"], 12:60, 12:44])
    np.testing.assert_allclose(examples["true_keypoints"][0], crops.keypoints[0] - 12)
    assert len(evaluation.validation_examples(crops, predictions_at(crops.keypoints), count=0)["crops"]) == 0


def test_examples_of_the_pool_show_the_heatmaps_that_were_scored(tmp_path):
    config, crops = small_config(), people_with_dots()
    sample = pseudo_quality.sample_pool(crops, np.arange(10) < 2, config, seed=0)
    arm = config.arm("dual_student")
    examples = evaluation.pool_examples(DotFinder(), crops, sample, config, arm, seed=0, count=3)
    assert examples["single_views"].shape == (3, 3, 24, 16)  # persons, views, cells
    scored = pseudo_quality.predict_pool(DotFinder(), 0, crops, sample, config, arm, seed=0)
    np.testing.assert_allclose(examples["maximum"].max(axis=(1, 2)), scored.confidence["maximum"][:3, 16], atol=2e-3)
    none = evaluation.pool_examples(DotFinder(), crops, sample, config, arm, seed=0, count=0)
    assert none["single_views"].shape == (0, 3, 24, 16)
    evaluation.write_examples(tmp_path / "examples.npz", examples)
    with np.load(tmp_path / "examples.npz") as stored:
        np.testing.assert_array_equal(stored["average"], examples["average"])

"""Poses of boxes in photos: one route through packed crops, one straight from photos, the same points."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssl_pose.coco import load_persons
from ssl_pose.config import load_config
from ssl_pose.crops import load_crops
from ssl_pose.evaluation import predict_keypoints
from ssl_pose.inference import PoseModel, predict_persons, predict_photo
from ssl_pose.model import build_model
from ssl_pose.own_photos import open_upright
from ssl_pose.packing import pack_crops
from ssl_pose.persons import first_persons
from ssl_pose.photos import crop_matrices
from ssl_pose.predictions import dequantize
from ssl_pose.scoring import canvas_to_photo

CONFIG = load_config(Path(__file__).parents[1] / "params.yaml", {"training.device": "cpu", "evaluation.batch_size": 8})


def random_networks(count: int) -> list[nn.Module]:
    networks = [build_model(CONFIG.model, seed=seed).eval() for seed in range(count)]
    for seed, network in enumerate(networks):
        nn.init.normal_(network.head.weight, std=0.5, generator=torch.Generator().manual_seed(seed))
    return networks


def pose_model(networks, **options) -> PoseModel:
    return PoseModel(networks, CONFIG.model, CONFIG.data.input_size, CONFIG.data.box_padding, **options)


@pytest.mark.parametrize("flip_test", [False, True])
def test_photos_and_packed_crops_give_the_same_points(rendered_coco: Path, tmp_path: Path, flip_test: bool):
    persons = first_persons(load_persons(rendered_coco, "val2017"), 5)
    data, networks = CONFIG.data, random_networks(2)
    pack_crops(rendered_coco, persons, tmp_path / "val", data.input_size, data.canvas_scale, data.box_padding)
    val = load_crops(tmp_path / "val")
    rules = replace(CONFIG.evaluation, flip_test=flip_test, decoder="argmax")
    packed = predict_keypoints(networks, val, replace(CONFIG, evaluation=rules))
    streamed = predict_persons(pose_model(networks), rendered_coco, persons, "argmax", flip_test, batch_size=3)
    assert len(packed) == len(streamed) == 3
    for old, new in zip(packed, streamed, strict=True):
        points = canvas_to_photo(dequantize(old.keypoints), val.crop_matrix)
        agree = np.abs(points - new.keypoints).max(-1) < 0.1  # the canvas is cut a little differently at its border
        assert agree.mean() > 0.9
        assert np.abs(old.confidence - new.confidence).mean() < 0.02


def test_the_order_of_the_colours_is_that_of_the_model(rendered_coco: Path):
    persons = first_persons(load_persons(rendered_coco, "val2017"), 1)
    photo = open_upright(rendered_coco / persons.file_name[0])
    swapped = Image.merge("RGB", photo.split()[::-1])
    networks = random_networks(1)
    straight = pose_model(networks, fill_color=(0, 0, 0))
    bgr = pose_model(networks, fill_color=(0, 0, 0), color_order="bgr")
    first = predict_photo(bgr, photo, persons.box_xywh)
    second = predict_photo(straight, swapped, persons.box_xywh)
    np.testing.assert_allclose(first.keypoints, second.keypoints)
    assert not np.allclose(first.confidence, predict_photo(straight, photo, persons.box_xywh).confidence)


class Oracle(nn.Module):
    """Draws a peak at one place of every crop, in the published convention: image px over 4."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.place, self.weight = (x, y), nn.Parameter(torch.zeros(1))

    def forward(self, images):
        rows, columns = torch.arange(64.0)[:, None], torch.arange(48.0)
        peak = torch.exp(-((columns - self.place[0] / 4) ** 2 + (rows - self.place[1] / 4) ** 2) / 8)
        return peak.expand(len(images), 17, 64, 48) + self.weight


def test_published_heatmaps_lie_over_four_times_their_cell(rendered_coco: Path):
    """A peak at px (80, 120) of a 256x192 input comes back to the photo through the crop's matrix."""
    persons = first_persons(load_persons(rendered_coco, "val2017"), 2)
    model = replace(CONFIG.model, heatmap_alignment="corner", heatmap_stride=4, heatmap_sigma=2.0)
    oracle = PoseModel([Oracle(80, 120)], model, (256, 192), 1.25)
    found = predict_persons(oracle, rendered_coco, persons, "dark", False)
    matrices = crop_matrices(persons.box_xywh, (256, 192), (256, 192), 1.25)
    expected = np.stack([(np.linalg.inv(matrix) @ [80, 120, 1])[:2] for matrix in matrices])
    np.testing.assert_allclose(found[0].keypoints, np.repeat(expected[:, None], 17, 1), atol=0.02)

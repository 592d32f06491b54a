"""Scores as published: a perfect prediction scores 100, doubles cost nothing once they are suppressed, files load."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from ssl_pose.challenge import boxes_to_score, score_on_directory, score_results, write_poses
from ssl_pose.coco import DataError, load_persons
from ssl_pose.inference import Poses
from ssl_pose.published import load_simplebaseline_checkpoint
from tests.published_names import random_network, simplebaseline_names


def true_poses(persons, rows) -> Poses:
    return Poses(persons.keypoints[rows], np.where(persons.visibility[rows] > 0, 0.9, 0.1).astype(np.float32))


def test_the_labels_themselves_score_100_with_crowds_and_persons_without_keypoints_ignored(rendered_coco, tmp_path):
    persons = load_persons(rendered_coco, "val2017")
    kept = write_poses(tmp_path / "results.json", persons, true_poses(persons, np.arange(len(persons))), 1.25, 0.75)
    assert kept == len(persons)
    scores = score_results(rendered_coco, "val2017", tmp_path / "results.json")
    assert scores["AP"] == scores["AR"] == pytest.approx(100)


def test_doubles_of_a_detector_are_suppressed_and_rescored(rendered_coco, tmp_path):
    """Each detected box gets the pose of the person it found: after suppression one a person stays, with its best."""
    truth = load_persons(rendered_coco, "val2017")
    path = rendered_coco / "annotations/person_detections_val2017.json"
    found = boxes_to_score(rendered_coco, "val2017", path, 0.0)
    middle = truth.box_xywh[:, :2] + truth.box_xywh[:, 2:] / 2
    nearest = [int(np.where(truth.image_id == image, np.linalg.norm(middle - place, axis=1), np.inf).argmin())
               for image, place in zip(found.image_id, found.box_xywh[:, :2] + found.box_xywh[:, 2:] / 2, strict=True)]
    poses = true_poses(truth, nearest)
    kept = write_poses(tmp_path / "results.json", found, poses, 1.25, 0.75)
    assert len(found) > kept == len(set(nearest))
    results = json.loads((tmp_path / "results.json").read_text())
    best = [found.score[np.array(nearest) == person].max() for person in set(nearest)]
    assert sorted(round(row["score"] / 0.9, 4) for row in results) == pytest.approx(sorted(best), abs=1e-3)


def test_a_published_checkpoint_is_scored_from_photos_to_results_that_the_server_takes(rendered_coco, tmp_path, capsys):
    torch.save(simplebaseline_names(random_network("resnet18", 8)), tmp_path / "pose_resnet.pth.tar")
    model = load_simplebaseline_checkpoint(tmp_path / "pose_resnet.pth.tar")
    boxes = rendered_coco / "annotations/person_detections_val2017.json"
    table = score_on_directory(model, rendered_coco, "val2017", boxes, 0.0, "quarter", True, 8, tmp_path / "scores")
    assert list(table.columns[:6]) == ["AP", "AP50", "AP75", "APM", "APL", "AR"]
    assert 0 <= table.loc["network", "AP"] < 5  # random weights
    path = tmp_path / "scores" / "person_keypoints_val2017_network_results.json"
    rows = json.loads(path.read_text())
    assert all(row.keys() == {"image_id", "category_id", "keypoints", "score"} for row in rows)
    assert all(len(row["keypoints"]) == 51 and row["category_id"] == 1 for row in rows)
    truth = COCO(str(rendered_coco / "annotations/person_keypoints_val2017.json"))
    assert len(truth.loadRes(str(path)).anns) == len(rows)
    assert "boxes of val2017" in capsys.readouterr().out


def test_results_of_other_photos_are_refused_in_one_line(rendered_coco, tmp_path):
    (tmp_path / "results.json").write_text('[{"image_id": 77, "category_id": 1, "keypoints": [], "score": 1}]')
    with pytest.raises(DataError, match="holds no results for val2017") as caught:
        score_results(rendered_coco, "val2017", Path(tmp_path / "results.json"))
    assert "\n" not in str(caught.value)

"""Pseudo-labels as a COCO file: other readers open it, and an ideal network's labels are the hidden ones."""

import contextlib
import errno
import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from ssl_pose import pseudo_export
from ssl_pose.batches import open_pool
from ssl_pose.coco import DataError, load_persons
from ssl_pose.config import ConfigError
from ssl_pose.crops import load_crops
from ssl_pose.exporting import export_labels
from ssl_pose.model import save_networks
from ssl_pose.packing import pack_crops
from ssl_pose.preparation import pack_persons, select_persons
from ssl_pose.pseudo_export import CHUNK, draw_views, export_pseudo_labels, label_persons
from ssl_pose.read_ahead import ReadAhead
from ssl_pose.splits import write_split
from ssl_pose.workspace import Workspace
from tests.test_evaluation import DotFinder, people_with_dots, small_config
from tests.test_inference import CONFIG, random_networks


@pytest.fixture(scope="module")
def packed(rendered_coco, tmp_path_factory):
    records, data = load_persons(rendered_coco, "train2017"), CONFIG.data
    folder = tmp_path_factory.mktemp("packed") / "train"
    pack_crops(rendered_coco, records, folder, data.input_size, data.canvas_scale, data.box_padding)
    return records, load_crops(folder)


def export(packed, path, arm="full", networks=None, labeled=None, config=CONFIG, **options):
    records, crops = packed
    labeled = np.arange(len(crops)) < 3 if labeled is None else labeled
    networks = networks or random_networks(2)
    method = replace(CONFIG.arm(arm), **options)
    counts = export_pseudo_labels(networks, records, crops, labeled, config, method, 0, path)
    return counts, json.loads(path.read_text())


def test_coco_and_our_own_reader_open_the_file(packed, rendered_coco, tmp_path):
    records, crops = packed
    counts, content = export(packed, tmp_path / "annotations" / "person_keypoints_train2017.json",
                             confidence_threshold=0.01)
    assert counts["persons"] == len(content["annotations"]) == len(crops) - 3
    assert counts["kept"] == sum(entry["num_keypoints"] for entry in content["annotations"]) > 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "annotations" / "person_keypoints_train2017.json")
    assert sorted(coco.getAnnIds()) == sorted(crops.annotation_id[3:].tolist())
    (tmp_path / "train2017").symlink_to(rendered_coco / "train2017")
    again = load_persons(tmp_path, "train2017")
    assert set(again.annotation_id) <= set(records.annotation_id[3:])
    row = {int(number): place for place, number in enumerate(records.annotation_id)}[int(again.annotation_id[0])]
    np.testing.assert_allclose(again.box_xywh[0], records.box_xywh[row])
    assert again.file_name[0] == records.file_name[row]


def test_each_image_says_in_which_folder_of_the_directory_it_lies(packed, tmp_path):
    """A pool may span the rest of train2017 and unlabeled2017."""
    records, crops = packed
    last = records.file_name[-1]
    names = [name.replace("train2017", "unlabeled2017") if name == last else name for name in records.file_name]
    _, content = export((replace(records, file_name=tuple(names)), crops), tmp_path / "labels.json")
    found = {f"{image['folder']}/{image['file_name']}" for image in content["images"]}
    assert found == set(names[3:])
    assert {image["folder"] for image in content["images"]} == {"train2017", "unlabeled2017"}


def test_a_joint_under_the_threshold_has_no_point_and_its_confidence_still_stands_there(packed, tmp_path):
    _, content = export(packed, tmp_path / "a.json")
    for entry in content["annotations"]:
        points = np.reshape(entry["keypoints"], (17, 3))
        kept = np.array(entry["keypoint_confidence"]) >= CONFIG.arm("full").confidence_threshold
        np.testing.assert_array_equal(points[:, 2], 2 * kept)
        assert (points[~kept] == 0).all()
        assert len(entry["keypoint_uncertainty"]) == len(entry["keypoint_network"]) == 17


def test_the_same_run_gives_the_same_bytes_and_an_arm_without_a_threshold_keeps_all(packed, tmp_path):
    networks = random_networks(2)
    first, _ = export(packed, tmp_path / "a.json", "dual_student", networks)
    second, _ = export(packed, tmp_path / "b.json", "dual_student", networks)
    assert first == second
    assert first["kept"] == first["joints"]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_run_labels_the_pool_of_its_own_split(packed, rendered_coco, tmp_path):
    records, crops = packed
    here = Workspace(CONFIG, tmp_path, tmp_path, {})
    here.coco.parent.mkdir()
    here.coco.symlink_to(rendered_coco)
    here.crops("train").parent.mkdir()
    here.crops("train").symlink_to(crops.directory)
    labeled = crops.image_id == crops.image_id[0]
    write_split(here.split(0), crops, labeled, label_count=1, seed=0, method="hash", unit="image")
    with pytest.raises(ConfigError, match=r"no weights .*; train the run first"):
        export_labels(here, "teacher_student_refine", 0, tmp_path / "labels.json")
    save_networks(here.model("teacher_student_refine", 0), random_networks(2), CONFIG.model)
    counts = export_labels(here, "teacher_student_refine", 0, tmp_path / "labels.json")
    assert counts["persons"] == (~labeled).sum()
    content = json.loads((tmp_path / "labels.json").read_text())
    assert {entry["id"] for entry in content["annotations"]} == set(records.annotation_id[~labeled].tolist())
    assert {number for entry in content["annotations"] for number in entry["keypoint_network"]} == {0}  # the teacher


def test_a_run_that_left_out_a_broken_photo_labels_the_other_persons_of_its_pool(rendered_coco, tmp_path):
    config = replace(CONFIG, data=replace(CONFIG.data, skip_broken_photos=True))
    here = Workspace(config, tmp_path, tmp_path, {})
    shutil.copytree(rendered_coco, here.coco)
    whole = load_persons(here.coco, "train2017")
    (here.coco / whole.file_name[-1]).write_bytes(b"no photo")
    records, broken = select_persons(here)
    pack_persons(here, records)
    crops = load_crops(here.crops("train"))
    assert len(broken) == 1
    assert 3 < len(crops) < len(whole)
    labeled = crops.image_id == crops.image_id[0]
    write_split(here.split(0), crops, labeled, label_count=1, seed=0, method="hash", unit="image")
    save_networks(here.model("full", 0), random_networks(2), config.model)
    counts = export_labels(here, "full", 0, tmp_path / "labels.json")
    assert counts["persons"] == (~labeled).sum()
    content = json.loads((tmp_path / "labels.json").read_text())
    assert {entry["id"] for entry in content["annotations"]} == set(crops.annotation_id[~labeled].tolist())


def test_annotations_that_changed_since_the_crops_were_packed_are_refused(packed, tmp_path):
    records, crops = packed
    with pytest.raises(DataError, match="not those of this COCO directory"):
        export((replace(records, annotations_sha256="another file's"), crops), tmp_path / "labels.json")


def test_an_ideal_network_says_the_hidden_labels_and_a_worse_one_is_not_asked():
    config, crops = small_config(), people_with_dots()
    arm, rows = config.arm("full"), torch.arange(len(crops))
    pool = open_pool(crops, next(DotFinder().parameters()).device)
    views = draw_views(config, arm, len(crops), 0, 0)
    poor = DotFinder()
    poor.scale.data *= 0.1  # all under the threshold
    points, confidence, _, network = label_persons([poor, DotFinder()], pool, rows, views, config, arm)
    error = np.linalg.norm(points - crops.keypoints, axis=-1)
    assert np.median(error) < 1.0  # canvas px
    assert (network == 1).mean() > 0.95
    assert confidence.mean() > 0.5


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_stopped_export_leaves_the_old_file_and_nothing_beside_it(packed, tmp_path, monkeypatch):
    path = tmp_path / "labels.json"
    export(packed, path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="every person is labelled"):
        export(packed, path, labeled=np.ones(len(packed[1]), bool))
    records, crops = packed
    with pytest.raises(DataError, match="not those of this COCO directory"):
        export((records.take(np.arange(len(records))[::-1]), crops), path)
    monkeypatch.setattr(pseudo_export, "draw_views", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export(packed, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_crops_that_are_read_once_are_not_copied_to_the_device(packed, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pseudo_export, "label_persons",
                        lambda networks, pool, *rest: seen.append(pool) or label_persons(networks, pool, *rest))
    export(packed, tmp_path / "labels.json", config=replace(
        CONFIG, training=replace(CONFIG.training, crops_on_device="always")))
    assert {type(pool.pixels) for pool in seen} == {ReadAhead}


def test_views_are_those_of_their_chunk():
    arm = CONFIG.arm("full")
    first, second = (draw_views(CONFIG, arm, CHUNK, 0, chunk) for chunk in (0, 1))
    assert len(first) == 1 + arm.num_views
    assert (first[0].matrix == second[0].matrix).all()
    assert (first[1].matrix != second[1].matrix).any()

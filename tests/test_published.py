"""Published checkpoints: by whichever names, the network that comes out computes what went in."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_pose.model import CheckpointError
from ssl_pose.published import load_simplebaseline_checkpoint
from tests.published_names import mmpose_names, random_network, simplebaseline_names, student_names

IMAGES = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
# lib/dataset/coco.py of Semi_Human_Pose maps united channels to COCO's keypoints by this list; -1 is none.
UNITED_TO_COCO = [-1, 12, 14, 16, 11, 13, 15, -1, -1, -1, -1, 0, -1, -1, 5, 7, 9, 6, 8, 10, 2, 1, 4, 3]
CHANNELS = tuple(UNITED_TO_COCO.index(keypoint) for keypoint in range(17))


def same(found, expected) -> bool:
    with torch.no_grad():
        return torch.equal(found(IMAGES), expected(IMAGES))


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
def test_the_original_names_with_every_depth(tmp_path: Path, architecture: str):
    network = random_network(architecture)
    torch.save(simplebaseline_names(network), tmp_path / "pose_resnet.pth.tar")
    loaded = load_simplebaseline_checkpoint(tmp_path / "pose_resnet.pth.tar")
    assert loaded.model.architecture == architecture
    assert loaded.model.width == 16
    assert (loaded.model.heatmap_alignment, loaded.color_order, loaded.fill_color) == ("corner", "bgr", (0, 0, 0))
    assert same(loaded.networks[0], network)
    assert not loaded.networks[0].training


def test_an_old_file_without_counters_inside_a_training_state(tmp_path: Path):
    network = random_network()
    weights = {f"module.{name}": value for name, value in simplebaseline_names(network).items()
               if not name.endswith("num_batches_tracked")}
    state = {"epoch": 140, "model": "pose_resnet", "state_dict": weights, "perf": 0.7, "optimizer": {"state": {}}}
    torch.save(state, tmp_path / "checkpoint.pth.tar", _use_new_zipfile_serialization=False)
    assert same(load_simplebaseline_checkpoint(tmp_path / "checkpoint.pth.tar").networks[0], network)


@pytest.mark.parametrize("head", ["head", "keypoint_head"])
def test_the_names_of_mmpose_and_its_description_of_the_data(tmp_path: Path, head: str):
    network = random_network("resnet50")
    meta = {"epoch": 210, "dataset_meta": {"sigmas": np.arange(17.0, dtype=np.float32), "swap": np.array([1, 2])},
            "seed": np.int64(3)}
    torch.save({"meta": meta, "state_dict": mmpose_names(network, head)}, tmp_path / "td-hm_res50.pth")
    loaded = load_simplebaseline_checkpoint(tmp_path / "td-hm_res50.pth", input_size=(384, 288))
    assert same(loaded.networks[0], network)
    assert (loaded.color_order, loaded.input_size, loaded.model.heatmap_sigma) == ("rgb", (384, 288), 3.0)


def test_two_students_of_the_united_skeleton_become_two_networks_of_coco(tmp_path: Path):
    students = [random_network(seed=1), random_network(seed=2)]
    torch.save({"state_dict": student_names(students, CHANNELS)}, tmp_path / "COCO1K_PoseDual.pth.tar")
    loaded = load_simplebaseline_checkpoint(tmp_path / "COCO1K_PoseDual.pth.tar")
    assert len(loaded.networks) == 2
    assert all(same(found, student) for found, student in zip(loaded.networks, students, strict=True))
    assert loaded.color_order == "bgr"


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys):
    torch.save({"state_dict": {"conv1.weight": Malicious()}}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="is truncated, or holds more than weights") as caught:
        load_simplebaseline_checkpoint(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(CheckpointError, match="is truncated, or holds more than weights"):
        load_simplebaseline_checkpoint(tmp_path / "bad.pth")
    assert capsys.readouterr().out == ""


def broken(change):
    weights = simplebaseline_names(random_network())
    change(weights)
    return weights


@pytest.mark.parametrize(("content", "message"), [
    ({"a": 1}, "holds no weights by name"), ([1], "holds no weights by name"),
    ({"a": torch.zeros(3)}, "holds no PoseResNet"),
    (broken(lambda weights: weights.pop("final_layer.weight")), "holds no PoseResNet"),
    (broken(lambda weights: weights.update({"final_layer.weight": torch.zeros(16, 16, 1, 1)})),
     "predicts 16 keypoints; known are COCO's 17 and the united 24"),
    (broken(lambda weights: weights.pop("deconv_layers.6.weight")), "holds a resnet18 that is no SimpleBaseline"),
    (broken(lambda weights: weights.update({"deconv_layers.3.weight": torch.zeros(16, 16, 3, 3)})),
     "holds a resnet18 that is no SimpleBaseline"),
])
def test_what_is_no_simplebaseline_is_refused_in_one_line(tmp_path: Path, content, message):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError) as caught:
        load_simplebaseline_checkpoint(tmp_path / "file.pth")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_cut_file_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_simplebaseline_checkpoint(tmp_path / "gone.pth")
    torch.save(simplebaseline_names(random_network()), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_simplebaseline_checkpoint(tmp_path / "cut.pth")

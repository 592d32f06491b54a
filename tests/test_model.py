"""Networks and their files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_pose.config import ModelConfig
from ssl_pose.model import CheckpointError, build_model, load_networks, predict_heatmaps, save_networks

UNET = ModelConfig("unet", width=4, heatmap_stride=2, heatmap_sigma=1.5, heatmap_alignment="centre",
                   pretrained="none")
IMAGES = torch.rand(2, 3, 64, 48)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_u_shaped_network_keeps_its_stride_on_non_square_images(stride):
    network = build_model(replace(UNET, heatmap_stride=stride))
    assert network(IMAGES).shape == (2, 17, 64 // stride, 48 // stride)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_simple_baseline_has_stride_4_and_a_linear_output(architecture):
    network = build_model(replace(UNET, architecture=architecture, heatmap_stride=4, width=8)).eval()
    with torch.no_grad():
        heatmaps = network(torch.rand(2, 3, 64, 96))
    assert heatmaps.shape == (2, 17, 16, 24)
    assert heatmaps.min() < 0 < heatmaps.max()


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    first, after = build_model(UNET, seed=1), torch.rand(1)
    torch.manual_seed(3)
    second, other = build_model(UNET, seed=1), build_model(UNET, seed=2)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_bf16_is_used_inside_the_network_only_and_stays_close():
    network = build_model(UNET, seed=0).eval()
    with torch.no_grad():
        exact, rounded = predict_heatmaps(network, IMAGES), predict_heatmaps(network, IMAGES, "bf16")
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05


def test_saved_networks_come_back_bit_equal(tmp_path: Path):
    networks = [build_model(UNET, seed=0), build_model(UNET, seed=1)]
    save_networks(tmp_path / "run" / "model.safetensors", networks, UNET)
    loaded = load_networks(tmp_path / "run" / "model.safetensors", UNET)
    assert len(loaded) == 2
    for before, after in zip(networks, loaded, strict=True):
        assert not after.training
        for name, value in before.state_dict().items():
            assert torch.equal(value, after.state_dict()[name])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.safetensors"]


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_networks(path, [build_model(UNET)], UNET)
    with pytest.raises(CheckpointError, match=r"holds unet weights that do not fit model.architecture unet, width 8"):
        load_networks(path, replace(UNET, width=8))


def test_truncated_and_missing_weights_are_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_networks(path, UNET)
    save_networks(path, [build_model(UNET)], UNET)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated") as caught:
        load_networks(path, UNET)
    assert "\n" not in str(caught.value)

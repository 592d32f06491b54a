"""Published backbones: their shapes and sizes, and what is said where their weights cannot be had."""

import sys
from pathlib import Path

import pytest
import torch

from ssl_pose.backbones import hrnet_backbone, resnet_backbone
from ssl_pose.config import ConfigError, ModelConfig
from ssl_pose.model import build_model

HRNET = ModelConfig("hrnet_w32", width=256, heatmap_stride=4, heatmap_sigma=3.0, heatmap_alignment="centre",
                    pretrained="none")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder of weights, and no network."""
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_the_pose_network_of_hrnet_has_the_published_size_and_uses_every_weight():
    """28.5 million parameters (Sun et al. 2019, Table 1), and none that training would leave alone."""
    network = build_model(HRNET)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(28.5e6, rel=0.002)
    heatmaps = network(torch.rand(2, 3, 64, 96))
    assert heatmaps.shape == (2, 17, 16, 24)
    heatmaps.square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_weights_of_resnet_missing_offline_are_named_with_their_place(hub: Path):
    with pytest.raises(ConfigError) as caught:
        resnet_backbone("resnet18", "IMAGENET1K_V1")
    message = str(caught.value)
    assert "the ImageNet weights resnet18 IMAGENET1K_V1 cannot be had (Network is unreachable)" in message
    assert "download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert f"as {hub / 'resnet18-f37072fd.pth'}, or set model.pretrained to none" in message
    assert "\n" not in message


def test_weights_of_resnet_that_were_placed_by_hand_are_used_and_broken_ones_named(hub: Path):
    from torchvision.models import resnet18

    torch.manual_seed(3)
    published = resnet18()
    torch.save(published.state_dict(), hub / "resnet18-f37072fd.pth")
    backbone = resnet_backbone("resnet18", "IMAGENET1K_V1")
    assert torch.equal(backbone[0].weight, published.conv1.weight)
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half")
    with pytest.raises(ConfigError, match="resnet18 IMAGENET1K_V1 cannot be had"):
        resnet_backbone("resnet18", "IMAGENET1K_V1")


def test_the_weights_of_hrnet_missing_offline_are_named_and_placed_ones_used(hub: Path):
    import safetensors.torch

    with pytest.raises(ConfigError, match=r"weights hrnet_w32 ms_in1k cannot be had \(Network is") as caught:
        hrnet_backbone("hrnet_w32", "ms_in1k")
    path = hub / "hrnet_w32.ms_in1k.safetensors"
    assert str(path) in str(caught.value)
    published = hrnet_backbone("hrnet_w32", "none")
    safetensors.torch.save_file(published.state_dict(), path)
    assert torch.equal(hrnet_backbone("hrnet_w32", "ms_in1k").conv2.weight, published.conv2.weight)


def test_without_timm_its_name_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"hrnet_w48 needs timm; install it with: pip install timm"):
        hrnet_backbone("hrnet_w48", "none")


def test_two_students_share_the_pretrained_backbone_and_differ_after_it(hub: Path):
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), hub / "resnet18-f37072fd.pth")
    config = ModelConfig("resnet18", 8, 4, 2.0, "centre", "IMAGENET1K_V1")
    first, second = build_model(config, seed=1), build_model(config, seed=2)
    assert torch.equal(first.backbone[0].weight, second.backbone[0].weight)
    assert not torch.equal(first.deconvolutions[0].weight, second.deconvolutions[0].weight)
    assert not torch.equal(first.head.weight, second.head.weight)

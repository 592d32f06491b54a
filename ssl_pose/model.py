"""Networks from images to heatmaps, and their files.

All architectures are `forward(images (B, 3, H, W)) -> heatmaps (B, K, H / stride, W / stride)` with a linear
output, and nothing else. Weights are safetensors; the architecture stands in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_pose.backbones import hrnet_backbone, resnet_backbone
from ssl_pose.config import ModelConfig
from ssl_pose.files import write_bytes
from ssl_pose.precision import passes_in
from ssl_pose.skeleton import NUM_KEYPOINTS

RESNET_CHANNELS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}
DEEPEST_STRIDE = 16  # of the U-shaped network, input px per cell of its coarsest level


class CheckpointError(ValueError):
    """A line for the user: which weights file cannot be used, and why."""


def conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """A small U-shaped network with skip connections, for CPU budgets.

    Levels lie at strides heatmap_stride, 2 * heatmap_stride, ..., 16 with width, 2 * width, ... channels.
    """

    def __init__(self, width: int, heatmap_stride: int, num_keypoints: int = NUM_KEYPOINTS) -> None:
        super().__init__()
        num_levels = (DEEPEST_STRIDE // heatmap_stride).bit_length()
        channels = [width * 2**level for level in range(num_levels)]
        stem = [conv_norm(3, width, 2 if heatmap_stride > 1 else 1)]
        stem += [conv_norm(width, width, 2 if heatmap_stride > 2 else 1)]
        self.stem = nn.Sequential(*stem)
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(
            nn.Sequential(conv_norm(fine, coarse, 2), conv_norm(coarse, coarse)) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(conv_norm(fine + coarse, fine) for fine, coarse in reversed(pairs))
        self.head = nn.Conv2d(width, num_keypoints, 1)
        nn.init.normal_(self.head.weight, std=0.001)  # starts from blank maps, as SimpleBaseline does
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        levels = [self.stem(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        features = levels.pop()
        for up in self.up:
            skip = levels.pop()
            features = F.interpolate(features, size=skip.shape[-2:], mode="nearest")
            features = up(torch.cat([skip, features], dim=1))
        return self.head(features)


class PoseResNet(nn.Module):
    """SimpleBaseline (Xiao et al. 2018): a torchvision ResNet, three 4x4 deconvolutions, a 1x1 head; stride 4."""

    def __init__(self, backbone: str, width: int, pretrained: str, num_keypoints: int = NUM_KEYPOINTS) -> None:
        super().__init__()
        self.backbone = resnet_backbone(backbone, pretrained)
        layers: list[nn.Module] = []
        channels = RESNET_CHANNELS[backbone]
        for _ in range(3):
            layers += [nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width),
                       nn.ReLU(inplace=True)]
            channels = width
        self.deconvolutions = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, num_keypoints, 1)
        for layer in (*self.deconvolutions, self.head):
            if isinstance(layer, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.deconvolutions(self.backbone(images)))


class PoseHRNet(nn.Module):
    """HRNet (Sun et al. 2019): timm's backbone at its highest resolution and a 1x1 head; stride 4."""

    def __init__(self, backbone: str, pretrained: str, num_keypoints: int = NUM_KEYPOINTS) -> None:
        super().__init__()
        self.backbone = hrnet_backbone(backbone, pretrained)
        self.head = nn.Conv2d(self.backbone.feature_info.channels()[0], num_keypoints, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[0])


def build_model(config: ModelConfig, seed: int | None = None) -> nn.Module:
    """A network as `config` describes it; `seed` fixes its initial weights and leaves other streams alone.

    With ImageNet weights two seeds share the backbone's and differ in all layers after it.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        if config.architecture == "unet":
            return UNet(config.width, config.heatmap_stride)
        if config.architecture.startswith("hrnet"):
            return PoseHRNet(config.architecture, config.pretrained)
        return PoseResNet(config.architecture, config.width, config.pretrained)


def predict_heatmaps(network: nn.Module, images: Tensor, precision: str = "fp32") -> Tensor:
    """Heatmaps (B, K, h, w) in float32; `precision` 'bf16' holds for the network and nothing after it."""
    with passes_in(precision, images.device.type):
        heatmaps = network(images)
    return heatmaps.float()


def heatmap_size(input_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(h, w) of the heatmaps for an input of (H, W) px."""
    return input_size[0] // stride, input_size[1] // stride


def save_networks(path: Path, networks: Sequence[nn.Module], config: ModelConfig) -> None:
    """Writes the weights of one or two networks, and their architecture, as one safetensors file."""
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, network in enumerate(networks)
        for name, value in network.state_dict().items()
    }
    # One entry: safetensors writes several in no fixed order, and equal runs shall leave equal bytes.
    metadata = {"model": json.dumps(asdict(config) | {"networks": len(networks)}, sort_keys=True)}
    write_bytes(safetensors.torch.save(tensors, metadata), path)


def load_networks(path: Path, config: ModelConfig, device: torch.device | str = "cpu") -> list[nn.Module]:
    """The networks in `path`, in eval mode on `device`; `CheckpointError` unless they fit `config`."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights file; train the run first") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error}); train it again") from None
    stored = _read_metadata(metadata)
    return [
        _load_network(path, index, tensors, stored, config).to(device).eval()
        for index in range(stored.get("networks", 1))
    ]


def _read_metadata(metadata: dict[str, str]) -> dict:
    """What the file says of itself; nothing where another program wrote it."""
    try:
        stored = json.loads(metadata.get("model", "{}"))
    except (ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) and isinstance(stored.get("networks", 1), int) else {}


def _load_network(path: Path, index: int, tensors: dict, stored: dict, config: ModelConfig) -> nn.Module:
    network = build_model(ModelConfig(**{**asdict(config), "pretrained": "none"}))
    prefix = f"{index}."
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(state)
    except RuntimeError:
        found = stored.get("architecture", "another architecture's")
        raise CheckpointError(
            f"{path} holds {found} weights that do not fit model.architecture {config.architecture}, width "
            f"{config.width}; use the params.yaml it was trained with, or train it again"
        ) from None
    return network

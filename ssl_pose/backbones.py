"""[I/O] Backbones of published libraries, untrained or with their ImageNet weights, which are downloaded once."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from ssl_pose.config import ConfigError


def resnet_backbone(name: str, pretrained: str) -> nn.Sequential:
    """torchvision's ResNet up to its last block, stride 32; `pretrained` is 'none' or torchvision's name of weights."""
    from torchvision.models import get_model, get_model_weights  # 3 s to import, so only where it is needed

    weights = None if pretrained == "none" else get_model_weights(name)[pretrained]
    try:
        resnet = get_model(name, weights=weights)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _unavailable(f"{name} {pretrained}", Path(weights.url).name, weights.url, error) from None
    layers = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(*(getattr(resnet, layer) for layer in layers))


def hrnet_backbone(name: str, pretrained: str) -> nn.Module:
    """timm's HRNet up to its branch of highest resolution, stride 4, as a list of one map; `pretrained` as timm's tag.

    The last module computes that branch alone, as the published pose network's does.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise ConfigError(f"model.architecture {name} needs timm; install it with: pip install timm") from None

    options = {"features_only": True, "feature_location": "", "out_indices": (1,)}
    file = f"{name}.{pretrained}.safetensors"
    if pretrained != "none":
        options |= {"pretrained": True}
        if (_checkpoints() / file).exists():
            options |= {"pretrained_cfg_overlay": {"file": str(_checkpoints() / file)}}
    try:
        hrnet = timm.create_model(name if pretrained == "none" else f"{name}.{pretrained}", **options)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unavailable(f"{name} {pretrained}", file, f"timm/{name}.{pretrained} on the Hugging Face hub, file "
                           "model.safetensors", error) from None
    last = hrnet.stage4[-1]
    last.fuse_layers = last.fuse_layers[:1]
    return hrnet


def _unavailable(weights: str, file: str, source: str, error: Exception) -> ConfigError:
    """One line that says how to place the file by hand, since a machine with a GPU often has no network."""
    cause = " ".join(str(error).split())[:200]
    return ConfigError(f"the ImageNet weights {weights} cannot be had ({cause}); place {source} as "
                       f"{_checkpoints() / file}, or set model.pretrained to none")


def _checkpoints() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")

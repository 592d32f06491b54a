"""State dicts with the names of published checkpoints, made from a network of ours with random weights."""

import torch
from torch import nn

from ssl_pose.model import PoseResNet


def random_network(architecture: str = "resnet18", width: int = 16, seed: int = 0) -> PoseResNet:
    """A network whose every weight and statistic is drawn, so that no two channels are alike."""
    torch.manual_seed(seed)
    network = PoseResNet(architecture, width, "none").eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.05)
    nn.init.normal_(network.head.weight, std=0.1)
    nn.init.normal_(network.head.bias, std=0.1)
    return network


def simplebaseline_names(network: PoseResNet) -> dict[str, torch.Tensor]:
    """As in microsoft/human-pose-estimation.pytorch."""
    named = {}
    for name, value in network.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "backbone":
            place, _, rest = rest.partition(".")
            part = {"0": "conv1", "1": "bn1"}.get(place) or f"layer{int(place) - 3}"
        part = {"deconvolutions": "deconv_layers", "head": "final_layer"}.get(part, part)
        named[f"{part}.{rest}"] = value
    return named


def mmpose_names(network: PoseResNet, head: str = "head") -> dict[str, torch.Tensor]:
    return {f"{head if name.startswith(('deconv', 'final')) else 'backbone'}.{name}": value
            for name, value in simplebaseline_names(network).items()}


def student_names(networks: list[PoseResNet], channels: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Two students, their heads widened to 24 channels, of which `channels` are ours and the others noise."""
    named = {}
    for prefix, network in zip(("resnet", "resnet2"), networks, strict=True):
        for name, value in simplebaseline_names(network).items():
            if name.startswith("final_layer"):
                united = torch.randn(24, *value.shape[1:])
                united[list(channels)] = value
                name, value = name.replace("final_layer", "final_layer_1"), united
            named[f"module.{prefix}.{name}"] = value
    return named

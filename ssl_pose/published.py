"""[I/O] Checkpoints that others published, as networks of ours: SimpleBaseline's, and pairs of students.

Known names of a PoseResNet's weights, with ResNet-18 to 152, three 4x4 deconvolutions and a 1x1 head:
- microsoft/human-pose-estimation.pytorch: `conv1`, `layer1`.., `deconv_layers`, `final_layer`.
- mmpose: the same under `backbone.`, and under `head.` or `keypoint_head.`.
- xierc/Semi_Human_Pose and hnuzhy/MultiAugs: two networks, `resnet.` and `resnet2.`, with `final_layer_1`.
The last two have 24 channels, a skeleton that unites COCO's, MPII's and AI Challenger's; COCO's 17 are taken.

Files are read with torch's `weights_only`: nothing in them is executed. All but mmpose's were trained on photos in the
order b, g, r (OpenCV's) with means in the order r, g, b, and all with black beyond the photo, and with heatmaps whose
cell x lies over the image's px 4x (`heatmap_alignment: corner`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pose.config import ModelConfig
from ssl_pose.inference import PoseModel
from ssl_pose.model import CheckpointError, PoseResNet
from ssl_pose.skeleton import NUM_KEYPOINTS

# The channel of each of COCO's keypoints in the united skeleton: 0 root, 1-3 right hip, knee, ankle, 4-6 left ones,
# 7-10 belly to neck, 11 nose, 12-13 head, 14-16 left shoulder, elbow, wrist, 17-19 right ones, 20 right eye,
# 21 left eye, 22 right ear, 23 left ear (lib/dataset/JointsDataset.py of both repositories).
UNITED_CHANNELS = (11, 21, 20, 23, 22, 14, 17, 15, 18, 16, 19, 4, 1, 5, 2, 6, 3)
NUM_UNITED = 24
BLOCKS = {(2, False): "resnet18", (6, False): "resnet34", (6, True): "resnet50", (23, True): "resnet101",
          (36, True): "resnet152"}  # by the blocks of layer3 and whether they are bottlenecks
RENAMED = (
    (r"^(?:keypoint_)?head\.(?=deconv_layers|final_layer)", ""), (r"^backbone\.", ""),
    (r"^deconv_layers\.", "deconvolutions."), (r"^final_layer(?:_1)?\.", "head."),
    (r"^conv1\.", "backbone.0."), (r"^bn1\.", "backbone.1."),
    (r"^layer(\d)\.", lambda found: f"backbone.{int(found[1]) + 3}."),
)
ARRAYS = [np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar,
          *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "b1"))]  # in mmpose's `meta`: plain numbers


def load_simplebaseline_checkpoint(
    path: str | Path, input_size: tuple[int, int] = (256, 192), device: torch.device | str = "cpu"
) -> PoseModel:
    """The one or two networks in a published file, with their conventions; `CheckpointError` for any other file.

    `input_size` (height, width) is not written in such files: 256x192 or 384x288, with heatmaps of sigma 2 or 3 cells.
    """
    path = Path(path)
    state, from_mmpose = _read_state(path)
    parts = _split_students(state)
    networks, config = [], None
    for part in parts:
        network, config = _build(path, part, sigma=3.0 if input_size[0] > 256 else 2.0)
        networks.append(network.to(device).eval())
    return PoseModel(networks, config, input_size, box_padding=1.25, fill_color=(0, 0, 0),
                     color_order="rgb" if from_mmpose else "bgr")


def _read_state(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Weights by name, without the prefix of a parallel wrapper, and whether the names are mmpose's."""
    try:
        with torch.serialization.safe_globals(ARRAYS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path} is truncated, or holds more than weights ({cause})") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no weights by name")
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    return state, any(name.startswith("backbone.") for name in state)


def _split_students(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights of each network: of two students, or of the only one."""
    parts = [{name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
             for prefix in ("resnet.", "resnet2.")]
    return [part for part in parts if part] or [state]


def _build(path: Path, state: dict[str, Tensor], sigma: float) -> tuple[nn.Module, ModelConfig]:
    """A network of ours with the weights `state`."""
    renamed = {}
    for name, value in state.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    blocks = {name.split(".")[2] for name in renamed if name.startswith("backbone.6.")}
    architecture = BLOCKS.get((len(blocks), "backbone.4.0.conv3.weight" in renamed))
    first, head = renamed.get("deconvolutions.0.weight"), renamed.get("head.weight")
    if architecture is None or first is None or head is None:
        raise CheckpointError(f"{path} holds no PoseResNet: it lacks a ResNet's layers, deconvolutions or a head")
    if len(head) not in (NUM_KEYPOINTS, NUM_UNITED):
        raise CheckpointError(f"{path} predicts {len(head)} keypoints; known are COCO's {NUM_KEYPOINTS} and the united "
                              f"{NUM_UNITED}")
    if len(head) == NUM_UNITED:
        renamed |= {name: renamed[name][list(UNITED_CHANNELS)] for name in ("head.weight", "head.bias")}
    config = ModelConfig(architecture, width=first.shape[1], heatmap_stride=4, heatmap_sigma=sigma,
                         heatmap_alignment="corner", pretrained="none")
    network = PoseResNet(architecture, config.width, "none")
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(counters | renamed)  # old files do not count batches
    except RuntimeError as error:
        cause = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path} holds a {architecture} that is no SimpleBaseline ({cause})") from None
    return network, config

"""What training costs, counted and not assumed: operations, and bytes of memory, of a network.

Networks are run on the meta device, where tensors have shapes and no values: it takes no memory and no time.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssl_pose.config import ModelConfig
from ssl_pose.model import build_model

ADAM_BYTES = 16  # of a parameter in training: itself, its gradient and both moments, fp32


@cache
def count_flops(config: ModelConfig, input_size: tuple[int, int]) -> int:
    """Floating-point operations of one image's forward pass, counted; a multiply-add is two."""
    with torch.device("meta"):
        network = build_model(replace(config, pretrained="none"))
        images = torch.empty(1, 3, *input_size)
    with FlopCounterMode(display=False) as counter:
        network.eval()(images)
    return counter.get_total_flops()


@cache
def count_activation_bytes(config: ModelConfig, input_size: tuple[int, int]) -> int:
    """Bytes that one image's forward pass keeps for its backward pass in fp32, counted; bf16 keeps about half."""
    return _saved_bytes(config, input_size, 3) - _saved_bytes(config, input_size, 2)


def _saved_bytes(config: ModelConfig, input_size: tuple[int, int], batch: int) -> int:
    """Bytes of all tensors that a forward pass of `batch` images saves, each counted once."""
    with torch.device("meta"):
        network = build_model(replace(config, pretrained="none")).train()
        images = torch.empty(batch, 3, *input_size)
    saved: dict[int, Tensor] = {}  # the tensors are kept, so that no address is used twice

    def keep(value: Tensor) -> Tensor:
        saved[value.untyped_storage()._cdata] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        heatmaps = network(images)
    del heatmaps
    return sum(value.untyped_storage().nbytes() for value in saved.values())


@cache
def count_parameters(config: ModelConfig) -> int:
    """Trained numbers of one network."""
    with torch.device("meta"):
        return sum(value.numel() for value in build_model(replace(config, pretrained="none")).parameters())

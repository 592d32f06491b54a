"""The number format of a network's passes, by processor.

bfloat16 is a rounding of what a convolution reads and returns; its sums are float32. Processors that have no
instructions for it, an x86 CPU without AVX-512 say, compute one such convolution as slowly as ten in float32. There the
roundings are made and the sums left to float32's convolution, so that a profile in bf16 costs what one in fp32 does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (torch.conv2d, torch.conv_transpose2d)
SLOW_IN_BF16 = ("AVX2",)  # CPU capabilities whose bf16 convolutions were measured to be slow


class RoundedConvolutions(TorchFunctionMode):
    """Inside it a convolution rounds images, weights and bias to bfloat16, sums in float32, and returns bfloat16.

    The gradients are rounded at the same places. Equal to a bfloat16 convolution up to the order of its sums.
    """

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        if func not in CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        rounded = [value.bfloat16().float() if isinstance(value, Tensor) else value for value in args]
        with torch.autocast("cpu", enabled=False):
            return func(*rounded, **(kwargs or {})).bfloat16()


def sums_in_fp32(device_type: str) -> bool:
    """Whether passes in bf16 leave their sums to float32's convolutions on 'cpu' or 'cuda'."""
    return device_type == "cpu" and torch.backends.cpu.get_cpu_capability() in SLOW_IN_BF16


@contextmanager
def passes_in(precision: str, device_type: str) -> Iterator[None]:
    """A context in which a network on 'cpu' or 'cuda' computes in `precision`, 'fp32' or 'bf16'."""
    with ExitStack() as context:
        if precision == "bf16":
            context.enter_context(torch.autocast(device_type, torch.bfloat16))
            if sums_in_fp32(device_type):
                context.enter_context(RoundedConvolutions())
        yield

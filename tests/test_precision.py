"""Convolutions rounded to bfloat16 and summed in float32 against bfloat16 convolutions, and where each is used."""

import pytest
import torch
from torch import nn

from ssl_pose.precision import RoundedConvolutions, passes_in

BF16_STEP = 2.0**-8  # between neighbours of bfloat16, as a share


def layers() -> nn.Sequential:
    """Both kinds of convolution, one with a bias, around what is no convolution."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False))


def run(mode: bool) -> tuple[torch.Tensor, ...]:
    """What the layers return on images of 14x10 px, and the gradients of their weights and of the images."""
    network, images = layers(), torch.linspace(-2, 2, 2 * 3 * 14 * 10).sin().reshape(2, 3, 14, 10).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        if mode:
            with RoundedConvolutions():
                found = network(images)
        else:
            found = network(images)
    found.float().square().sum().backward()
    return found.detach(), *(parameter.grad for parameter in network.parameters()), images.grad


def test_a_rounded_convolution_is_a_bf16_one_up_to_the_order_of_its_sums():
    for rounded, native in zip(run(mode=True), run(mode=False), strict=True):
        assert rounded.dtype == native.dtype
        torch.testing.assert_close(
            rounded.float(), native.float(), rtol=BF16_STEP, atol=2 * BF16_STEP * native.float().abs().max().item()
        )


def test_what_a_rounded_convolution_reads_and_returns_has_eight_bits():
    """1 + 2^-9 rounds to 1, times a weight of 1 + 2^-8, which rounds to 1 (ties to even): 1; and 257 rounds to 256."""
    images = torch.tensor([1 + 2**-9, 257.0]).reshape(2, 1, 1, 1)
    weight = torch.full((1, 1, 1, 1), 1 + 2**-8)
    with RoundedConvolutions():
        found = torch.conv2d(images, weight)
    assert found.dtype == torch.bfloat16
    assert found.flatten().tolist() == [1.0, 256.0]


@pytest.mark.parametrize(("capability", "rounded"), [("AVX2", True), ("AVX512", False)])
def test_only_processors_that_are_slow_in_bf16_sum_in_float32(monkeypatch, capability, rounded):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    seen = []
    monkeypatch.setattr(RoundedConvolutions, "__enter__", lambda self: seen.append(self))
    monkeypatch.setattr(RoundedConvolutions, "__exit__", lambda *_: None)
    with passes_in("bf16", "cpu"):
        assert torch.is_autocast_enabled("cpu")
    with passes_in("fp32", "cpu"):
        assert not torch.is_autocast_enabled("cpu")
    assert bool(seen) == rounded

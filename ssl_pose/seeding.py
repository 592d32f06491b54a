"""Named, independent random streams from one seed: adding a consumer never shifts the draws of another."""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """The 63-bit seed of the stream called `names` under `seed`, the same on every machine."""
    key = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def make_generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for the stream called `names` under `seed`."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *names))

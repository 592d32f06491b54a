"""How clean pseudo-heatmaps are: Figure 1's argument, that averages keep several weak peaks, as two numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def local_peaks(heatmaps: Tensor, sigma: float) -> Tensor:
    """Heights (B, K, h, w) of the cells that are the highest within 2 `sigma` cells along both axes; else -inf."""
    reach = math.ceil(2 * sigma)
    highest = functional.max_pool2d(heatmaps, 2 * reach + 1, stride=1, padding=reach)
    return torch.where((heatmaps == highest) & (heatmaps > 0), heatmaps, -torch.inf)


def peak_structure(heatmaps: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Per joint, (B, K) each: the second peak over the first, and how many peaks reach half of the first.

    Peaks lie more than 2 `sigma` cells apart along an axis. A joint with one peak has ratio 0; one whose map is
    nowhere positive has ratio 0 and no peak.
    """
    peaks = local_peaks(heatmaps, sigma).flatten(2)
    first, second = peaks.topk(2).values.unbind(-1)
    ratio = torch.where(second > 0, second / first, 0.0)
    half = (first / 2).clamp(min=torch.finfo(first.dtype).tiny)
    return ratio, (peaks >= half[..., None]).sum(-1)

"""The one loss of the suite: a masked, weighted mean square error between heatmaps."""

from __future__ import annotations

from torch import Tensor


def heatmap_loss(predicted: Tensor, target: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over B * K joints of weight (B, K) times the mean square error over the cells of (B, K, h, w).

    A joint of weight 0 contributes zero and does not raise the share of the others. Cells where `mask`
    (B, 1, h, w) is 0 contribute zero: there the target says nothing. The gradient reaches `predicted` alone.
    """
    predicted = predicted.contiguous()  # as targets lie: a difference of two memory formats takes twice the time
    square = (predicted - target.detach()).square()
    if mask is not None:
        square = square * mask.detach()
    return (square.mean(dim=(2, 3)) * weight.detach()).mean()

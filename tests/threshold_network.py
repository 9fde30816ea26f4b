"""A network whose answer is known: what is brighter than a threshold."""

from __future__ import annotations

import torch
from torch import nn


class ThresholdNetwork(nn.Module):
    """Logits ``[B, 2, *spatial]`` of images ``[B, 1, *spatial]`` that are positive for class 1 above a threshold.

    Args:
        threshold: grey value, 0..1.
        pooled: average the logits over space, ``[B, 2]``: a classifier.
    """

    def __init__(self, threshold: float = 0.5, pooled: bool = False) -> None:
        super().__init__()
        self.pooled = pooled
        self.threshold = nn.Parameter(torch.tensor([threshold]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit = 200.0 * (x - self.threshold)
        if self.pooled:
            logit = logit.mean(dim=[2, 3])
        return torch.cat([-logit, logit], dim=1)

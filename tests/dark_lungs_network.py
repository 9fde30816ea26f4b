"""A network whose lungs are known: what is darker than a threshold, right or left by its place."""

from __future__ import annotations

import torch
from torch import nn


class DarkLungsNetwork(nn.Module):
    """Logits ``[B, 3, H, W]`` (background, right, left lung) of pictures ``[B, 1, H, W]`` in 0..1.

    Args:
        threshold: grey value, 0..1.
    """

    def __init__(self, threshold: float = 0.4) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor([threshold]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = 50 * (self.threshold - x)
        across = torch.linspace(-50, 50, x.shape[-1], device=x.device).expand_as(x)
        return torch.cat([-dark, dark - across.clamp(min=0), dark + across.clamp(max=0)], dim=1)

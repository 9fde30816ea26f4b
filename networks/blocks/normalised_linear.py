"""A classifier that tells classes by angles alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class NormalisedLinear(nn.Module):
    """Linear layer without bias on normalised features with normalised weights: ``scale * cos(theta)``.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section III.C. No margin: that belongs to the loss
    (:class:`pneumonai.networks.losses.DiscriminativeCosineLoss`). Computed in the weight's precision also under
    autocast, where a step of bfloat16 near 64 is a quarter.

    Args:
        in_features: D.
        out_features: number of classes K.
        scale: the paper's s.
    """

    def __init__(self, in_features: int, out_features: int, *, scale: float = 64.0) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.scale = float(scale)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, D]`` to ``[B, K]`` in ``-scale..scale``."""
        return self.scale * F.cosine_similarity(x.to(self.weight.dtype)[:, None], self.weight[None], dim=2)

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"in_features={self.in_features}, out_features={self.out_features}, scale={self.scale}"

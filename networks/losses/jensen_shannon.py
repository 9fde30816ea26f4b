"""The Jensen-Shannon divergence of two classifiers' answers."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class JensenShannonLoss(nn.Module):
    """Mean over items of the Jensen-Shannon divergence between two softmax distributions, 0..log 2.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, eq. 7. Computed from log probabilities, so that it and its gradient are
    finite for distributions that are exactly 1 at one class and 0 elsewhere. Symmetric; cut the gradient of the
    answer that is to stay as it is.
    """

    def forward(self, logits: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, of two batches of finite logits ``[B, K]``."""
        one, two = F.log_softmax(logits, dim=1), F.log_softmax(other, dim=1)
        middle = torch.logaddexp(one, two) - math.log(2.0)
        divergence = one.exp() * (one - middle) + two.exp() * (two - middle)
        return divergence.sum(dim=1).mean() / 2

"""The discriminative cosine loss: cross entropy with a margin of the cosine, and classes pushed apart."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class DiscriminativeCosineLoss(nn.Module):
    """DC loss of a cosine classifier (:class:`pneumonai.networks.blocks.NormalisedLinear`).

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, eq. 6, with features and class weights w normalised::

        mean over items of -log softmax(s (cos(theta) - m at the true class))[true class]
        + 1 / (K (K - 1)) sum over classes i != j of w_i . w_j

    Args:
        head_weight: the classifier's weight ``[K, D]``, of any length, whose gradient the second term has; None
            leaves that term out. With one class it is 0.
        scale: s, that of the classifier.
        margin: m, taken from the true class's cosine; at least 0.
        weight: of the classes, ``[K]``, as :func:`torch.nn.functional.cross_entropy` has it; the paper has none.

    Raises:
        ValueError: when an argument is none of these.
    """

    weight: torch.Tensor | None

    def __init__(
        self,
        head_weight: torch.Tensor | None = None,
        *,
        scale: float = 64.0,
        margin: float = 0.15,
        weight: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if head_weight is not None and head_weight.dim() != 2:
            raise ValueError(f"head_weight must be [classes, features], got shape {tuple(head_weight.shape)}.")
        if scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}.")
        if margin < 0:
            raise ValueError(f"margin must be at least 0, got {margin}.")
        # In a tuple, since the parameter belongs to the network.
        self._head_weight = (head_weight,)
        self.scale = float(scale)
        self.margin = float(margin)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, of logits ``s cos(theta)`` ``[B, K]`` without margin and class indices ``[B]``."""
        target = target.long()
        at_target = F.one_hot(target, logits.shape[1]).to(logits.dtype)
        loss = F.cross_entropy(logits - self.scale * self.margin * at_target, target, weight=self.weight)
        (head_weight,) = self._head_weight
        return loss if head_weight is None else loss + mean_cosine(head_weight)


def mean_cosine(weight: torch.Tensor) -> torch.Tensor:
    """Mean cosine of pairs of different rows of ``[K, D]``, a scalar; 0 for one row. The second term of eq. 6."""
    classes = weight.shape[0]
    normalised = F.normalize(weight, dim=1)
    # |sum of w_i|^2 counts every pair twice and every class once.
    pairs = normalised.sum(dim=0).square().sum() - normalised.square().sum()
    return pairs / max(classes * (classes - 1), 1)

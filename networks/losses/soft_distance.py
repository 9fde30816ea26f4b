"""Soft distance regularization: predictions of augmented images drawn to that of the image itself, once it is sure."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

#: Regularizations by name.
KINDS = ("soft_distance", "l2")


class SoftDistanceLoss(nn.Module):
    """Cross-entropy of the images, plus the mean distance of the augmented images' predictions from a soft target.

    "Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images",
    https://arxiv.org/abs/2012.02278, Section 3.4, Algorithm 1 and eq. 7. With p the softmax of the images' logits and
    q_k that of the k-th augmentation's::

        target = p (detached)        where max p > threshold, be it right or wrong
                 one-hot label       elsewhere
        loss   = CE(images) + mean over k and batch of (sum over classes |target - q_k|)

    ``l2`` is the paper's other row of Table 8, which it does not define: CE(images) + the mean over all passes, the
    images' own among them, and batch of the sum over classes of (softmax - one-hot label)^2.

    Settles what the paper leaves open: the distance is of probabilities, not logits; the target is detached; the sum
    over the classes. Without augmentations the distance is 0 and ``l2`` has the images' own pass alone.

    Args:
        kind: ``soft_distance`` or ``l2``.
        threshold: confidence above which the images' own prediction is the target, in 0..1.
        weight: of each class in the cross-entropy, ``[classes]``; None weighs all alike.

    Raises:
        ValueError: another kind, or a threshold outside 0..1.
    """

    def __init__(
        self, kind: str = "soft_distance", *, threshold: float = 0.7, weight: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in 0..1, got {threshold}.")
        self.kind = kind
        self.threshold = threshold
        self.cross_entropy = nn.CrossEntropyLoss(weight=weight)

    def forward(self, logits: torch.Tensor, auxiliary: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss, one number in float32.

        Args:
            logits: of the images, ``[B, classes]``.
            auxiliary: logits of their augmentations, ``[K, B, classes]``; K may be 0.
            labels: classes as integers, ``[B]``.

        Raises:
            ValueError: shapes that do not fit.
        """
        if auxiliary.dim() != 3 or auxiliary.shape[1:] != logits.shape or labels.shape != logits.shape[:1]:
            raise ValueError(
                "logits [B, classes], auxiliary [K, B, classes] and labels [B] must agree, got "
                f"{list(logits.shape)}, {list(auxiliary.shape)} and {list(labels.shape)}."
            )
        logits, auxiliary, labels = logits.float(), auxiliary.float(), labels.long()
        one_hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        loss = self.cross_entropy(logits, labels)
        if self.kind == "l2":
            passes = torch.cat([logits.unsqueeze(0), auxiliary]).softmax(dim=-1)
            return loss + (passes - one_hot).square().sum(dim=-1).mean()
        if not len(auxiliary):
            return loss
        probabilities = logits.detach().softmax(dim=-1)
        sure = probabilities.amax(dim=-1, keepdim=True) > self.threshold
        target = torch.where(sure, probabilities, one_hot)
        return loss + (target - auxiliary.softmax(dim=-1)).abs().sum(dim=-1).mean()

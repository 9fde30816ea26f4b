"""Mixup: pictures and labels of a batch mixed in pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


class MixedBatch:
    """What a classification trainer's ``prepare_batch`` does when it mixes up.

    Each picture is mixed with another of the batch, and so are their labels, by one weight a batch out of
    Beta(alpha, alpha). Zhang et al., "mixup: Beyond Empirical Risk Minimization", https://arxiv.org/abs/1710.09412.
    MONAI's ``MixUp`` needs a batch of fixed size and labels that are pictures. Drawn from PyTorch's
    generator, which :class:`pneumonai.pipeline.training.seeding.EpochSeed` seeds, so a resumed run repeats it.

    Args:
        num_classes: how many.
        alpha: of the Beta distribution; 0 mixes nothing.

    Raises:
        ValueError: a negative alpha.
    """

    def __init__(self, num_classes: int, alpha: float) -> None:
        if alpha < 0:
            raise ValueError(f"mix_alpha must be 0 (nothing is mixed) or more, got {alpha}.")
        self.num_classes = num_classes
        self.alpha = alpha

    def __call__(
        self, batch: dict[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures ``[B, ...]`` and labels: class numbers ``[B]``, or where mixed, shares of the classes ``[B, K]``."""
        images = batch["image"].to(device, non_blocking=non_blocking)
        labels = batch["label"].to(device, non_blocking=non_blocking)
        if self.alpha == 0:
            return images, labels
        weight = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        others = torch.randperm(len(images)).to(device)
        shares = F.one_hot(labels, self.num_classes).to(images.dtype)
        return images.lerp(images[others], 1 - weight), shares.lerp(shares[others], 1 - weight)

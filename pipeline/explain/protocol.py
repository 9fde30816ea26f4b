"""What an explainer is."""

from __future__ import annotations

from typing import Protocol

import torch


class Explainer(Protocol):
    """What every explainer has.

    Attributes:
        name: short, as ``--explain`` and file names have it.
        method: in words.
        shows: one sentence for the reader of a report: what the map says, and what it does not.
    """

    name: str
    method: str
    shows: str

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        """Network input ``[B, C, *spatial]`` -> heat map ``[B, 1, *spatial]`` float32 in 0..1.

        Args:
            images: the batch.
            classes: index of the class to explain, one for all or ``[B]``; the predicted ones when None.
        """
        ...

"""2D networks over the slices of a volume ``[B, C, S, H, W]``, a picture being one slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer

Network = Callable[[torch.Tensor], torch.Tensor]


class SliceClassifier(Inferer):
    """Classify every slice, and the volume by those slices that speak most clearly against the first class.

    The volume's probabilities are the mean of those of the ``highest`` slices in which the first class (noncovid,
    normal) is least probable: disease shows in some slices only, while one slice alone may be mistaken. A volume
    of fewer slices takes all; so a picture's are its own.

    Args:
        batch_size: slices that go through the network together.
        highest: how many slices speak for the volume.
        mirrors: positions in which the network sees each slice, its logits averaged; see :class:`MirroredInferer`.

    Raises:
        ValueError: unless both are at least 1; without mirrors.
    """

    def __init__(self, batch_size: int = 16, highest: int = 5, mirrors: Sequence[Sequence[int]] = ((),)) -> None:
        super().__init__()
        if batch_size < 1 or highest < 1:
            raise ValueError(f"SliceClassifier needs batch_size and highest of 1 or more, got {batch_size}, {highest}.")
        self.batch_size = batch_size
        self.highest = highest
        self.mirrors = _checked(mirrors)

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits of the volumes, ``[B, K]``, from slices ``[B, C, S, H, W]``.

        Their softmax are the volume's probabilities; for one slice they are the network's, but for a constant.
        """
        return self.volume_logits(self.slice_logits(inputs, network))

    def slice_logits(self, inputs: torch.Tensor, network: Network) -> torch.Tensor:
        """Logits of every slice, ``[B, K, S]``.

        Raises:
            ValueError: for another number of dimensions.
        """
        if inputs.ndim != 5:
            raise ValueError(f"SliceClassifier needs slices [B, C, S, H, W], got {tuple(inputs.shape)}.")
        slices = inputs.as_subclass(torch.Tensor).transpose(1, 2).flatten(0, 1)
        answers = [
            [network(part.flip(axes)).float() for axes in self.mirrors] for part in slices.split(self.batch_size)
        ]
        logits = torch.cat([torch.stack(of_part).mean(dim=0) for of_part in answers])
        return logits.unflatten(0, (inputs.shape[0], inputs.shape[2])).transpose(1, 2)

    def volume_logits(self, slice_logits: torch.Tensor) -> torch.Tensor:
        """Logarithms of the volumes' probabilities, ``[B, K]``, from their slices' logits ``[B, K, S]``."""
        log_probabilities = slice_logits.log_softmax(dim=1)
        count = min(self.highest, slice_logits.shape[2])
        chosen = log_probabilities[:, 0].topk(count, dim=1, largest=False).indices
        kept = log_probabilities.gather(2, chosen[:, None].expand(-1, slice_logits.shape[1], -1))
        return kept.logsumexp(dim=2) - torch.tensor(float(count), device=kept.device).log()


def _checked(mirrors: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    if not mirrors:
        raise ValueError("at least one mirror is needed; [[]] leaves the slice as it is.")
    return [tuple(axes) for axes in mirrors]


class MirroredInferer(Inferer):
    """Another inferer whose network sees each slice mirrored in several ways; the answers, mirrored back, are averaged.

    Test-time augmentation: what the network says of the same slice in other positions, which it met in training. It
    takes as many times the network's time as there are mirrors.

    Args:
        inferer: how the network is run over the input.
        mirrors: axes of the slice to mirror at once, one entry an answer; ``()`` is the slice as it is.

    Raises:
        ValueError: without mirrors.
    """

    def __init__(self, inferer: Inferer, mirrors: Sequence[Sequence[int]] = ((), (-1,))) -> None:
        super().__init__()
        self.inferer = inferer
        self.mirrors = _checked(mirrors)

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        """The inferer's output for the inputs, of the averaged network."""

        def averaged(slices: torch.Tensor) -> torch.Tensor:
            answers = [network(slices.flip(axes)).flip(axes) for axes in self.mirrors]
            return torch.stack(answers).mean(dim=0)

        return self.inferer(inputs, averaged, *args, **kwargs)

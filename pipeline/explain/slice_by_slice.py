"""A 2D network's explainer over the slices of a volume."""

from __future__ import annotations

import torch
from torch import nn

from pneumonai.pipeline.explain.protocol import Explainer


class SliceBySlice:
    """Explains every slice by itself, each slice's map multiplied by the probability of the class in that slice.

    Every 2D map is scaled from 0 to 1 within its slice, so without the probability a slice without a finding
    would shine as brightly as one with; a picture's map is its explainer's own.

    Args:
        network: the 2D network, images ``[B, C, H, W]`` -> logits ``[B, K]``.
        explainer: an explainer of that network.
        batch_size: slices that are explained together.
        highest: only so many slices of a volume are explained, those in which the first class, which is no finding,
            is least probable (which speak for the volume, :class:`pneumonai.pipeline.slice_inferers.SliceClassifier`);
            the map is 0 in the others. None explains all.
    """

    def __init__(
        self, network: nn.Module, explainer: Explainer, batch_size: int = 16, highest: int | None = None
    ) -> None:
        self.network = network
        self.explainer = explainer
        self.batch_size = batch_size
        self.highest = highest
        self.name = explainer.name
        self.method = explainer.method
        self.shows = explainer.shows

    def __call__(
        self,
        images: torch.Tensor,
        classes: torch.Tensor | int | None = None,
        slice_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Slices ``[B, C, S, H, W]`` -> heat map ``[B, 1, S, H, W]`` float32 in 0..1.

        Args:
            images: the batch.
            classes: index of the class to explain, one for all or ``[B]``; by default the most probable one but the
                first, which is no finding.
            slice_logits: ``[B, K, S]``, where they are known already.

        Raises:
            ValueError: for another number of dimensions.
        """
        if images.ndim != 5:
            raise ValueError(f"SliceBySlice needs slices [B, C, S, H, W], got {tuple(images.shape)}.")
        volumes, count = images.shape[0], images.shape[2]
        slices = images.as_subclass(torch.Tensor).transpose(1, 2).flatten(0, 1)
        if slice_logits is None:
            with torch.no_grad():
                logits = torch.cat([self.network(part).float() for part in slices.split(self.batch_size)])
        else:
            logits = slice_logits.float().transpose(1, 2).flatten(0, 1)
        shares = logits.softmax(dim=1)
        if classes is None:
            classes = 1 + shares.unflatten(0, (volumes, count)).mean(dim=1)[:, 1:].argmax(dim=1)
        explained = torch.as_tensor(classes, device=logits.device).expand(volumes).repeat_interleave(count)
        chosen = self._chosen(logits.unflatten(0, (volumes, count)))
        maps = torch.zeros(len(slices), 1, *images.shape[3:], device=images.device)
        for part in chosen.split(self.batch_size):
            maps[part] = self.explainer(slices[part], explained[part]).float()
        if count > 1:
            maps = maps * shares.gather(1, explained[:, None])[:, :, None, None]
        return maps.unflatten(0, (volumes, count)).transpose(1, 2)

    def _chosen(self, logits: torch.Tensor) -> torch.Tensor:
        """Which of all volumes' slices are explained, from their logits ``[B, S, K]``, in order."""
        volumes, count = logits.shape[:2]
        first = torch.arange(volumes, device=logits.device)[:, None] * count
        if self.highest is None or self.highest >= count:
            return (first + torch.arange(count, device=logits.device)).flatten()
        clearest = logits.log_softmax(dim=2)[:, :, 0].topk(self.highest, dim=1, largest=False).indices
        return (first + clearest).flatten().sort().values

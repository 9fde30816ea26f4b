"""Explainers: from network inputs to a heat map in 0..1 on the network's input grid."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate


class AttentionMap:
    """The first attention module's mask M as a heat map (NL-RAN, section III: "the attention map ... as heat map").

    M is averaged over channels, resized to the input grid (trilinear) and min-max scaled a scan to 0..1; a constant
    map becomes 0. The mask is caught during the network's own forward pass, so that an explanation costs no second
    one: called with the very voxels that went through last, it reads what was caught.

    Args:
        network: a network with ``first_attention``, the module whose output is M.
    """

    method = "attention map of the first attention module"

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network
        self._seen: torch.Tensor | None = None
        self._mask: torch.Tensor | None = None
        network.register_forward_pre_hook(self._catch_input)
        network.first_attention.register_forward_hook(self._catch_mask)  # type: ignore[union-attr]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Network input ``[B, C, *spatial]`` -> heat map ``[B, 1, *spatial]`` float32 in 0..1."""
        # The same memory, not the same object: the network may have been given an alias in another memory format.
        caught = self._seen is not None and self._seen.data_ptr() == images.data_ptr()
        if not caught or self._mask is None:
            with torch.no_grad():
                self.network(images)
        mask = self._mask
        self._seen = self._mask = None  # one use: neither batch is kept alive
        if mask is None:
            raise RuntimeError("the network's forward pass did not reach its first attention module")
        return scale_to_unit(resize_map(mask.float().mean(dim=1, keepdim=True), images.shape[2:]))

    def _catch_input(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen = inputs[0]

    def _catch_mask(self, _: torch.nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self._mask = output.detach()


def resize_map(map_: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A map ``[B, 1, *spatial]`` on another grid, linearly."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return interpolate(map_, size=tuple(size), mode=mode, align_corners=False)


def scale_to_unit(map_: torch.Tensor) -> torch.Tensor:
    """Each map of a batch ``[B, 1, *spatial]`` min-max scaled to 0..1; a constant one becomes 0."""
    dims = tuple(range(1, map_.ndim))
    low = map_.amin(dims, keepdim=True)
    span = map_.amax(dims, keepdim=True) - low
    return torch.where(span > 0, (map_ - low) / span.clamp_min(torch.finfo(map_.dtype).tiny), torch.zeros_like(map_))

"""Explanations that a network makes itself: NL-RAN's first attention mask, CID's map, MAG-SD's attention maps."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import nn

from pneumonai.pipeline.explain.scaling import resize_map, scale_to_unit


class AttentionMap:
    """The first attention module's mask M as a heat map (NL-RAN, section III: "the attention map ... as heat map").

    M is averaged over channels, resized to the input grid (trilinear) and min-max scaled a scan to 0..1; a constant
    map becomes 0. The mask is caught during the network's own forward pass, so that an explanation costs no second
    one: called with the very voxels that went through last, it reads what was caught.

    Args:
        network: a network with ``first_attention``, the module whose output is M.

    Raises:
        ValueError: the network has no attention module.

    Attributes:
        layer: name of the module whose output is the mask.
    """

    name = "attention"
    method = "attention map of the first attention module"
    shows = (
        "Where the first attention module lets features pass more strongly; it knows no class, so it tells where the "
        "network looks, not what speaks for its answer."
    )
    layer = "first_attention"

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._seen: torch.Tensor | None = None
        self._mask: torch.Tensor | None = None
        try:
            first = attrgetter(self.layer)(network)
        except AttributeError:
            first = None
        if not isinstance(first, nn.Module):
            raise ValueError(f"the map {self.name!r} needs a network with `{self.layer}`, got {type(network).__name__}")
        network.register_forward_pre_hook(self._catch_input)
        first.register_forward_hook(self._catch_mask)

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        """Network input ``[B, C, *spatial]`` -> heat map ``[B, 1, *spatial]`` float32 in 0..1, whatever the class."""
        # The same memory, not the same object: the network may have been given an alias in another memory format.
        caught = self._seen is not None and self._seen.data_ptr() == images.data_ptr()
        if not caught or self._mask is None:
            with torch.no_grad():
                self.network(images)
        mask = self._mask
        self._seen = self._mask = None  # one use: neither batch is kept alive
        if mask is None:
            raise RuntimeError(f"the network's forward pass did not reach its layer {self.layer!r}")
        return scale_to_unit(resize_map(mask.float().mean(dim=1, keepdim=True), images.shape[2:]))

    def _catch_input(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen, self._mask = inputs[0], None

    def _catch_mask(self, _: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # A pass around the network's own hooks (another explainer's) is none to remember.
        if self._seen is not None and self._mask is None:
            self._mask = output.detach()


class CIDMap(AttentionMap):
    """The map of the CID module, the weight 0..1 that each position has for all channels (D-SPP + CID, Figs. 4, 5).

    Resized, scaled and caught as :class:`AttentionMap` does it.

    Args:
        network: a :class:`pneumonai.networks.nets.DSPPCIDNet` with CID.

    Raises:
        ValueError: the network has no such module.
    """

    name = "cid"
    method = "map of the CID module"
    shows = (
        "Which positions the infection detection module lets count; it knows no class, so it tells where the network "
        "looks, not what speaks for its answer."
    )
    layer = "cid.weigh"


class LocalisationMap(AttentionMap):
    """The mean of MAG-SD's attention maps (Section 4.4.6), which localises where the network looks.

    "Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images",
    https://arxiv.org/abs/2012.02278. The paper does not say which of the 32 maps it shows; their mean is this project's
    choice. Resized, scaled and caught as :class:`AttentionMap` does it.

    Args:
        network: a network with an attention generator, :class:`pneumonai.networks.nets.MANet` or
            :class:`pneumonai.networks.nets.BCNN` with attention.

    Raises:
        ValueError: the network has no such module.
    """

    name = "localisation"
    method = "mean of the attention maps"
    shows = (
        "Where the attention maps, by which the network pools its features, are strongest on average; they know no "
        "class, so the map tells where the network looks, not what speaks for its answer."
    )
    layer = "generator"

"""The last two steps of every heat map: the input's grid, and 0..1."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate


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

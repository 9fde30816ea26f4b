"""Resizing as the transforms of this project do it, and the interpolations that they know."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""PyTorch's names of linear interpolation, by the number of axes."""


def check_interpolation(mode: str, transform: str, *, linear: str = "bilinear") -> str:
    """The mode, where it is ``nearest`` or what a transform calls linear.

    Raises:
        ValueError: any other mode.
    """
    if mode not in (linear, "nearest"):
        raise ValueError(f"{transform} needs the interpolation {linear!r} or 'nearest', got {mode!r}.")
    return str(mode)


def resize(voxels: torch.Tensor, size: Sequence[int], mode: str) -> torch.Tensor:
    """A copy of ``[C, *spatial]`` in another size; pixels are their centres (``align_corners=False``).

    Args:
        voxels: any numbers; one to three spatial axes.
        size: of the spatial axes.
        mode: ``nearest`` by whole-number arithmetic, which no rounding shifts, or linear, smoothed in 2D where it
            shrinks.

    Returns:
        The numbers' own type, but float32 for interpolated whole numbers.
    """
    dtype = voxels.dtype if mode == "nearest" or voxels.is_floating_point() else torch.float32
    if tuple(voxels.shape[1:]) == tuple(size):
        return voxels.to(dtype, copy=True)
    if mode == "nearest":
        for axis, (side, new) in enumerate(zip(voxels.shape[1:], size, strict=True), start=1):
            index = (2 * torch.arange(new, device=voxels.device) + 1) * side // (2 * new)
            voxels = voxels.index_select(axis, index)
        return voxels
    values = voxels if voxels.dtype == torch.float64 else voxels.float()
    shrinks = any(new < side for side, new in zip(values.shape[1:], size, strict=True))
    linear = LINEAR[len(size)]
    smooth = shrinks and linear == "bilinear"
    return interpolate(values[None], tuple(size), mode=linear, align_corners=False, antialias=smooth)[0].to(dtype)

"""A 3x3 convolution whose taps move along one axis, by offsets that it predicts itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def deformable_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, offsets: torch.Tensor, vertical: bool
) -> torch.Tensor:
    """3x3 convolution with stride 1 that reads every tap at a place moved along one axis.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, eq. 1, with offsets that are zero along the other axis::

        y(p) = bias + sum over the taps k of  weight_k x(p + p_k + offset_k(p))

    x between positions is interpolated linearly and is 0 outside of the image. Each tap is projected to the output's
    channels at all positions first, which sampling commutes with; what moves along one axis is then, line by line,
    one matrix product with the interpolation's weights: ``9 H W (C + W) C_out`` multiply-adds a sample for a
    horizontal offset, where the convolution takes ``9 H W C C_out``. At whole-pixel offsets the gradient is that of
    the interpolation to the right (below), never 0 by a kink, so that offsets which start at 0 learn.

    Args:
        x: ``[B, C, H, W]``.
        weight: ``[C_out, C, 3, 3]``.
        bias: ``[C_out]`` or None.
        offsets: ``[B, 9, H, W]`` in pixels, tap after tap as in the weight (row by row); positive ones point to
            larger indices.
        vertical: whether they move the taps along H, else along W.

    Returns:
        ``[B, C_out, H, W]``
    """
    taps = offsets.unflatten(1, [3, 3])
    if vertical:
        x, weight, taps = x.transpose(2, 3), weight.transpose(2, 3), taps.permute(0, 2, 1, 4, 3)
    samples, _, lines, length = x.shape
    channels = weight.shape[0]
    # Axes of what is read: sample, line, tap across the lines, position, tap along the line, channel.
    projected = torch.matmul(x.permute(0, 2, 3, 1), weight.permute(1, 2, 3, 0).flatten(1))
    projected = F.pad(projected, [0, 0, 0, 0, 1, 1]).unflatten(3, [3, 3 * channels])
    read = torch.stack([projected[:, tap : tap + lines, :, tap] for tap in range(3)], dim=2)
    share = _shares(taps.permute(0, 3, 4, 1, 2).to(weight.dtype)).to(read.dtype)
    y = torch.bmm(share.flatten(0, 1), read.reshape(samples * lines, 9 * length, channels))
    y = y.reshape(samples, lines, length, channels).permute(0, 3, 1, 2)
    if bias is not None:
        y = y + bias[:, None, None]
    return y.transpose(2, 3) if vertical else y


def _shares(offsets: torch.Tensor) -> torch.Tensor:
    """Share of every position of a line in what each tap reads, by linear interpolation.

    Args:
        offsets: ``[B, lines, length, 3, 3]`` in pixels, taps across and along the line last.

    Returns:
        ``[B, lines, length, 9 * length]``, the last axis being tap across, position, tap along.
    """
    length = offsets.shape[2]
    steps = torch.arange(3, device=offsets.device)
    places = offsets + (torch.arange(length, device=offsets.device)[:, None, None] + steps - 1)
    lower = places.floor()
    near = torch.stack([lower, lower + 1], dim=5)
    share = torch.stack([1 - (places - lower), places - lower], dim=5)
    inside = (near >= 0) & (near < length)
    # What lies outside adds 0 to position 0.
    near = torch.where(inside, near, torch.zeros_like(near)).long()
    share = torch.where(inside, share, torch.zeros_like(share))
    index = (steps[:, None, None] * length + near) * 3 + steps[:, None]
    shares = share.new_zeros([offsets.shape[0], offsets.shape[1], length, 9 * length])
    return shares.scatter_add_(3, index.flatten(3), share.flatten(3))


class DeformableConvolution(nn.Conv2d):
    """3x3 convolution with stride 1 whose taps move along one axis (:func:`deformable_convolution`).

    An ordinary 3x3 convolution of the input predicts an offset for each position and tap; it starts at zero, so that
    the module starts as an ordinary convolution.

    Args:
        in_channels: channels C of the input.
        out_channels: channels of the output.
        vertical: whether the taps move along H, else along W.
    """

    def __init__(self, in_channels: int, out_channels: int, *, vertical: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        self.vertical = vertical
        self.offset = nn.Conv2d(in_channels, 9, kernel_size=3, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to ``[B, out_channels, H, W]``."""
        return self.forward_offsets(x)[0]

    def forward_offsets(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map ``[B, C, H, W]`` to ``[B, out_channels, H, W]`` and the offsets ``[B, 9, H, W]`` in pixels."""
        offsets = self.offset(x)
        return deformable_convolution(x, self.weight, self.bias, offsets, self.vertical), offsets

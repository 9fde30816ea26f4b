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

    x between positions is interpolated linearly and is 0 outside of the image. Sampling commutes with each tap's
    projection to the output's channels, which therefore comes first: C_out / C of the samples. At whole-pixel offsets,
    where the interpolation has a kink, the gradient is that of one side, so that offsets which start at 0 learn.

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
    samples, _, height, width = x.shape
    projected = F.conv2d(x, weight.permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None])
    taps = torch.arange(9, dtype=weight.dtype, device=x.device)[:, None, None]
    across = torch.div(taps, 3, rounding_mode="floor")
    rows = torch.arange(height, dtype=weight.dtype, device=x.device)[:, None] + across - 1
    columns = torch.arange(width, dtype=weight.dtype, device=x.device) + (taps - 3 * across) - 1
    rows, columns = (rows + offsets, columns) if vertical else (rows, columns + offsets)
    # grid_sample has -1 and 1 at the outer edges of the first and the last pixel.
    places = [((2 * columns + 1) / width - 1).expand_as(offsets), ((2 * rows + 1) / height - 1).expand_as(offsets)]
    sampled = F.grid_sample(
        projected.reshape(samples * 9, -1, height, width),
        torch.stack(places, dim=4).flatten(0, 1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    y = sampled.unflatten(0, [samples, 9]).sum(dim=1)
    return y if bias is None else y + bias[:, None, None]


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
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to ``[B, out_channels, H, W]``."""
        return self.forward_offsets(x)[0]

    def forward_offsets(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map ``[B, C, H, W]`` to ``[B, out_channels, H, W]`` and the offsets ``[B, 9, H, W]`` in pixels."""
        offsets = self.offset(x)
        return deformable_convolution(x, self.weight, self.bias, offsets, self.vertical), offsets

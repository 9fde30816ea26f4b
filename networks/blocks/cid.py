"""CID, COVID-19 infection detection: a map weighted by a position-wise attention of its own."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments


class CID(nn.Module):
    """COVID-19 infection detection module: ``attention(x) * x``, one weight a position for all channels.

    "Multi-scale alignment and Spatial ROI Module for COVID-19 Diagnosis", https://arxiv.org/abs/2207.01345, Section
    III.B, Fig. 3 and eq. 4: 1x1 convolution to ``C / 4``, ReLU, 1x1 convolution to 1, sigmoid.

    Settles what the paper leaves open: the ReLU and the sigmoid. Of eq. 4's attention factors (channels in over
    channels out) the paper's one output channel is built.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels C of input and output, at least 4.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(self, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        check_arguments(spatial_dims)
        if in_channels < 4:
            raise ValueError(f"in_channels must be at least 4, got {in_channels}.")
        conv = Conv[Conv.CONV, spatial_dims]
        self.weigh = nn.Sequential(
            conv(in_channels, in_channels // 4, kernel_size=1),
            nn.ReLU(inplace=True),
            conv(in_channels // 4, 1, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape."""
        return x * self.attention(x)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """The weights of ``[B, C, *spatial]``: ``[B, 1, *spatial]``, 0..1."""
        return self.weigh(x)

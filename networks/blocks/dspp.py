"""D-SPP, deep spatial pyramid pooling: atrous convolutions of several maps, their taps equally far apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments


class DSPP(nn.Module):
    """Deep spatial pyramid pooling over the maps of several stages of a backbone.

    "Multi-scale alignment and Spatial ROI Module for COVID-19 Diagnosis", https://arxiv.org/abs/2207.01345, Section
    III.A and eq. 3::

        branch i   3x3 atrous convolution with rate R_i, BN, ReLU     C_i -> width    stage i's grid
                   average pool by the ratio of the strides           width           the last stage's grid
        fuse       concatenation, 1x1 convolution, BN, ReLU           k width -> width
        output     [fused, the last stage's own map]                  width + C_last

    ``R_i = alpha * stride_last / stride_i`` is eq. 3 (the root of a ratio of areas) with the strides that the backbone
    has by its wiring, so that it holds at every input size: the taps of every branch lie ``alpha * stride_last`` input
    pixels apart.

    Settles what the paper leaves open: the width; the pooling onto the last grid (a stride in the convolution would
    read one position in ``(stride_last / stride_i)^2``, because the rates are multiples of it); the last stage's own
    map beside the fused one, so that the module loses nothing that the backbone has.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the maps, one entry a stage, from the finest to the coarsest.
        strides: input pixels between the positions of each map; the last a multiple of each.
        width: channels of each branch and of the fused map.
        alpha: rate at the coarsest map.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        out_channels: channels of the output, ``width + in_channels[-1]``.
        rates: rate of each branch.
    """

    def __init__(
        self, spatial_dims: int, in_channels: Sequence[int], *, strides: Sequence[int], width: int = 256, alpha: int = 3
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, width=width, alpha=alpha)
        if not in_channels or len(in_channels) != len(strides) or min(in_channels) < 1:
            raise ValueError(
                "in_channels and strides must have one entry a stage, channels at least 1, "
                f"got {tuple(in_channels)} and {tuple(strides)}."
            )
        if min(strides) < 1 or any(strides[-1] % stride for stride in strides) or list(strides) != sorted(strides):
            raise ValueError(f"strides must grow, and the last be a multiple of each, got {tuple(strides)}.")
        conv = Conv[Conv.CONV, spatial_dims]
        norm = Norm[Norm.BATCH, spatial_dims]
        ratios = [strides[-1] // stride for stride in strides]
        self.rates = tuple(alpha * ratio for ratio in ratios)
        self.branches = nn.ModuleList(
            nn.Sequential(
                conv(channels, width, kernel_size=3, padding=rate, dilation=rate, bias=False),
                norm(width),
                nn.ReLU(inplace=True),
                # ceil_mode: the positions of an incomplete last window are averaged too, not dropped.
                Pool[Pool.AVG, spatial_dims](kernel_size=ratio, stride=ratio, ceil_mode=True),
            )
            for channels, rate, ratio in zip(in_channels, self.rates, ratios, strict=True)
        )
        self.fuse = nn.Sequential(
            conv(len(ratios) * width, width, kernel_size=1, bias=False), norm(width), nn.ReLU(inplace=True)
        )
        self.out_channels: int = width + in_channels[-1]
        for module in self.modules():
            if isinstance(module, conv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Map one ``[B, C_i, *spatial_i]`` a stage to ``[B, width + C_last, *spatial_last]``.

        Each map's sides are those of the last times the ratio of the strides, rounded either way.
        """
        last = features[-1]
        pooled = []
        for index, branch in enumerate(self.branches):
            part = branch(features[index])
            for axis in range(2, last.dim()):
                part = part.narrow(axis, 0, last.shape[axis])
            pooled.append(part)
        return torch.cat([self.fuse(torch.cat(pooled, dim=1)), last], dim=1)

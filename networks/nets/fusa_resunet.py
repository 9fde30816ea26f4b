"""FUSA-ResUNet: a U-Net of residual modules with full scale attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.fusa import FUSA
from pneumonai.networks.blocks.residual_backbone import check_arguments


class FUSAResidual(nn.Module):
    """Residual module: FUSA of twice (convolution 3 without bias, BN, ReLU), plus a 1x1 convolution of the input.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        fusa: False leaves the attention out.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, fusa: bool = True) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        norm = Norm[Norm.BATCH, spatial_dims]
        self.branch = nn.Sequential(
            conv(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            norm(out_channels),
            nn.ReLU(inplace=True),
            conv(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            norm(out_channels),
            nn.ReLU(inplace=True),
        )
        self.attention: nn.Module = FUSA(spatial_dims, out_channels) if fusa else nn.Identity()
        self.shortcut = conv(in_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *spatial]``."""
        return self.attention(self.branch(x)) + self.shortcut(x)


class FUSAResUNet(nn.Module):
    """U-Net of residual modules with full scale attention, for segmenting slices or volumes.

    "Full Scale Attention for Automated COVID-19 Diagnosis from CT Images", Section II.C and Fig. 3, at the default
    widths::

        stem         residual module without FUSA                     64            input's size
        encoder[i]   max pool 2, FUSA residual module                 128 .. 1,024  1/2, 1/4, 1/8, 1/16
        decoder[i]   linear upsampling to the skip's size, [upsampled, skip], FUSA residual module
                     1,536 -> 512, 768 -> 256, 384 -> 128, 192 -> 64
        head         1x1 convolution

    About 40.1 million parameters at a first width of 64, 10.0 at 32 and 2.5 at 16.

    Settles what the paper leaves open: a pool stands before each of the four encoder modules (the text has one after
    each, of which the last would be unused); no normalisation on the shortcut and no ReLU after the sum; upsampling
    is bilinear (trilinear) without change of channels.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, one a class.
        channels: widths of the stem and of the four encoder modules.
        fusa: False builds the plain ResUNet, the paper's comparison.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        fusa: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, in_channels=in_channels, out_channels=out_channels)
        widths = tuple(channels)
        if len(widths) != 5 or min(widths) < 1:
            raise ValueError(f"channels must be five widths of at least 1, got {channels}.")
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        self.stem = FUSAResidual(spatial_dims, in_channels, widths[0], fusa=False)
        self.pool = Pool[Pool.MAX, spatial_dims](kernel_size=2)
        self.encoder = nn.ModuleList(
            FUSAResidual(spatial_dims, above, below, fusa) for above, below in pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            FUSAResidual(spatial_dims, above + below, above, fusa) for above, below in reversed(list(pairwise(widths)))
        )
        self.head = Conv[Conv.CONV, spatial_dims](widths[0], out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]``, each side at least 16, to logits ``[B, out_channels, *spatial]``.

        Raises:
            ValueError: a side is below 16.
        """
        if min(x.shape[2:]) < 16:
            raise ValueError(f"each side must be at least 16, got {x.shape[2:]}.")
        x = self.stem(x)
        skips: list[torch.Tensor] = []
        for module in self.encoder:
            skips.append(x)
            x = module(self.pool(x))
        for module in self.decoder:
            skip = skips.pop()
            x = F.interpolate(x, size=skip.shape[2:], mode=self.mode, align_corners=False)
            x = module(torch.cat([x, skip], dim=1))
        return self.head(x)

"""The pre-activation bottleneck that the residual networks of this package are built of."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import nn


class PreActivationBottleneck(nn.Module):
    """Residual unit that normalises before it convolves.

    BN-ReLU-1x1x1 (``out_channels / 4``), BN-ReLU-3x3x3 (``stride`` here), BN-ReLU-1x1x1 (``out_channels``); the
    convolutions have no bias. The shortcut is the input itself; where channels or size change, a strided 1x1x1
    convolution of the first BN-ReLU's output.

    He et al., "Identity Mappings in Deep Residual Networks", https://arxiv.org/abs/1603.05027.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, a multiple of 4.
        stride: of the middle convolution and the shortcut.
        attention: what the residual branch goes through last, before the shortcut is added.

    Raises:
        ValueError: when ``out_channels`` is not a positive multiple of 4.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if out_channels < 4 or out_channels % 4:
            raise ValueError(f"out_channels must be a positive multiple of 4, got {out_channels}.")
        conv = Conv[Conv.CONV, spatial_dims]
        norm = Norm[Norm.BATCH, spatial_dims]
        width = out_channels // 4
        # What a batch normalisation gives is needed by nothing but the ReLU, so the ReLU may overwrite it.
        self.pre_activation = nn.Sequential(norm(in_channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            conv(in_channels, width, kernel_size=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            conv(width, width, kernel_size=3, stride=stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            conv(width, out_channels, kernel_size=1, bias=False),
        )
        if attention is not None:
            self.residual.append(attention)
        self.changes_shape = in_channels != out_channels or stride != 1
        self.shortcut: nn.Module = (
            conv(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            if self.changes_shape
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *ceil(spatial / stride)]``."""
        activated = self.pre_activation(x)
        shortcut = self.shortcut(activated) if self.changes_shape else x
        return shortcut + self.residual(activated)

"""Channel and spatial attention that multiply a map by weights between 0 and 1, chosen by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.blocks import ChannelSELayer
from monai.networks.layers.factories import Conv
from torch import nn

#: Hidden features of a channel attention: one for so many channels (at least one).
REDUCTION = 16


class MeanMaxChannelAttention(nn.Module):
    """CBAM's channel attention: the map times ``sigmoid(MLP(mean) + MLP(max))``, one weight a channel.

    Mean and maximum over the positions go through the same two linear layers with a ReLU between. MONAI's
    ``ChannelSELayer`` has the mean alone.

    Woo et al., "CBAM: Convolutional Block Attention Module", https://arxiv.org/abs/1807.06521, eq. 2.

    Args:
        channels: channels of input and output.
        reduction: channels for one hidden feature; with fewer channels there is one feature.
    """

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape."""
        positions = x.flatten(2)
        weights = torch.sigmoid(self.fc(positions.mean(dim=2)) + self.fc(positions.amax(dim=2)))
        return x * weights.reshape(list(weights.shape) + [1] * (x.dim() - 2))


class SpatialAttention(nn.Module):
    """CBAM's spatial attention: the map times ``sigmoid(conv(mean, max))``, one weight a position.

    Mean and maximum over the channels, in this order, go through one convolution of size 7 without bias. Differs from
    the authors' code, which has a batch normalisation before the sigmoid that the paper (eq. 3) has not. MONAI has no
    such block (its ``SpatialAttentionBlock`` is self-attention between positions).

    Woo et al., "CBAM: Convolutional Block Attention Module", https://arxiv.org/abs/1807.06521.

    Args:
        spatial_dims: 2 or 3.
        kernel_size: of the convolution, odd.
    """

    def __init__(self, spatial_dims: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(pooled))


def _squeeze_and_excitation(spatial_dims: int, channels: int) -> nn.Module:
    return ChannelSELayer(spatial_dims, channels, r=min(REDUCTION, channels))


def _channel_then_spatial(spatial_dims: int, channels: int) -> nn.Module:
    return nn.Sequential(_squeeze_and_excitation(spatial_dims, channels), SpatialAttention(spatial_dims))


def _cbam(spatial_dims: int, channels: int) -> nn.Module:
    return nn.Sequential(MeanMaxChannelAttention(channels), SpatialAttention(spatial_dims))


#: Blocks by name, each built from ``spatial_dims`` and ``channels``: squeeze and excitation (MONAI's), one weight a
#: position, the first then the second, and CBAM, whose channel part sees the maximum too.
CHANNEL_SPATIAL_ATTENTION: dict[str, Callable[[int, int], nn.Module]] = {
    "channel": _squeeze_and_excitation,
    "spatial": lambda spatial_dims, channels: SpatialAttention(spatial_dims),
    "channel_spatial": _channel_then_spatial,
    "cbam": _cbam,
}

"""The residual attention module of NL-RAN: a trunk weighted by a mask that a small encoder-decoder gives."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.residual_unit import PreActivationBottleneck


class ChannelActivation(nn.Module):
    """L2 norm over the channels at each position (paper, eq. 3); a position of zeros stays 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape, in -1..1; the squares over C sum to 1."""
        return F.normalize(x, p=2.0, dim=1)


class SpatialActivation(nn.Module):
    """Sigmoid of the map standardised over its positions, for each sample and channel (paper, eq. 4).

    Mean and biased standard deviation are taken over the spatial axes; 1e-5 is added to the standard deviation, so
    that a constant map gives 0.5 everywhere.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape, in 0..1."""
        axes = list(range(2, x.dim()))
        mean = x.mean(dim=axes, keepdim=True)
        std = x.std(dim=axes, correction=0, keepdim=True)
        return torch.sigmoid((x - mean) / (std + 1e-5))


#: Activations of the mask by name: both axes mixed (eq. 2), across channels (eq. 3), across positions (eq. 4).
ATTENTION_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "mixed": nn.Sigmoid,
    "channel": ChannelActivation,
    "spatial": SpatialActivation,
}


class AttentionMask(nn.Module):
    """The mask branch (paper, Fig. 4): two poolings down, linear interpolation up, one skip, then the activation.

    Its output is the attention map M, so a forward hook on this module captures M in an ordinary pass.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of input and output, a multiple of 4.
        attention: a name of :data:`ATTENTION_ACTIVATIONS`.

    Raises:
        ValueError: when ``attention`` is no such name.
    """

    def __init__(self, spatial_dims: int, channels: int, attention: str = "mixed") -> None:
        super().__init__()
        if attention not in ATTENTION_ACTIVATIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION_ACTIVATIONS)}, got {attention!r}.")
        conv = Conv[Conv.CONV, spatial_dims]
        norm = Norm[Norm.BATCH, spatial_dims]
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        self.pool = Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=2, padding=1)
        self.down = PreActivationBottleneck(spatial_dims, channels, channels)
        self.bottom = PreActivationBottleneck(spatial_dims, channels, channels)
        self.up = PreActivationBottleneck(spatial_dims, channels, channels)
        self.head = nn.Sequential(
            norm(channels),
            nn.ReLU(inplace=True),
            conv(channels, channels, kernel_size=1, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
            conv(channels, channels, kernel_size=1, bias=False),
        )
        self.activation = ATTENTION_ACTIVATIONS[attention]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the attention map M of the same shape (0..1; -1..1 for ``channel``)."""
        half = self.down(self.pool(x))
        quarter = self.bottom(self.pool(half))
        merged = half + F.interpolate(quarter, size=half.shape[2:], mode=self.mode, align_corners=False)
        full = F.interpolate(self.up(merged), size=x.shape[2:], mode=self.mode, align_corners=False)
        return self.activation(self.head(full))


class AttentionModule(nn.Module):
    """Residual attention: ``(1 + M) * T`` between two residual units (paper, eq. 1).

    One unit gives x; the trunk T is two units of x, the mask M comes from x (:class:`AttentionMask`); one unit follows.
    The paper gives the mask only; the units around it are as in Wang et al., "Residual Attention Network for Image
    Classification", https://arxiv.org/abs/1704.06904, with one unit before and after and two in the trunk.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of input and output, a multiple of 4.
        attention: ``mixed``, ``channel`` or ``spatial``.
    """

    def __init__(self, spatial_dims: int, channels: int, attention: str = "mixed") -> None:
        super().__init__()
        self.before = PreActivationBottleneck(spatial_dims, channels, channels)
        self.trunk = nn.Sequential(
            PreActivationBottleneck(spatial_dims, channels, channels),
            PreActivationBottleneck(spatial_dims, channels, channels),
        )
        self.mask = AttentionMask(spatial_dims, channels, attention)
        self.after = PreActivationBottleneck(spatial_dims, channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape."""
        x = self.before(x)
        trunk = self.trunk(x)
        return self.after(trunk + self.mask(x) * trunk)

"""A dense block whose layers weight what they read, one learnt number for each source."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 convolution, BN, ReLU, 3x3 convolution: what a dense block appends to its input.

    Huang et al., "Densely Connected Convolutional Networks", https://arxiv.org/abs/1608.06993; parameters have
    torchvision's names.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        growth_rate: channels of the output.
        bottleneck: channels between the convolutions, in units of ``growth_rate``.
    """

    def __init__(self, spatial_dims: int, in_channels: int, growth_rate: int, bottleneck: int) -> None:
        super().__init__()
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        inner = bottleneck * growth_rate
        self.norm1 = norm(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = conv(in_channels, inner, kernel_size=1, bias=False)
        self.norm2 = norm(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = conv(inner, growth_rate, kernel_size=3, padding=1, bias=False)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to ``[B, growth_rate, *spatial]``; ``scale`` multiplies before the convolution."""
        x = self.relu1(self.norm1(x))
        if scale is not None:
            x = x * scale
        return self.conv2(self.relu2(self.norm2(self.conv1(x))))


class GammaDenseBlock(nn.Sequential):
    """Dense block with weighted connections: layer l reads ``[gamma_0 x_0, ..., gamma_{l-1} x_{l-1}]``.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section III.B, eq. 5. x_0 is the block's input, x_l what its l-th
    :class:`DenseLayer` appends. One gamma a source and block, all at 1 in the beginning, where the block is a plain
    dense block.

    Settles what the paper leaves open: a gamma multiplies its source's channels after the layer's first BN and ReLU
    (before BN it would be cancelled by it and could not learn); the block's output is not scaled.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        layers: how many.
        growth_rate: channels that each layer appends.
        bottleneck: channels between a layer's convolutions, in units of ``growth_rate``.
        gamma: False builds a plain dense block, whose parameters are the same but for ``gamma``.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        out_channels: channels of the output.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        layers: int,
        growth_rate: int = 32,
        bottleneck: int = 4,
        gamma: bool = True,
    ) -> None:
        check_arguments(
            spatial_dims, in_channels=in_channels, layers=layers, growth_rate=growth_rate, bottleneck=bottleneck
        )
        super().__init__()
        for index in range(layers):
            channels = in_channels + index * growth_rate
            self.add_module(f"denselayer{index + 1}", DenseLayer(spatial_dims, channels, growth_rate, bottleneck))
        self.out_channels: int = in_channels + layers * growth_rate
        self.gamma: nn.Parameter | None = nn.Parameter(torch.ones(layers)) if gamma else None
        self.in_channels, self.growth_rate = in_channels, growth_rate
        self.scale_shape = [-1] + [1] * spatial_dims

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *spatial]``: the input, then each layer's part."""
        scale = self.scale()
        for layer in self:
            x = torch.cat([x, layer(x, None if scale is None else scale[: x.shape[1]])], dim=1)
        return x

    def scale(self) -> torch.Tensor | None:
        """Gamma of each channel, ``[C, 1, ...]``, source by source; a layer takes as many as it reads. None without."""
        if self.gamma is None:
            return None
        appended = self.gamma[1:].repeat_interleave(self.growth_rate)
        return torch.cat([self.gamma[:1].expand(self.in_channels), appended]).reshape(self.scale_shape)

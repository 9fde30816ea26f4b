"""COVID-Net, as far as its paper says."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Pool
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments

#: PEPX modules in each of the four stages.
STAGE_MODULES = (3, 4, 6, 3)


def _conv_norm_relu(spatial_dims: int, in_channels: int, out_channels: int, size: int, **options: int) -> nn.Module:
    return Convolution(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=size,
        bias=False,
        act="relu",
        norm="batch",
        adn_ordering="NA",
        **options,
    )


class PEPX(nn.Sequential):
    """Projection, expansion, depth-wise 3x3, projection, extension: convolutions of size 1 but for the third.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input; the projections have 3/8 of them, what lies between 3/4.
        out_channels: channels of the output.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        low, high = max(1, 3 * in_channels // 8), max(1, 3 * in_channels // 4)
        super().__init__(
            _conv_norm_relu(spatial_dims, in_channels, low, 1),
            _conv_norm_relu(spatial_dims, low, high, 1),
            _conv_norm_relu(spatial_dims, high, high, 3, groups=high),
            _conv_norm_relu(spatial_dims, high, low, 1),
            _conv_norm_relu(spatial_dims, low, out_channels, 1),
        )


class Stage(nn.Module):
    """PEPX modules, each of which sees the sum of the stage's 1x1 convolution and of all modules before it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        modules: how many.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, modules: int) -> None:
        super().__init__()
        self.connection = _conv_norm_relu(spatial_dims, in_channels, out_channels, 1)
        self.first = PEPX(spatial_dims, in_channels, out_channels)
        self.others = nn.ModuleList(PEPX(spatial_dims, out_channels, out_channels) for _ in range(modules - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *spatial]``."""
        total = self.connection(x) + self.first(x)
        for module in self.others:
            total = total + module(total)
        return total


class COVIDNet(nn.Module):
    """COVID-Net, approximate: its paper shows the design, not all of its numbers.

    Wang and Wong, "COVID-Net: A Tailored Deep Convolutional Neural Network Design for Detection of COVID-19 Cases from
    Chest Radiography Images", https://arxiv.org/abs/2003.09871, the one that MAG-SD is compared with
    ("COVID-Net-Large")::

        stem      convolution 7, stride 2, maximum   C     1/4 of the input's size
        stage 1   3 PEPX                             4 C   1/4
        stage 2   4 PEPX                             8 C   1/8
        stage 3   6 PEPX                             16 C  1/16
        stage 4   3 PEPX                             32 C  1/32
        flatten (7 positions a side), 16 C, 4 C, num_classes

    With C = 64, three input channels and three classes it has 127.4 million parameters, as its authors' page gives for
    "COVIDNet-CXR Large" at 224 pixels. The PEPX pattern, their number, the stages' widths and the long-range
    connections are the paper's. Chosen here, where the paper does not say: the widths inside PEPX (one rule that fits
    the count; a machine searched them in the original), which modules are connected (all of a stage), BN after each
    convolution, maximum pooling between the stages, the widths of the hidden linear layers; a mean to 7 positions a
    side, so that any size from 32 up works.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        base_channels: width C of the stem.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(self, spatial_dims: int, in_channels: int, num_classes: int, *, base_channels: int = 64) -> None:
        super().__init__()
        check_arguments(spatial_dims, in_channels=in_channels, num_classes=num_classes, base_channels=base_channels)
        pool = Pool[Pool.MAX, spatial_dims]
        layers = [_conv_norm_relu(spatial_dims, in_channels, base_channels, 7, strides=2)]
        width = base_channels
        for factor, modules in zip((4, 8, 16, 32), STAGE_MODULES, strict=True):
            layers += [pool(kernel_size=2), Stage(spatial_dims, width, factor * base_channels, modules)]
            width = factor * base_channels
        self.features = nn.Sequential(*layers)
        self.avgpool = Pool[Pool.ADAPTIVEAVG, spatial_dims]((7,) * spatial_dims)
        self.classifier = nn.Sequential(
            nn.Linear(width * 7**spatial_dims, 16 * base_channels),
            nn.ReLU(inplace=True),
            nn.Linear(16 * base_channels, 4 * base_channels),
            nn.ReLU(inplace=True),
            nn.Linear(4 * base_channels, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]``, sides of at least 32, to logits ``[B, num_classes]``."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))

"""What the residual networks of this package share: the stem, a stage of units, starting weights, checks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn

from pneumonai.networks.blocks.residual_unit import PreActivationBottleneck

#: Widths of stem and stages in units of the base width: they double at each downsampling.
WIDTH_FACTORS = (1, 4, 8, 16, 32)


def check_arguments(spatial_dims: int, *, may_be_0: str | None = None, **counts: int) -> None:
    """Refuse other than 2 or 3 dimensions, and a count below 1.

    Args:
        spatial_dims: 2 or 3.
        may_be_0: the count for which 0 has a meaning.
        counts: by the argument's name.

    Raises:
        ValueError: naming the argument, what it must be and what it is.
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    for name, value in counts.items():
        least = 0 if name == may_be_0 else 1
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_sides(x: torch.Tensor) -> None:
    """Refuse a map with a side below 32, where the coarsest stage of a backbone would have no position.

    Raises:
        ValueError: naming the sides.
    """
    if min(x.shape[2:]) < 32:
        raise ValueError(f"each side must be at least 32, got {x.shape[2:]}.")


def pooled_stem(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolution of size 7 with stride 2, BN, ReLU, max pooling of size 3 with stride 2: a quarter of the size."""
    return nn.Sequential(
        Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size=7, stride=2, padding=3, bias=False),
        Norm[Norm.BATCH, spatial_dims](out_channels),
        nn.ReLU(inplace=True),
        Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=2, padding=1),
    )


def residual_stage(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    units: int,
    stride: int = 2,
    attention: Callable[[int, int], nn.Module] | None = None,
) -> nn.Sequential:
    """Pre-activation bottlenecks one after the other.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, a multiple of 4.
        units: how many.
        stride: of the first.
        attention: builds from ``spatial_dims`` and ``out_channels`` what ends each unit's residual branch.
    """
    return nn.Sequential(
        *(
            PreActivationBottleneck(
                spatial_dims,
                in_channels if index == 0 else out_channels,
                out_channels,
                stride if index == 0 else 1,
                attention=None if attention is None else attention(spatial_dims, out_channels),
            )
            for index in range(units)
        )
    )


def initialise_convolutions(network: nn.Module) -> None:
    """Draw all convolutions from He et al.'s normal distribution (fan in), with biases at 0.

    He et al., "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

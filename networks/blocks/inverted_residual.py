"""Inverted residuals, and the chain of them that MobileNetV2 and EfficientNet-Lite are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from torch import nn
from torch.nn import functional as F

#: Normalisation by name, or name and arguments, as MONAI's layer factories take it.
NormName = str | tuple[str, dict[str, Any]]


def rounded_width(width: float) -> int:
    """The multiple of 8 nearest to ``width``, at least 8, and never more than a tenth below it."""
    result = max(8, int(width + 4) // 8 * 8)
    return result + 8 if result < 0.9 * width else result


class SamePadding(nn.Module):
    """Zeros around the map so that a convolution gives ``ceil(side / stride)``, as TensorFlow's padding SAME does.

    A side gets ``(ceil(side / stride) - 1) * stride + kernel - side`` zeros, the odd one at its end: with kernel 3
    and stride 2 none before and one after an even side, one and one around an odd side. Padding by ``kernel // 2``
    on both sides, PyTorch's custom, shifts the grid by one position for even sides.

    Args:
        kernel: side of the convolution's kernel, at least ``stride``.
        stride: of the convolution.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to ``[B, C, *padded]``."""
        padding: list[int] = []
        # Last axis first, as F.pad wants them.
        for axis in range(x.dim() - 1, 1, -1):
            side = x.shape[axis]
            zeros = ((side + self.stride - 1) // self.stride - 1) * self.stride + self.kernel - side
            padding += [zeros // 2, zeros - zeros // 2]
        return F.pad(x, padding)


def conv_norm_relu6(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    norm: NormName = "batch",
    same_padding: bool = False,
) -> nn.Sequential:
    """Convolution without bias, normalisation, ReLU6.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side of the kernel, odd.
        stride: of the convolution.
        groups: of the convolution.
        norm: normalisation by MONAI's name.
        same_padding: pad as TensorFlow does where ``stride`` is above 1 (with stride 1 both customs are one); the
            parameters' names stay.
    """
    uneven = same_padding and stride > 1
    conv = Conv[Conv.CONV, spatial_dims](
        in_channels,
        out_channels,
        kernel_size=kernel,
        stride=stride,
        padding=0 if uneven else kernel // 2,
        groups=groups,
        bias=False,
    )
    layers: list[tuple[str, nn.Module]] = [("padding", SamePadding(kernel, stride))] if uneven else []
    layers += [
        ("0", conv),
        ("1", get_norm_layer(norm, spatial_dims, out_channels)),
        ("2", nn.ReLU6(inplace=True)),
    ]
    return nn.Sequential(OrderedDict(layers))


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise, 1x1 projection without activation; added where shapes agree.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the depthwise convolution.
        expansion: channels inside, as a multiple of ``in_channels``; 1 leaves the expansion out.
        kernel: side of the depthwise kernel, odd.
        norm: normalisation by MONAI's name.
        same_padding: pad as TensorFlow does.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        expansion: int,
        kernel: int = 3,
        norm: NormName = "batch",
        same_padding: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [conv_norm_relu6(spatial_dims, in_channels, hidden, kernel=1, norm=norm)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *layers,
            conv_norm_relu6(
                spatial_dims,
                hidden,
                hidden,
                kernel=kernel,
                stride=stride,
                groups=hidden,
                norm=norm,
                same_padding=same_padding,
            ),
            Conv[Conv.CONV, spatial_dims](hidden, out_channels, kernel_size=1, bias=False),
            get_norm_layer(norm, spatial_dims, out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *ceil(spatial / stride)]``."""
        return x + self.conv(x) if self.residual else self.conv(x)


class Group(NamedTuple):
    """Inverted residuals one after the other; only the first of them strides."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


class Chain(NamedTuple):
    """Layers one after the other, the places of the five whose outputs are stages, and the stages' channels."""

    features: nn.Sequential
    stage_ends: list[int]
    stage_channels: list[int]


def inverted_residual_chain(
    spatial_dims: int,
    in_channels: int,
    *,
    stem: int,
    groups: Iterable[Group],
    head: int,
    norm: NormName = "batch",
    same_padding: bool = False,
) -> Chain:
    """A strided 3x3 convolution, groups of inverted residuals, a 1x1 convolution.

    A stage ends before each group that strides, and with the chain.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        stem: channels of the first convolution.
        groups: four of them stride.
        head: channels of the last convolution.
        norm: normalisation by MONAI's name.
        same_padding: pad as TensorFlow does.
    """
    channels = stem
    layers: list[nn.Module] = [
        conv_norm_relu6(spatial_dims, in_channels, stem, kernel=3, stride=2, norm=norm, same_padding=same_padding)
    ]
    ends = []
    widths = []
    for group in groups:
        if group.stride > 1:
            ends.append(len(layers) - 1)
            widths.append(channels)
        for index in range(group.blocks):
            layers.append(
                InvertedResidual(
                    spatial_dims,
                    channels,
                    group.channels,
                    stride=group.stride if index == 0 else 1,
                    expansion=group.expansion,
                    kernel=group.kernel,
                    norm=norm,
                    same_padding=same_padding,
                )
            )
            channels = group.channels
    layers.append(conv_norm_relu6(spatial_dims, channels, head, kernel=1, norm=norm))
    return Chain(nn.Sequential(*layers), [*ends, len(layers) - 1], [*widths, head])

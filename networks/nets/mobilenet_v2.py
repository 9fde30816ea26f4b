"""MobileNetV2 with torchvision's parameter names, for two and three spatial dimensions."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments

#: Expansion, channels, blocks and stride of each group of inverted residuals (paper, Table 2).
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _rounded(width: float) -> int:
    """The multiple of 8 nearest to ``width``, at least 8, and never more than a tenth below it."""
    result = max(8, int(width + 4) // 8 * 8)
    return result + 8 if result < 0.9 * width else result


def _unit(
    spatial_dims: int, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU6."""
    return nn.Sequential(
        Conv[Conv.CONV, spatial_dims](
            in_channels,
            out_channels,
            kernel_size=kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        ),
        Norm[Norm.BATCH, spatial_dims](out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 expansion, 3x3 depthwise, 1x1 projection without activation; added where shapes agree.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the depthwise convolution.
        expansion: channels inside, as a multiple of ``in_channels``; 1 leaves the expansion out.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [_unit(spatial_dims, in_channels, hidden, kernel=1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *layers,
            _unit(spatial_dims, hidden, hidden, kernel=3, stride=stride, groups=hidden),
            Conv[Conv.CONV, spatial_dims](hidden, out_channels, kernel_size=1, bias=False),
            Norm[Norm.BATCH, spatial_dims](out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *ceil(spatial / stride)]``."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 as torchvision builds it (MONAI has none).

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", https://arxiv.org/abs/1801.04381::

        features[0]        convolution 3, stride 2               32      1/2 of the input's size
        features[1..6]     inverted residuals                    16..32  1/8   stage 4
        features[7..13]    inverted residuals                    64, 96  1/16  stage 5
        features[14..17]   inverted residuals                    160, 320  1/32
        features[18]       convolution 1                         1,280   1/32  stage 6
        global average pool, dropout 0.2, linear

    In 2D with three input channels and 1,000 classes the state dict has torchvision's names and shapes, and 3,504,872
    parameters. As torchvision's, it has a bias in the classifier and pads on both sides (TensorFlow's pads on one).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits; 0 leaves the classifier out, and ``forward`` gives the pooled features.
        width_mult: factor of all widths, each rounded to a multiple of 8; the last is never below 1,280.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        out_channels: channels of the maps of stages 4, 5 and 6 (strides 8, 16, 32).
    """

    def __init__(self, spatial_dims: int, in_channels: int, num_classes: int, *, width_mult: float = 1.0) -> None:
        super().__init__()
        # 0 classes are allowed: they leave the classifier out.
        check_arguments(spatial_dims, in_channels=in_channels, num_classes=num_classes or 1)
        if width_mult <= 0:
            raise ValueError(f"width_mult must be above 0, got {width_mult}.")
        channels = _rounded(32 * width_mult)
        layers: list[nn.Module] = [_unit(spatial_dims, in_channels, channels, kernel=3, stride=2)]
        for expansion, width, count, stride in GROUPS:
            for index in range(count):
                layers.append(
                    InvertedResidual(
                        spatial_dims,
                        channels,
                        _rounded(width * width_mult),
                        stride=stride if index == 0 else 1,
                        expansion=expansion,
                    )
                )
                channels = _rounded(width * width_mult)
        last = _rounded(1280 * max(1.0, width_mult))
        layers.append(_unit(spatial_dims, channels, last, kernel=1))
        self.features = nn.Sequential(*layers)
        #: Layers of ``features`` whose outputs are stages 4 and 5; the last gives stage 6.
        self.stage_ends = (6, 13)
        self.out_channels: tuple[int, int, int] = (_rounded(32 * width_mult), _rounded(96 * width_mult), last)
        self.avgpool = Pool[Pool.ADAPTIVEAVG, spatial_dims](1)
        self.classifier: nn.Module = (
            nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes)) if num_classes else nn.Identity()
        )
        for module in self.modules():
            if isinstance(module, Conv[Conv.CONV, spatial_dims]):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward_features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to the maps of stages 4, 5 and 6.

        Their channels are ``out_channels``, their sizes ``ceil(spatial / stride)`` with strides 8, 16, 32.
        """
        stage_4 = stage_5 = x
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index == self.stage_ends[0]:
                stage_4 = x
            if index == self.stage_ends[1]:
                stage_5 = x
        return stage_4, stage_5, x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        return self.classifier(self.avgpool(self.forward_features(x)[2]).flatten(1))

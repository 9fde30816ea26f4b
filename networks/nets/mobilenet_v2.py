"""MobileNetV2 with torchvision's parameter names, for two and three spatial dimensions."""

from __future__ import annotations

from monai.networks.layers.factories import Pool
from torch import nn

from pneumonai.networks.blocks.inverted_residual import Group, inverted_residual_chain, rounded_width
from pneumonai.networks.blocks.residual_backbone import check_arguments
from pneumonai.networks.blocks.sequential_backbone import SequentialBackbone

#: Groups of inverted residuals (paper, Table 2).
GROUPS = (
    Group(expansion=1, channels=16, blocks=1, stride=1, kernel=3),
    Group(expansion=6, channels=24, blocks=2, stride=2, kernel=3),
    Group(expansion=6, channels=32, blocks=3, stride=2, kernel=3),
    Group(expansion=6, channels=64, blocks=4, stride=2, kernel=3),
    Group(expansion=6, channels=96, blocks=3, stride=1, kernel=3),
    Group(expansion=6, channels=160, blocks=3, stride=2, kernel=3),
    Group(expansion=6, channels=320, blocks=1, stride=1, kernel=3),
)


class MobileNetV2(SequentialBackbone):
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
        stage_channels: channels of the maps at strides 2, 4, 8, 16 and 32.
        out_channels: channels of the maps of stages 4, 5 and 6 (strides 8, 16, 32).
    """

    def __init__(self, spatial_dims: int, in_channels: int, num_classes: int, *, width_mult: float = 1.0) -> None:
        check_arguments(spatial_dims, may_be_0="num_classes", in_channels=in_channels, num_classes=num_classes)
        if width_mult <= 0:
            raise ValueError(f"width_mult must be above 0, got {width_mult}.")
        last = rounded_width(1280 * max(1.0, width_mult))
        chain = inverted_residual_chain(
            spatial_dims,
            in_channels,
            stem=rounded_width(32 * width_mult),
            groups=[group._replace(channels=rounded_width(group.channels * width_mult)) for group in GROUPS],
            head=last,
        )
        super().__init__(
            *chain,
            Pool[Pool.ADAPTIVEAVG, spatial_dims](1),
            nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes)) if num_classes else nn.Identity(),
        )

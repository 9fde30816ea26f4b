"""EfficientNet-Lite with TensorFlow's padding, for two and three spatial dimensions."""

from __future__ import annotations

import math

from monai.networks.layers.factories import Pool
from torch import nn

from pneumonai.networks.blocks.inverted_residual import Group, inverted_residual_chain, rounded_width
from pneumonai.networks.blocks.residual_backbone import check_arguments
from pneumonai.networks.blocks.sequential_backbone import SequentialBackbone

#: Groups of inverted residuals of lite0.
GROUPS = (
    Group(expansion=1, channels=16, blocks=1, stride=1, kernel=3),
    Group(expansion=6, channels=24, blocks=2, stride=2, kernel=3),
    Group(expansion=6, channels=40, blocks=2, stride=2, kernel=5),
    Group(expansion=6, channels=80, blocks=3, stride=2, kernel=3),
    Group(expansion=6, channels=112, blocks=3, stride=1, kernel=5),
    Group(expansion=6, channels=192, blocks=4, stride=2, kernel=5),
    Group(expansion=6, channels=320, blocks=1, stride=1, kernel=3),
)

#: Factor of widths, factor of depths, and side of the pictures that the published weights were trained on, by variant.
VARIANTS: dict[str, tuple[float, float, int]] = {
    "lite0": (1.0, 1.0, 224),
    "lite1": (1.0, 1.1, 240),
    "lite2": (1.1, 1.2, 260),
    "lite3": (1.2, 1.4, 280),
    "lite4": (1.4, 1.8, 300),
}

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class EfficientNetLite(SequentialBackbone):
    """EfficientNet-Lite0 to Lite4 (MONAI's EfficientNet has squeeze and excitation, and swish, always).

    EfficientNet (Tan and Le, https://arxiv.org/abs/1905.11946) as TensorFlow's ``efficientnet/lite`` changes it for
    small devices: no squeeze and excitation; ReLU6 for swish; the first and the last convolution keep their widths,
    and the first and the last group of blocks their single block, in all variants. At lite0's widths::

        features[0]        convolution 3, stride 2                     32        1/2 of the input's size
        features[1]        inverted residual, kernel 3                 16        1/2
        features[2..3]     inverted residuals, kernel 3                24        1/4
        features[4..5]     inverted residuals, kernel 5                40        1/8   stage 4
        features[6..11]    inverted residuals, kernels 3 and 5         80, 112   1/16  stage 5
        features[12..16]   inverted residuals, kernels 5 and 3         192, 320  1/32
        features[17]       convolution 1                               1,280     1/32  stage 6
        global average pool, linear

    With three input channels and 1,000 classes it has 4,652,008 (lite0), 5,416,680 (lite1), 6,092,072 (lite2),
    8,197,096 (lite3) and 13,006,568 (lite4) parameters. As TensorFlow's, it pads strided convolutions unevenly
    (:class:`pneumonai.networks.blocks.inverted_residual.SamePadding`), from each input's own size, and its batch
    normalisation has epsilon 0.001 (its momentum is PyTorch's 0.1, not 0.01: running statistics must follow a
    fine-tuning of a few hundred steps). Differs from it in that there is no dropout
    before the classifier (0.2 or 0.3 there) and no drop connect (0.2), which act in training alone; and in 3D, which
    TensorFlow does not have. Converted weights load by
    :func:`pneumonai.networks.pretrained.load_efficientnet_lite_weights`.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits; 0 leaves the classifier out, and ``forward`` gives the pooled features.
        variant: a name of :data:`VARIANTS`, where the side that it was trained at stands too; any size works.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        stage_channels: channels of the maps at strides 2, 4, 8, 16 and 32.
        out_channels: channels of the maps of stages 4, 5 and 6 (strides 8, 16, 32).
    """

    def __init__(self, spatial_dims: int, in_channels: int, num_classes: int, *, variant: str = "lite0") -> None:
        check_arguments(spatial_dims, may_be_0="num_classes", in_channels=in_channels, num_classes=num_classes)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}.")
        width, depth, _ = VARIANTS[variant]
        groups = [
            group._replace(
                channels=rounded_width(group.channels * width),
                blocks=group.blocks if group in (GROUPS[0], GROUPS[-1]) else math.ceil(group.blocks * depth),
            )
            for group in GROUPS
        ]
        chain = inverted_residual_chain(
            spatial_dims,
            in_channels,
            stem=STEM_CHANNELS,
            groups=groups,
            head=HEAD_CHANNELS,
            norm=("batch", {"eps": 1e-3}),
            same_padding=True,
        )
        super().__init__(
            *chain,
            Pool[Pool.ADAPTIVEAVG, spatial_dims](1),
            nn.Linear(HEAD_CHANNELS, num_classes) if num_classes else nn.Identity(),
        )

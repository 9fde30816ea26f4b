"""VGG-16 and VGG-19 with torchvision's parameter names, for two and three spatial dimensions."""

from __future__ import annotations

from monai.networks.layers.factories import Conv, Pool
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments
from pneumonai.networks.blocks.sequential_backbone import SequentialBackbone

#: Convolutions in each of the five blocks by depth.
DEPTHS: dict[int, tuple[int, int, int, int, int]] = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(SequentialBackbone):
    """VGG without batch normalisation, as torchvision builds it (MONAI has none).

    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    https://arxiv.org/abs/1409.1556, configurations D and E::

        block 1   2 convolutions, pool       C    1/2 of the input's size
        block 2   2 convolutions, pool       2 C  1/4
        block 3   3 or 4 convolutions, pool  4 C  1/8
        block 4   3 or 4 convolutions, pool  8 C  1/16   stage 4: before its pool, 1/8
        block 5   3 or 4 convolutions, pool  8 C  1/32   stage 5: before its pool, 1/16; stage 6: after it
        avgpool (to 7 positions a side), classifier: 64 C, 64 C, num_classes

    Convolutions are 3x3 with bias, a ReLU after each. In 2D with C = 64, three input channels and 1,000 classes the
    state dict has torchvision's names and shapes; it has 138,357,544 (16) and 143,667,240 (19) parameters. Differs
    from the paper as torchvision's does: the last map is averaged to 7 positions a side, so that any size from 32 up
    works.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits; 0 leaves the classifier out, and ``forward`` gives the flattened averaged map.
        depth: 16 or 19.
        base_channels: width C of the first block.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        stage_channels: channels of the maps at strides 2, 4, 8, 16 and 32.
        out_channels: channels of the maps of stages 4, 5 and 6 (strides 8, 16, 32).
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, num_classes: int, *, depth: int, base_channels: int = 64
    ) -> None:
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}.")
        check_arguments(
            spatial_dims,
            may_be_0="num_classes",
            in_channels=in_channels,
            num_classes=num_classes,
            base_channels=base_channels,
        )
        widths = [base_channels * factor for factor in (1, 2, 4, 8, 8)]
        layers: list[nn.Module] = []
        ends = []
        channels = in_channels
        for width, count in zip(widths, DEPTHS[depth], strict=True):
            for _ in range(count):
                layers += [
                    Conv[Conv.CONV, spatial_dims](channels, width, kernel_size=3, padding=1),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            ends.append(len(layers) - 1)
            layers.append(Pool[Pool.MAX, spatial_dims](kernel_size=2, stride=2))
        hidden = 64 * base_channels
        classifier: nn.Module = (
            nn.Sequential(
                nn.Linear(widths[4] * 7**spatial_dims, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(hidden, num_classes),
            )
            if num_classes
            else nn.Identity()
        )
        # A stage is what stands before the next pool; the first, at the input's own size, is none.
        super().__init__(
            nn.Sequential(*layers),
            [*ends[1:], len(layers) - 1],
            [*widths[1:], widths[4]],
            Pool[Pool.ADAPTIVEAVG, spatial_dims]((7,) * spatial_dims),
            classifier,
        )

"""ResNet-18, 34 and 50 with torchvision's parameter names, for two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.nets.resnet import ResNet as MonaiResNet
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments


class BasicBlock(ResNetBlock):
    """MONAI's basic block with a module ``attention`` at the end of the branch, before the sum (identity by default).

    Arguments are those of :class:`monai.networks.nets.resnet.ResNetBlock`.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.attention: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to ``[B, planes, *ceil(spatial / stride)]``."""
        branch = self.act(self.bn1(self.conv1(x)))
        branch = self.attention(self.bn2(self.conv2(branch)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act(branch + shortcut)


class Bottleneck(ResNetBottleneck):
    """MONAI's bottleneck with a module ``attention`` at the end of the branch, before the sum (identity by default).

    Arguments are those of :class:`monai.networks.nets.resnet.ResNetBottleneck`.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.attention: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to ``[B, 4 planes, *ceil(spatial / stride)]``."""
        branch = self.act(self.bn1(self.conv1(x)))
        branch = self.act(self.bn2(self.conv2(branch)))
        branch = self.attention(self.bn3(self.conv3(branch)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act(branch + shortcut)


#: Block and blocks a stage by depth.
DEPTHS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(MonaiResNet):
    """Residual network that activates after the sum, as torchvision builds it.

    He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385::

        conv1 (7, stride 2), bn1, act, maxpool (3, stride 2)    C    1/4 of the input's size
        layer1                                                  C    1/4
        layer2 (stride 2)                                       2 C  1/8   stage 4
        layer3 (stride 2)                                       4 C  1/16  stage 5
        layer4 (stride 2)                                       8 C  1/32  stage 6
        avgpool, fc

    (four times as wide after each layer with depth 50). The layers are MONAI's, told to build torchvision's variant:
    a strided stem, shortcuts by convolution without bias. In 2D with C = 64, three input channels and 1,000 classes
    the state dict has torchvision's names and shapes; it has 11,689,512 (18), 21,797,672 (34) and 25,557,032 (50)
    parameters. As torchvision's, the bottleneck strides in its 3x3 convolution, where the paper strides in the first
    1x1.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits; 0 leaves the classifier out, and ``forward`` gives the pooled features.
        depth: 18, 34 or 50.
        base_channels: width C of the stem.
        attention: called with ``spatial_dims`` and the channels of each block's output, gives the module that ends
            the block's branch; None ends it with the normalisation.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        stage_channels: channels of the maps at strides 2, 4, 8, 16 and 32.
        out_channels: channels of the maps of stages 4, 5 and 6 (strides 8, 16, 32).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        depth: int,
        base_channels: int = 64,
        attention: Callable[[int, int], nn.Module] | None = None,
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
        block, layers = DEPTHS[depth]
        super().__init__(
            block,
            list(layers),
            [base_channels * factor for factor in (1, 2, 4, 8)],
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            shortcut_type="B",
            num_classes=num_classes,
            feed_forward=num_classes > 0,
            bias_downsample=False,
        )
        widths = [base_channels * factor * block.expansion for factor in (1, 2, 4, 8)]
        self.stage_channels: tuple[int, ...] = (base_channels, *widths)
        self.out_channels: tuple[int, ...] = (widths[1], widths[2], widths[3])
        if attention is not None:
            for layer, width in zip((self.layer1, self.layer2, self.layer3, self.layer4), widths, strict=True):
                for unit in layer:
                    unit.attention = attention(spatial_dims, width)

    def forward_stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to five maps, at strides 2, 4, 8, 16 and 32.

        Their channels are ``stage_channels``; the first is the activated stem before its pool, the last three are
        those of :meth:`forward_features`.
        """
        stages = [self.act(self.bn1(self.conv1(x)))]
        stages.append(self.layer1(self.maxpool(stages[0])))
        stages.append(self.layer2(stages[1]))
        stages.append(self.layer3(stages[2]))
        stages.append(self.layer4(stages[3]))
        return stages

    def forward_features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to the maps of stages 4, 5 and 6.

        Their channels are ``out_channels``, their sizes ``ceil(spatial / stride)`` with strides 8, 16, 32.
        """
        stages = self.forward_stages(x)
        return stages[2], stages[3], stages[4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        pooled = self.avgpool(self.forward_features(x)[2]).flatten(1)
        return pooled if self.fc is None else self.fc(pooled)

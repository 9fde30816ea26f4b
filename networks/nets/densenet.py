"""DenseNet with torchvision's parameter names, and what the attention-transfer paper changes in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from monai.networks.nets.densenet import _Transition
from torch import nn

from pneumonai.networks.blocks.deformable_attention import DeformableAttention
from pneumonai.networks.blocks.gamma_dense import GammaDenseBlock
from pneumonai.networks.blocks.normalised_linear import NormalisedLinear
from pneumonai.networks.blocks.residual_backbone import check_arguments


class DenseNet(nn.Module):
    """Densely connected network, plain or with gamma-dense blocks, deformable attention, a cosine head.

    Huang et al., "Densely Connected Convolutional Networks", https://arxiv.org/abs/1608.06993, with the changes of
    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section III::

        features.conv0 (7, stride 2), norm0, relu0, pool0 (3, stride 2)    2 k   1/4 of the input's size
        features.denseblock1                                               C1    1/4
        attention1    :class:`DeformableAttention`, or nothing             C1    1/4
        features.transition1 (BN, ReLU, 1x1, mean of 2)                    C1/2  1/8
        features.denseblock2, attention2, transition2, ...                       1/8, 1/16, ...
        features.norm5, ReLU, global average pool, classifier

    with growth rate k. In 2D with the defaults, three input channels and 1,000 classes the plain network has
    torchvision's DenseNet-121's names and its 7,978,856 parameters.

    Args:
        spatial_dims: 2 or 3; 2 with deformable attention.
        in_channels: channels of the input.
        num_classes: how many logits.
        growth_rate: channels k that each layer appends; the stem has 2 k, bottlenecks 4 k.
        block_config: layers of each block; at least two blocks with deformable attention.
        gamma: whether blocks have weighted connections (:class:`GammaDenseBlock`).
        deformable_attention: whether an attention module follows each of the first two blocks.
        cosine_head: whether the classifier is a :class:`NormalisedLinear` instead of a linear layer.
        temperature: of the attention's softmax.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        gamma: bool = False,
        deformable_attention: bool = False,
        cosine_head: bool = False,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, in_channels=in_channels, num_classes=num_classes, growth_rate=growth_rate)
        fewest = 2 if deformable_attention else 1
        if len(block_config) < fewest or min(block_config) < 1:
            raise ValueError(
                f"block_config must have at least {fewest} blocks of at least one layer, got {tuple(block_config)}."
            )
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        channels = 2 * growth_rate
        stem = [
            ("conv0", conv(in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False)),
            ("norm0", norm(channels)),
            ("relu0", nn.ReLU(inplace=True)),
            ("pool0", Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=2, padding=1)),
        ]
        self.features = nn.Sequential(OrderedDict(stem))
        attended: list[int] = []
        for index, layers in enumerate(block_config):
            block = GammaDenseBlock(spatial_dims, channels, layers=layers, growth_rate=growth_rate, gamma=gamma)
            channels = block.out_channels
            self.features.add_module(f"denseblock{index + 1}", block)
            attended.append(channels)
            if index < len(block_config) - 1:
                self.features.add_module(f"transition{index + 1}", _Transition(spatial_dims, channels, channels // 2))
                channels //= 2
        self.features.add_module("norm5", norm(channels))
        self.relu = nn.ReLU(inplace=True)
        self.pool = Pool[Pool.ADAPTIVEAVG, spatial_dims](1)
        self.classifier: nn.Module = (
            NormalisedLinear(channels, num_classes) if cosine_head else nn.Linear(channels, num_classes)
        )
        self._initialise()
        # After the others, whose convolutions start differently.
        self.attention1: DeformableAttention | None = None
        self.attention2: DeformableAttention | None = None
        if deformable_attention:
            self.attention1 = DeformableAttention(spatial_dims, attended[0], temperature=temperature)
            self.attention2 = DeformableAttention(spatial_dims, attended[1], temperature=temperature)
        # Places of the first two blocks in ``features``, which TorchScript reads from the module.
        self.first_block, self.second_block = len(stem), len(stem) + 2

    def _initialise(self) -> None:
        """torchvision's starting weights: He et al.'s normal distribution (fan in), biases at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
        if isinstance(self.classifier, nn.Linear):
            nn.init.zeros_(self.classifier.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        return self.forward_attention(x)[0]

    def forward_attention(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Logits, and what the attention modules gave on the way.

        Returns:
            logits ``[B, num_classes]``; A0 ``[B, C1, *spatial / 4]`` and A1 ``[B, C2, *spatial / 8]``; their offsets
            ``[B, 2, 9, ...]`` (:meth:`DeformableAttention.attend`). Both lists are empty without attention.
        """
        maps: list[torch.Tensor] = []
        offsets: list[torch.Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index == self.first_block and self.attention1 is not None:
                gathered, moved = self.attention1.attend(x)
                x = x + gathered
                maps.append(gathered)
                offsets.append(moved)
            if index == self.second_block and self.attention2 is not None:
                gathered, moved = self.attention2.attend(x)
                x = x + gathered
                maps.append(gathered)
                offsets.append(moved)
        return self.classifier(self.pool(self.relu(x)).flatten(1)), maps, offsets

"""What backbones whose layers follow each other share: the maps of five stages, pooling, classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class SequentialBackbone(nn.Module):
    """A backbone whose layers follow each other; some of their outputs are the stages.

    Convolutions start from He et al.'s normal distribution (fan out), linear layers from a normal distribution of
    deviation 0.01, biases at 0.

    Args:
        features: the layers in order.
        stage_ends: places of the five layers whose outputs are the maps at strides 2, 4, 8, 16 and 32, the last of
            ``features`` among them.
        stage_channels: channels of these maps.
        avgpool: from the last map.
        classifier: from the flattened pooled map.

    Attributes:
        stage_channels: channels of the maps of all five stages.
        out_channels: channels of the maps of stages 4, 5 and 6 (strides 8, 16, 32).
    """

    def __init__(
        self,
        features: nn.Sequential,
        stage_ends: Sequence[int],
        stage_channels: Sequence[int],
        avgpool: nn.Module,
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        self.features = features
        self.stage_ends = list(stage_ends)
        self.stage_channels: tuple[int, ...] = tuple(stage_channels)
        self.out_channels: tuple[int, ...] = tuple(stage_channels[-3:])
        self.avgpool = avgpool
        self.classifier = classifier
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward_stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to five maps, at strides 2, 4, 8, 16 and 32.

        Their channels are ``stage_channels``; the last three are those of :meth:`forward_features`.
        """
        stages: list[torch.Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.stage_ends:
                stages.append(x)
        return stages

    def forward_features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to the maps of stages 4, 5 and 6.

        Their channels are ``out_channels``, their sizes ``spatial / stride`` with strides 8, 16, 32, rounded up where
        convolutions stride and down where pools do.
        """
        stages = self.forward_stages(x)
        return stages[2], stages[3], stages[4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``, or pooled features without classifier."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))

"""Bilinear CNN, without and with MAG-SD's attention."""

from __future__ import annotations

import torch
from torch import nn

from pneumonai.networks.blocks.attention_pooling import AttentionGenerator, AttentionPooling
from pneumonai.networks.blocks.residual_backbone import check_arguments
from pneumonai.networks.nets.backbones import STAGE_STRIDES, build_backbone


class BCNN(nn.Module):
    """Bilinear pooling of a backbone's map by itself, and one linear layer.

    Lin et al., "Bilinear CNN Models for Fine-grained Visual Recognition", https://arxiv.org/abs/1504.07889: the mean
    over the positions of each product of two channels, a signed square root, the L2 norm; both streams are the same
    network (the paper's [D, D] with VGG-16). It is :class:`AttentionPooling` of a map by itself.

    With ``attention``, "BCNN(Attention)" of "Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest
    X-ray Images", https://arxiv.org/abs/2012.02278, Table 3: "multiscale attention and attention pooling were
    transported to BCNN", no more is said. Here the pooled attention of stage 6's map by the maps of stages 5 and 6 is
    appended to the bilinear row; ``forward_all`` gives the maps, so that MAG-SD's training serves this network too.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        backbone: a name of :data:`pneumonai.networks.nets.backbones.BACKBONES`, or a module that is a
            :class:`pneumonai.networks.nets.backbones.Backbone`.
        stage: the map that is pooled, 4, 5 or 6; of VGG-16 5 is the paper's (before the last pool), of residual
            networks 6 is what the paper's step corresponds to.
        attention: append attention pooling.
        num_attention_maps: how many attention maps.
        feature_scale: length of each pooled row. The paper has 1; 100 is MA-Net's, so that one learning rate serves
            both.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        backbone: str | nn.Module = "vgg16",
        stage: int = 5,
        attention: bool = False,
        num_attention_maps: int = 32,
        feature_scale: float = 100.0,
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, num_classes=num_classes)
        if stage not in STAGE_STRIDES:
            raise ValueError(f"stage must be 4, 5 or 6, got {stage}.")
        self.backbone = build_backbone(backbone, spatial_dims, in_channels)
        widths = dict(zip(STAGE_STRIDES, self.backbone.out_channels, strict=True))
        self.stage_index = stage - 4
        self.pool = AttentionPooling(feature_scale)
        features = widths[stage] ** 2
        self.generator = None
        if attention:
            self.generator = AttentionGenerator(spatial_dims, [widths[5], widths[6]], num_attention_maps)
            features += num_attention_maps * widths[6]
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        return self.forward_all(x)[0]

    def forward_all(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]`` and the attention maps, in one pass.

        The maps are ``[B, num_attention_maps, *ceil(spatial / 32)]`` and at least 0; none without attention.
        """
        stages = self.backbone.forward_features(x)
        pooled_map = [stages[0], stages[1], stages[2]][self.stage_index]
        row = self.pool(pooled_map, pooled_map)
        maps = stages[2][:, :0]
        if self.generator is not None:
            maps = self.generator([stages[1], stages[2]])
            row = torch.cat([row, self.pool(stages[2], maps)], dim=1)
        return self.classifier(row), maps

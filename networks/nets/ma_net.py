"""MA-Net, the network of MAG-SD: a backbone, attention maps from several of its stages, pooling by each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pneumonai.networks.blocks.attention_pooling import AttentionGenerator, AttentionPooling, GlobalPooling
from pneumonai.networks.blocks.residual_backbone import check_arguments
from pneumonai.networks.nets.backbones import STAGE_STRIDES, build_backbone

#: Poolings by name; the factor applies to ``attention`` alone.
POOLINGS = ("attention", "gap", "gmp")

#: Width of the backbones as published.
PUBLISHED_CHANNELS = 64


class MANet(nn.Module):
    """Multiscale attention network, for classifying chest X-rays (or volumes, with ``spatial_dims=3``).

    "Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images",
    https://arxiv.org/abs/2012.02278, Section 3.2 and Figs. 2 to 4::

        backbone     maps of stages 4, 5, 6                                   1/8, 1/16, 1/32 of the input's size
        generator    AttentionGenerator of the chosen stages -> A, 32 maps    1/32
        pool         AttentionPooling of stage 6's map by A                   32 C_6 numbers
        classifier   linear without bias

    With ResNet-50, three input channels and three classes it has 23.8 million parameters.

    Settles what the paper leaves open: the choices of :class:`AttentionGenerator` and :class:`AttentionPooling` in
    :mod:`pneumonai.networks.blocks`; no bias in the classifier, as in the method that the paper builds on.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        backbone: a name of :data:`pneumonai.networks.nets.backbones.BACKBONES`, or a module that is a
            :class:`pneumonai.networks.nets.backbones.Backbone`; it then decides about dimensions and input channels
            itself, and a classifier that it may have is not used.
        base_channels: width of a named ResNet, VGG or FUSA-ResNet.
        num_attention_maps: how many attention maps.
        stages: which of the stages 4, 5, 6 give attention; in order, ending with 6. The paper's best, and the
            default, are 5 and 6.
        pooling: ``attention``; or ``gap`` or ``gmp``, mean or maximum of stage 6's map alone (Table 6), with which no
            gradient reaches the generator.
        feature_scale: length of the pooled row; None leaves the pooling's square root, norm and factor out.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        backbone: str | nn.Module = "resnet50",
        base_channels: int = PUBLISHED_CHANNELS,
        num_attention_maps: int = 32,
        stages: Sequence[int] = (5, 6),
        pooling: str = "attention",
        feature_scale: float | None = 100.0,
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, num_classes=num_classes)
        chosen = tuple(stages)
        if not chosen or chosen[-1] != 6 or sorted({*chosen} & {*STAGE_STRIDES}) != list(chosen):
            raise ValueError(f"stages must be some of 4, 5, 6 in order, ending with 6, got {stages}.")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}.")
        options = {} if base_channels == PUBLISHED_CHANNELS else {"base_channels": base_channels}
        if options and (isinstance(backbone, nn.Module) or backbone.startswith(("mobilenet", "efficientnet"))):
            raise ValueError(f"base_channels applies to a named ResNet, VGG or FUSA-ResNet, got {base_channels}.")
        self.backbone = build_backbone(backbone, spatial_dims, in_channels, **options)
        widths = dict(zip(STAGE_STRIDES, self.backbone.out_channels, strict=True))
        self.stages = chosen
        self.generator = AttentionGenerator(spatial_dims, [widths[stage] for stage in chosen], num_attention_maps)
        features = widths[6]
        self.pool: nn.Module = GlobalPooling(maximum=pooling == "gmp")
        if pooling == "attention":
            self.pool = AttentionPooling(feature_scale)
            features *= num_attention_maps
        self.classifier = nn.Linear(features, num_classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        return self.forward_all(x)[0]

    def forward_all(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]`` and the attention maps, in one pass.

        The maps are ``[B, num_attention_maps, *ceil(spatial / 32)]`` and at least 0.
        """
        features, maps = self._features_and_maps(x)
        return self.classifier(self.pool(features, maps)), maps

    def attention_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The attention maps of :meth:`forward_all` as the only entry."""
        return [self._features_and_maps(x)[1]]

    def _features_and_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stage_4, stage_5, stage_6 = self.backbone.forward_features(x)
        features = []
        if 4 in self.stages:
            features.append(stage_4)
        if 5 in self.stages:
            features.append(stage_5)
        features.append(stage_6)
        return stage_6, self.generator(features)

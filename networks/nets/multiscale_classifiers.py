"""FPN and U-Net as classifiers: the networks of multiscale features that MAG-SD is compared with.

"Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images", https://arxiv.org/abs/2012.02278,
Table 3, which says no more than their names. Both stand on any backbone of this package, whose parameters keep their
names, so that :func:`pneumonai.networks.pretrained.load_torchvision_weights` fills it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from monai.networks.layers.factories import Pool
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments
from pneumonai.networks.nets.backbone_unet import BackboneUNet
from pneumonai.networks.nets.backbones import STAGES, StagedBackbone, build_backbone


class FPNClassifier(nn.Module):
    """Feature pyramid on a backbone: the mean of each level's map, all means in one linear layer.

    Lin et al., "Feature Pyramid Networks for Object Detection", https://arxiv.org/abs/1612.03144, by MONAI's module:
    levels at strides 4, 8, 16 and 32, ``pyramid_channels`` each. Means and linear layer are this project's choice; the
    paper detects objects.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        backbone: a name of :data:`pneumonai.networks.nets.backbones.BACKBONES`, or a module that is a
            :class:`pneumonai.networks.nets.backbones.StagedBackbone`.
        pyramid_channels: channels of each level; the paper's are 256.

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
        pyramid_channels: int = 256,
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, num_classes=num_classes, pyramid_channels=pyramid_channels)
        self.backbone = build_backbone(backbone, spatial_dims, in_channels)
        if not isinstance(self.backbone, StagedBackbone) or len(self.backbone.stage_channels) != STAGES:
            raise ValueError(
                "the backbone of a feature pyramid must publish stage_channels, the channels of its maps at strides 2, "
                f"4, 8, 16 and 32, and return these maps from forward_stages; {type(self.backbone).__name__} does not."
            )
        channels = list(self.backbone.stage_channels[1:])
        self.pyramid = FeaturePyramidNetwork(spatial_dims, channels, pyramid_channels)
        self.classifier = nn.Linear(len(channels) * pyramid_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]``, sides of at least 32, to logits ``[B, num_classes]``."""
        stages = self.backbone.forward_stages(x)
        levels = self.pyramid({"4": stages[1], "8": stages[2], "16": stages[3], "32": stages[4]})
        means = [levels[level].flatten(2).mean(dim=2) for level in ("4", "8", "16", "32")]
        return self.classifier(torch.cat(means, dim=1))


class UNetClassifier(BackboneUNet):
    """:class:`BackboneUNet` whose head is the mean over all positions and one linear layer.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        backbone: as for :class:`BackboneUNet`.
        decoder_channels: channels of the decoder's five steps, from coarse to fine.

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
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        super().__init__(spatial_dims, in_channels, num_classes, backbone=backbone, decoder_channels=decoder_channels)
        self.head = nn.Sequential(
            Pool[Pool.ADAPTIVEAVG, spatial_dims](1), nn.Flatten(), nn.Linear(decoder_channels[-1], num_classes)
        )

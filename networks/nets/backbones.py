"""The backbones by name, and what a backbone of the user's own must offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from pneumonai.networks.nets.efficientnet_lite import VARIANTS, EfficientNetLite
from pneumonai.networks.nets.fusa_resnet import FUSAResNet
from pneumonai.networks.nets.mobilenet_v2 import MobileNetV2
from pneumonai.networks.nets.resnet import ResNet
from pneumonai.networks.nets.vgg import VGG

#: Backbones by name; each is called with ``spatial_dims, in_channels, num_classes``.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet18": partial(ResNet, depth=18),
    "resnet34": partial(ResNet, depth=34),
    "resnet50": partial(ResNet, depth=50),
    "vgg16": partial(VGG, depth=16),
    "vgg19": partial(VGG, depth=19),
    "fusa_resnet18": partial(FUSAResNet, depth=18),
    "fusa_resnet50": partial(FUSAResNet, depth=50),
    **{f"efficientnet_{variant}": partial(EfficientNetLite, variant=variant) for variant in VARIANTS},
}

#: Input pixels between the positions of a stage's map.
STAGE_STRIDES = {4: 8, 5: 16, 6: 32}

#: Maps of a backbone that halves five times.
STAGES = 5


@runtime_checkable
class Backbone(Protocol):
    """What a network must offer to carry this package's modules, beside being a ``torch.nn.Module``.

    Attributes:
        out_channels: channels of the maps of stages 4, 5 and 6.
    """

    out_channels: Sequence[int]

    def forward_features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to the maps of stages 4, 5 and 6, at strides 8, 16 and 32."""
        ...


@runtime_checkable
class StagedBackbone(Backbone, Protocol):
    """What a backbone must offer beyond :class:`Backbone` to be the encoder of a U-Net; every named one does.

    Attributes:
        stage_channels: channels of the maps at strides 2, 4, 8, 16 and 32.
    """

    stage_channels: Sequence[int]

    def forward_stages(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Map ``[B, in_channels, *spatial]`` to five maps, at strides 2, 4, 8, 16 and 32."""
        ...


def build_backbone(
    backbone: str | nn.Module, spatial_dims: int, in_channels: int, num_classes: int = 0, **options: object
) -> Any:
    """The backbone of that name, built; or the given one, checked and returned as it is.

    Args:
        backbone: a name of :data:`BACKBONES`, or a module that is a :class:`Backbone`.
        spatial_dims: of a named backbone.
        in_channels: of a named backbone.
        num_classes: of a named backbone; 0 leaves its classifier out.
        options: further arguments of a named backbone.

    Returns:
        a ``torch.nn.Module`` that is a :class:`Backbone`, which no one type says.

    Raises:
        ValueError: no such name, or the module publishes no three ``out_channels`` or has no ``forward_features``.
    """
    if isinstance(backbone, str):
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, or a module, got {backbone!r}.")
        return BACKBONES[backbone](spatial_dims, in_channels, num_classes, **options)
    if not isinstance(backbone, Backbone) or len(backbone.out_channels) != 3:
        raise ValueError(
            "a backbone must publish out_channels, the channels of the maps of stages 4, 5 and 6 (strides 8, 16, 32), "
            f"and return these maps from forward_features; {type(backbone).__name__} does not."
        )
    return backbone

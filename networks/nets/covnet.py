"""CovNet: a 2D network on every slice of a volume, its features merged by their maximum."""

from __future__ import annotations

from typing import Any, Self

import torch
from monai.networks.nets import ResNet
from torch import nn

from pneumonai.networks.blocks.residual_backbone import check_arguments


class CovNet(nn.Module):
    """ResNet-50 a slice, global average pooling, maximum over the slices, one linear layer.

    Li et al., "Artificial Intelligence Distinguishes COVID-19 from Community Acquired Pneumonia on Chest CT",
    Radiology 2020, https://doi.org/10.1148/radiol.2020200905; compared with NL-RAN in
    https://arxiv.org/abs/2408.04300, Table II::

        [B, in_channels, D, H, W] -> B D slices -> backbone -> average over H, W -> maximum over D -> linear

    The backbone is MONAI's ``ResNet`` with the layers and starting weights (random, none from ImageNet) of its
    ResNet-50. With C = ``base_channels`` = 64 it has 23.5 million parameters, as ResNet-50 has with one input channel
    and three classes.

    Args:
        spatial_dims: 3; slices are taken along the first axis.
        in_channels: channels of the input.
        num_classes: how many logits.
        base_channels: width C of the backbone's stem.
        slices_at_once: so many slices go through the backbone together in eval mode, which bounds memory and changes
            nothing else; None takes all. Training takes all, as batch normalisation must see them together.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        classifier: the linear layer; its weight ``[num_classes, 32 C]`` times the map of :meth:`forward_features`
            is the class activation map.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        num_classes: int = 3,
        *,
        base_channels: int = 64,
        slices_at_once: int | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"spatial_dims must be 3, as CovNet reads the slices of a volume, got {spatial_dims}.")
        check_arguments(
            spatial_dims,
            in_channels=in_channels,
            num_classes=num_classes,
            base_channels=base_channels,
            slices_at_once=1 if slices_at_once is None else slices_at_once,
        )
        resnet = ResNet(
            "bottleneck",
            layers=[3, 4, 6, 3],
            block_inplanes=[base_channels * factor for factor in (1, 2, 4, 8)],
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.slices_at_once = slices_at_once
        names = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
        self.backbone = nn.Sequential()
        for name in names:
            self.backbone.add_module(name, resnet.get_submodule(name))
        # All slices' maps pass here, together and with their axes, so that class activation maps can catch them.
        self.features = nn.Identity()
        self.classifier = nn.Linear(32 * base_channels, num_classes)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As PyTorch's; the memory format of a volume's network, ``channels_last_3d``, is ``channels_last`` here."""
        if kwargs.get("memory_format") == torch.channels_last_3d:
            kwargs["memory_format"] = torch.channels_last
        return super().to(*args, **kwargs)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, D, H, W]`` to the maps of all slices, ``[B, 32 C, D, ceil(H / 32), ceil(W / 32)]``."""
        slices = x.transpose(1, 2).flatten(0, 1)
        if self.slices_at_once is None or self.training:
            maps = self.backbone(slices)
        else:
            maps = torch.cat([self.backbone(part) for part in slices.split(self.slices_at_once)])
        return self.features(maps.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, D, H, W]`` to logits ``[B, num_classes]``."""
        return self.classifier(self.forward_features(x).mean(dim=(3, 4)).amax(dim=2))

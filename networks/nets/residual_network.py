"""The residual network that NL-RAN is compared with, plain or with simpler attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import SimpleASPP
from monai.networks.layers.factories import Norm, Pool
from torch import nn

from pneumonai.networks.blocks.channel_spatial_attention import CHANNEL_SPATIAL_ATTENTION
from pneumonai.networks.blocks.residual_backbone import (
    WIDTH_FACTORS,
    check_arguments,
    initialise_convolutions,
    pooled_stem,
    residual_stage,
)


def _pyramid(spatial_dims: int, channels: int) -> nn.Module:
    """MONAI's atrous spatial pyramid: a convolution of size 1, three of size 3 with rates 1, 2, 3, a quarter each."""
    return SimpleASPP(
        spatial_dims,
        channels,
        channels // 4,
        kernel_sizes=(1, 3, 3, 3),
        dilations=(1, 1, 2, 3),
        norm_type="BATCH",
        acti_type="RELU",
    )


class ResidualNetwork(nn.Module):
    """Three- (or two-)dimensional pre-activation ResNet: NL-RAN's backbone without its attention and non-local modules.

    "An Explainable Non-local Network for COVID-19 Diagnosis", https://arxiv.org/abs/2408.04300, Tables I, II, IV::

        stem             conv 7 stride 2, BN, ReLU, max pool 3 stride 2     C     1/4 of the input's size
        stages[0]        residual units                                     4 C   1/4
        stages[1]        residual units, the first with stride 2            8 C   1/8
        stages[2]        residual units, the first with stride 2            16 C  1/16
        stage_attention  where there is one                                 16 C  1/16
        tail             residual units, the first with stride 2            32 C  1/32
        features         BN, ReLU
        head             global average pool, linear

    The rows of the paper's tables are these:

    ===============  =======================================
    ResNet           the defaults
    SENet, ResCA     ``unit_attention="channel"``
    CBAM             ``unit_attention="cbam"``
    ResCSA           ``unit_attention="channel_spatial"``
    CA, SA, CSA      ``stage_attention="channel"``, ``"spatial"``, ``"channel_spatial"``
    ASPP             ``stage_attention="aspp"``
    ===============  =======================================

    Settles what the paper leaves open: its depth (units as in ResNet-50) and where the modules of CA, SA, CSA and ASPP
    stand. SENet and ResCA are one network, though the paper prints two figures for them. ASPP has a convolution of size
    1 beside those with rates 1, 2, 3 and no pooled branch; each branch gives a quarter of the channels.

    MONAI's ``ResNet`` and ``SENet`` are not it: their units convolve before they normalise, and their stems differ.
    Squeeze and excitation is MONAI's ``ChannelSELayer``, ASPP its ``SimpleASPP``.

    Convolutions start from He et al.'s normal distribution (fan in), biases at 0, batch normalisations at weight 1 and
    bias 0, linear layers from PyTorch's default.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        units: how many residual units in each of the three stages and the tail.
        base_channels: width C of the stem.
        unit_attention: what ends the residual branch of every unit: ``none``, or a name of
            :data:`~pneumonai.networks.blocks.CHANNEL_SPATIAL_ATTENTION` (``channel``, ``spatial``,
            ``channel_spatial``, ``cbam``).
        stage_attention: what follows the third stage, once: the same names, or ``aspp``.

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
        units: Sequence[int] = (3, 4, 6, 3),
        base_channels: int = 64,
        unit_attention: str = "none",
        stage_attention: str = "none",
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, in_channels=in_channels, num_classes=num_classes, base_channels=base_channels)
        if len(units) != 4 or min(units) < 1:
            raise ValueError(f"units must be four counts of at least 1, got {units}.")
        in_units = {"none": None, **CHANNEL_SPATIAL_ATTENTION}
        after_stage = in_units | {"aspp": _pyramid}
        for name, value, known in (
            ("unit_attention", unit_attention, in_units),
            ("stage_attention", stage_attention, after_stage),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        widths = [base_channels * factor for factor in WIDTH_FACTORS]
        self.stem = pooled_stem(spatial_dims, in_channels, widths[0])
        stages = [
            residual_stage(
                spatial_dims,
                widths[index],
                widths[index + 1],
                units=count,
                stride=1 if index == 0 else 2,
                attention=in_units[unit_attention],
            )
            for index, count in enumerate(units)
        ]
        self.stages = nn.ModuleList(stages[:3])
        build = after_stage[stage_attention]
        self.stage_attention = nn.Identity() if build is None else build(spatial_dims, widths[3])
        self.tail = stages[3]
        self.features = nn.Sequential(Norm[Norm.BATCH, spatial_dims](widths[4]), nn.ReLU(inplace=True))
        self.pool = Pool[Pool.ADAPTIVEAVG, spatial_dims](1)
        self.classifier = nn.Linear(widths[4], num_classes)
        initialise_convolutions(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to the map that enters the pooling, ``[B, 32 C, *ceil(spatial / 32)]``."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.features(self.tail(self.stage_attention(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        return self.classifier(self.pool(self.forward_features(x)).flatten(1))

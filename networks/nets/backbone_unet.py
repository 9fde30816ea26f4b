"""A U-Net whose encoder is any backbone of this package, so that ImageNet weights can start it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets.basic_unet import TwoConv
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.residual_backbone import check_arguments, check_sides
from pneumonai.networks.nets.backbones import STAGES, StagedBackbone, build_backbone


class DecoderStep(nn.Module):
    """Linear upsampling to the size of the encoder's map, concatenation, twice 3x3 convolution, BN, ReLU.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        skip_channels: channels of the encoder's map.
        out_channels: channels of the output.
    """

    def __init__(self, spatial_dims: int, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        self.conv = _two_convolutions(spatial_dims, in_channels + skip_channels, out_channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *coarse]`` and ``[B, skip_channels, *fine]`` to ``[B, out_channels, *fine]``."""
        upsampled = F.interpolate(x, size=skip.shape[2:], mode=self.mode, align_corners=False)
        return self.conv(torch.cat([upsampled, skip], dim=1))


class BackboneUNet(nn.Module):
    """U-Net on a backbone: its maps at strides 2 to 32 go to a decoder of five steps.

    After Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    https://arxiv.org/abs/1505.04597, with a classification network for the encoder, at the defaults::

        backbone      maps of five stages    16, 24, 48, 120, 1280   1/2, 1/4, 1/8, 1/16, 1/32
        decoder[0]    + the map at 1/16      256                     1/16
        decoder[1]    + the map at 1/8       128                     1/8
        decoder[2]    + the map at 1/4       64                      1/4
        decoder[3]    + the map at 1/2       32                      1/2
        last          upsampled alone        16                      1
        head          1x1 convolution        out_channels            1

    With one input channel and one class it has 9,289,169 parameters. Differs from the paper in what the encoder is,
    in linear upsampling for transposed convolution, in padded convolutions with batch normalisation, and in a last
    step without an encoder's map, since the backbones start by halving. ``backbone`` keeps its parameters' names, so
    :func:`pneumonai.networks.pretrained.load_torchvision_weights` or ``load_efficientnet_lite_weights`` fills it. In
    training a batch of one needs a side above 32, since batch normalisation needs two values a channel.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, one a class.
        backbone: a name of :data:`pneumonai.networks.nets.backbones.BACKBONES`, or a module that is a
            :class:`pneumonai.networks.nets.backbones.StagedBackbone`; it then decides about dimensions and input
            channels itself, and a classifier that it may have is not used.
        decoder_channels: channels of the five steps, from coarse to fine.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        backbone: str | nn.Module = "efficientnet_lite2",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, in_channels=in_channels, out_channels=out_channels)
        if len(decoder_channels) != STAGES or min(decoder_channels) < 1:
            raise ValueError(f"decoder_channels must be {STAGES} numbers of at least 1, got {decoder_channels}.")
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        self.backbone = build_backbone(backbone, spatial_dims, in_channels)
        if not isinstance(self.backbone, StagedBackbone) or len(self.backbone.stage_channels) != STAGES:
            raise ValueError(
                "the backbone of a U-Net must publish stage_channels, the channels of its maps at strides 2, 4, 8, 16 "
                f"and 32, and return these maps from forward_stages; {type(self.backbone).__name__} does not."
            )
        skips = list(self.backbone.stage_channels)
        inputs = [skips.pop(), *decoder_channels[:3]]
        self.decoder = nn.ModuleList(
            DecoderStep(spatial_dims, *widths)
            for widths in zip(inputs, reversed(skips), decoder_channels[:4], strict=True)
        )
        self.last = _two_convolutions(spatial_dims, decoder_channels[3], decoder_channels[4])
        self.head = Conv[Conv.CONV, spatial_dims](decoder_channels[4], out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]``, each side at least 32, to logits ``[B, out_channels, *spatial]``.

        Raises:
            ValueError: a side is below 32.
        """
        check_sides(x)
        stages = self.backbone.forward_stages(x)
        decoded = stages[4]
        for index, step in enumerate(self.decoder):
            decoded = step(decoded, stages[3 - index])
        upsampled = F.interpolate(decoded, size=x.shape[2:], mode=self.mode, align_corners=False)
        return self.head(self.last(upsampled))


def _two_convolutions(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    return TwoConv(spatial_dims, in_channels, out_channels, act="relu", norm="batch", bias=False)

"""Segmentation networks on this package's ResNet: LinkNet, PSPNet, DeepLabV3.

They are what "Full Scale Attention for Automated COVID-19 Diagnosis from CT Images" compares FUSA-ResUNet with (its
Table II). All need sides of at least 32 and return logits of the input's size. ``backbone`` keeps torchvision's
parameter names, so :func:`pneumonai.networks.pretrained.load_torchvision_weights` fills it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.residual_backbone import check_arguments, check_sides
from pneumonai.networks.nets.resnet import ResNet


def dilate_stages(backbone: ResNet, output_stride: int) -> None:
    """Replace the last stages' strides by dilation, in place; names and parameters stay.

    Every convolution after a stride that is taken out is dilated by it (twice that after two), so the map is denser
    and holds the original map's values, up to rounding, at every second (fourth) position. The strides that
    ``forward_features`` promises then hold up to ``output_stride`` only.

    Args:
        backbone: a network as it was built.
        output_stride: input pixels between positions of the last map: 16 dilates stage 6; 8 stages 5 and 6.

    Raises:
        ValueError: ``output_stride`` is neither.
    """
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride}.")
    dilation = 1
    for layer in (backbone.layer3, backbone.layer4)[0 if output_stride == 8 else 1 :]:
        for unit in layer:
            unit.stride = 1
        for conv in (module for module in layer.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)):
            # A strided convolution still sees the grid before its stride; all others of the stage come after it.
            reach = dilation if max(conv.stride) > 1 else 2 * dilation
            conv.stride = (1,) * len(conv.stride)
            conv.dilation = (reach,) * len(conv.kernel_size)
            conv.padding = tuple(reach * (side // 2) for side in conv.kernel_size)
        dilation *= 2


def _conv_norm_relu(spatial_dims: int, in_channels: int, out_channels: int, size: int, dilation: int = 1) -> nn.Module:
    return Convolution(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=size,
        dilation=dilation,
        bias=False,
        act="relu",
        norm="batch",
        adn_ordering="NA",
    )


class FullConvolution(nn.Module):
    """Transposed convolution of size 3, BN, ReLU, to the size of another map: full convolution in LinkNet's words.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 1 or 2.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONVTRANS, spatial_dims](
            in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.norm = Norm[Norm.BATCH, spatial_dims](out_channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *target's]``, where spatial is ceil(target's/2)."""
        return self.act(self.norm(self.conv(x, output_size=target.shape[2:])))


class LinkNetDecoder(nn.Module):
    """1x1 convolution to a quarter of the channels, full convolution, 1x1 convolution, plus the encoder's input.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output and of the encoder's input.
        stride: of the full convolution.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        hidden = max(in_channels // 4, 1)
        self.reduce = _conv_norm_relu(spatial_dims, in_channels, hidden, 1)
        self.full = FullConvolution(spatial_dims, hidden, hidden, stride)
        self.expand = _conv_norm_relu(spatial_dims, hidden, out_channels, 1)

    def forward(self, x: torch.Tensor, link: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` and ``link`` ``[B, out_channels, *finer]`` to the latter's shape."""
        return self.expand(self.full(self.reduce(x), link)) + link


class LinkNet(nn.Module):
    """LinkNet: each decoder's output is summed with the input of its encoder, a stage of ResNet.

    Chaurasia and Culurciello, "LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation",
    https://arxiv.org/abs/1707.03718, Figs. 1 to 3, at the default width::

        backbone    stem, layer1 .. layer4     64, 64, 128, 256, 512   1/4, 1/4, 1/8, 1/16, 1/32
        decoder4    + output of layer3         256                     1/16
        decoder3    + output of layer2         128                     1/8
        decoder2    + output of layer1         64                      1/4
        decoder1    + output of the stem       64                      1/4
        full, conv  full convolution 3, conv 3 32                      1/2
        head        full convolution 2         out_channels            1

    11.5 million parameters, as published. The paper has depth 18. Sizes that are not even: full convolutions go to
    the size of the map that they meet, and the head's last row and column are cut off. In training a batch of one
    needs a side above 32, since batch normalisation needs two values a channel.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, one a class.
        depth: 18, 34 or 50.
        base_channels: width of the stem.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, depth: int = 18, base_channels: int = 64
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, out_channels=out_channels)
        self.backbone = ResNet(spatial_dims, in_channels, 0, depth=depth, base_channels=base_channels)
        second, third, fourth = self.backbone.out_channels
        half = max(base_channels // 2, 1)
        self.decoder4 = LinkNetDecoder(spatial_dims, fourth, third)
        self.decoder3 = LinkNetDecoder(spatial_dims, third, second)
        self.decoder2 = LinkNetDecoder(spatial_dims, second, second // 2)
        self.decoder1 = LinkNetDecoder(spatial_dims, second // 2, base_channels, stride=1)
        self.full = FullConvolution(spatial_dims, base_channels, half, stride=2)
        self.conv = _conv_norm_relu(spatial_dims, half, half, 3)
        self.head = Conv[Conv.CONVTRANS, spatial_dims](half, out_channels, kernel_size=2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]``, each side at least 32, to logits ``[B, out_channels, *spatial]``.

        Raises:
            ValueError: a side is below 32.
        """
        check_sides(x)
        half = self.backbone.act(self.backbone.bn1(self.backbone.conv1(x)))
        stem = self.backbone.maxpool(half)
        first = self.backbone.layer1(stem)
        second = self.backbone.layer2(first)
        third = self.backbone.layer3(second)
        decoded = self.decoder4(self.backbone.layer4(third), third)
        decoded = self.decoder2(self.decoder3(decoded, second), first)
        logits = self.head(self.conv(self.full(self.decoder1(decoded, stem), half)))
        for axis in range(2, x.dim()):
            logits = logits.narrow(axis, 0, x.shape[axis])
        return logits


class PooledContext(nn.Module):
    """Mean over a grid of cells, 1x1 convolution, BN, ReLU, linear upsampling to the input's size.

    In training, a batch of one and a single cell leave one value a channel, which has no spread to normalise by:
    that batch is normalised by the running statistics, which it leaves as they are.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        cells: cells a side.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, cells: int) -> None:
        super().__init__()
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        self.pool = Pool[Pool.ADAPTIVEAVG, spatial_dims](cells)
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size=1, bias=False)
        self.norm = Norm[Norm.BATCH, spatial_dims](out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *spatial]``."""
        pooled = self.conv(self.pool(x))
        if self.training and pooled.numel() == pooled.shape[1]:
            norm = self.norm
            pooled = F.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
            )
        else:
            pooled = self.norm(pooled)
        return F.interpolate(F.relu(pooled), size=x.shape[2:], mode=self.mode, align_corners=False)


class Pyramid(nn.Module):
    """Branches side by side, their channels concatenated in order.

    Args:
        branches: modules that keep the spatial size.
    """

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to ``[B, sum of the branches' channels, *spatial]``."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class PyramidSegmentation(nn.Module):
    """What PSPNet and DeepLabV3 share: dilated ResNet, pyramid, convolution, 1x1 head, linear upsampling.

    Args:
        spatial_dims: 2 or 3.
        backbone: a ResNet, dilated.
        pyramid: from the backbone's last map.
        conv: from the pyramid's output.
        head: to the logits.
    """

    def __init__(self, spatial_dims: int, backbone: ResNet, pyramid: Pyramid, conv: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        self.backbone = backbone
        self.pyramid = pyramid
        self.conv = conv
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]``, each side at least 32, to logits ``[B, out_channels, *spatial]``.

        Raises:
            ValueError: a side is below 32.
        """
        check_sides(x)
        logits = self.head(self.conv(self.pyramid(self.backbone.forward_features(x)[2])))
        return F.interpolate(logits, size=x.shape[2:], mode=self.mode, align_corners=False)


class PSPNet(PyramidSegmentation):
    """PSPNet: means over 1, 2, 3 and 6 cells a side beside the last map of a dilated ResNet.

    Zhao et al., "Pyramid Scene Parsing Network", https://arxiv.org/abs/1612.01105, Fig. 3::

        backbone    ResNet, stages 5 and 6 dilated         C          1/8
        pyramid     the map, and four pooled branches      C + 4 C/4  1/8
        conv, head  convolution 3, BN, ReLU; 1x1           C/4        1/8, upsampled to 1

    C is 512 with depth 18, 2,048 with 50 (the paper's smallest). The auxiliary loss on stage 5, which helps training
    only, is left out, as is the stem of three convolutions of the authors' code, for which torchvision has no
    weights. A batch of one trains (see :class:`PooledContext`).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, one a class.
        depth: 18, 34 or 50.
        base_channels: width of the stem.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, depth: int = 18, base_channels: int = 64
    ) -> None:
        check_arguments(spatial_dims, out_channels=out_channels)
        backbone = ResNet(spatial_dims, in_channels, 0, depth=depth, base_channels=base_channels)
        dilate_stages(backbone, output_stride=8)
        width = backbone.out_channels[2]
        pooled = [PooledContext(spatial_dims, width, width // 4, cells) for cells in (1, 2, 3, 6)]
        super().__init__(
            spatial_dims,
            backbone,
            Pyramid([nn.Identity(), *pooled]),
            _conv_norm_relu(spatial_dims, 2 * width, width // 4, 3),
            Conv[Conv.CONV, spatial_dims](width // 4, out_channels, kernel_size=1),
        )


class DeepLabV3(PyramidSegmentation):
    """DeepLabV3: convolutions of several dilations, and the picture's mean, on the last map of a dilated ResNet.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", https://arxiv.org/abs/1706.05587,
    Fig. 5, at the default width::

        backbone    ResNet, stage 6 dilated                               512      1/16
        pyramid     1x1; 3 dilated by 6, 12, 18; pooled over the picture  5 x 256  1/16
        conv, head  1x1, BN, ReLU; 1x1                                    256      1/16, upsampled to 1

    With output stride 8 stages 5 and 6 are dilated, and the pyramid's dilations are doubled. The paper has depths 50
    and 101. Its multi-grid, different dilations within stage 6, is left out, as in torchvision: it is for three
    units, and depth 18 has two. A batch of one trains (see :class:`PooledContext`).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, one a class.
        depth: 18, 34 or 50.
        base_channels: width of the stem; the pyramid's branches are four times as wide.
        output_stride: 16 or 8.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 18,
        base_channels: int = 64,
        output_stride: int = 16,
    ) -> None:
        check_arguments(spatial_dims, out_channels=out_channels)
        backbone = ResNet(spatial_dims, in_channels, 0, depth=depth, base_channels=base_channels)
        dilate_stages(backbone, output_stride)
        features = backbone.out_channels[2]
        width = 4 * base_channels
        dilations = [rate * 16 // output_stride for rate in (6, 12, 18)]
        super().__init__(
            spatial_dims,
            backbone,
            Pyramid(
                [
                    _conv_norm_relu(spatial_dims, features, width, 1),
                    *(_conv_norm_relu(spatial_dims, features, width, 3, dilation) for dilation in dilations),
                    PooledContext(spatial_dims, features, width, 1),
                ]
            ),
            _conv_norm_relu(spatial_dims, 5 * width, width, 1),
            Conv[Conv.CONV, spatial_dims](width, out_channels, kernel_size=1),
        )

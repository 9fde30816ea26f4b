"""InceptionV3 with torchvision's parameter names; two spatial dimensions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.residual_backbone import check_arguments

#: Width of the first convolution as published.
PUBLISHED_CHANNELS = 32


#: Below this side the auxiliary classifier's convolution has no position.
AUXILIARY_SIDE = 299


class ConvNorm(nn.Module):
    """Convolution without bias, BN, ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        options: further arguments of ``torch.nn.Conv2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, **options: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, bias=False, **options)  # type: ignore[arg-type]
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, H', W']``."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Widths:
    """Channels at a base width: those of the paper times ``base_channels / 32``, rounded down, 1 at least.

    Args:
        base_channels: of the first convolution.
    """

    def __init__(self, base_channels: int) -> None:
        self.base_channels = base_channels

    def __call__(self, published: int) -> int:
        """Channels here where the paper has ``published``."""
        return max(1, published * self.base_channels // PUBLISHED_CHANNELS)


class InceptionA(nn.Module):
    """1x1; 1x1, 5x5; 1x1, 3x3, 3x3; mean, 1x1: side by side, sizes kept (the paper's Fig. 5).

    Args:
        in_channels: channels of the input.
        pool_features: published width of the last branch.
        width: channels from published ones.

    Attributes:
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, pool_features: int, width: Widths) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(in_channels, width(64), kernel_size=1)
        self.branch5x5_1 = ConvNorm(in_channels, width(48), kernel_size=1)
        self.branch5x5_2 = ConvNorm(width(48), width(64), kernel_size=5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(in_channels, width(64), kernel_size=1)
        self.branch3x3dbl_2 = ConvNorm(width(64), width(96), kernel_size=3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(width(96), width(96), kernel_size=3, padding=1)
        self.branch_pool = ConvNorm(in_channels, width(pool_features), kernel_size=1)
        self.out_channels = 2 * width(64) + width(96) + width(pool_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, H, W]``."""
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), fives, threes, pooled], dim=1)


class InceptionB(nn.Module):
    """3x3; 1x1, 3x3, 3x3; maximum: side by side, sizes halved (Fig. 10).

    Args:
        in_channels: channels of the input.
        width: channels from published ones.

    Attributes:
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, width: Widths) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(in_channels, width(384), kernel_size=3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(in_channels, width(64), kernel_size=1)
        self.branch3x3dbl_2 = ConvNorm(width(64), width(96), kernel_size=3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(width(96), width(96), kernel_size=3, stride=2)
        self.out_channels = width(384) + width(96) + in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, (H - 1) // 2, (W - 1) // 2]``."""
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), threes, F.max_pool2d(x, kernel_size=3, stride=2)], dim=1)


class InceptionC(nn.Module):
    """1x1; 1x1, 1x7, 7x1; 1x1 and both twice; mean, 1x1: side by side, sizes kept (Fig. 6).

    Args:
        in_channels: channels of the input.
        channels_7x7: published width of the long convolutions.
        width: channels from published ones.

    Attributes:
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, channels_7x7: int, width: Widths) -> None:
        super().__init__()
        hidden, out = width(channels_7x7), width(192)
        row = {"kernel_size": (1, 7), "padding": (0, 3)}
        column = {"kernel_size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvNorm(in_channels, out, kernel_size=1)
        self.branch7x7_1 = ConvNorm(in_channels, hidden, kernel_size=1)
        self.branch7x7_2 = ConvNorm(hidden, hidden, **row)
        self.branch7x7_3 = ConvNorm(hidden, out, **column)
        self.branch7x7dbl_1 = ConvNorm(in_channels, hidden, kernel_size=1)
        self.branch7x7dbl_2 = ConvNorm(hidden, hidden, **column)
        self.branch7x7dbl_3 = ConvNorm(hidden, hidden, **row)
        self.branch7x7dbl_4 = ConvNorm(hidden, hidden, **column)
        self.branch7x7dbl_5 = ConvNorm(hidden, out, **row)
        self.branch_pool = ConvNorm(in_channels, out, kernel_size=1)
        self.out_channels = 4 * out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, H, W]``."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), once, twice, pooled], dim=1)


class InceptionD(nn.Module):
    """1x1, 3x3; 1x1, 1x7, 7x1, 3x3; maximum: side by side, sizes halved.

    Args:
        in_channels: channels of the input.
        width: channels from published ones.

    Attributes:
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, width: Widths) -> None:
        super().__init__()
        hidden = width(192)
        self.branch3x3_1 = ConvNorm(in_channels, hidden, kernel_size=1)
        self.branch3x3_2 = ConvNorm(hidden, width(320), kernel_size=3, stride=2)
        self.branch7x7x3_1 = ConvNorm(in_channels, hidden, kernel_size=1)
        self.branch7x7x3_2 = ConvNorm(hidden, hidden, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(hidden, hidden, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(hidden, hidden, kernel_size=3, stride=2)
        self.out_channels = width(320) + hidden + in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, (H - 1) // 2, (W - 1) // 2]``."""
        threes = self.branch3x3_2(self.branch3x3_1(x))
        sevens = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([threes, sevens, F.max_pool2d(x, kernel_size=3, stride=2)], dim=1)


class InceptionE(nn.Module):
    """1x1; 1x1, then 1x3 and 3x1 side by side; 1x1, 3x3, then both; mean, 1x1: sizes kept (Fig. 7).

    Args:
        in_channels: channels of the input.
        width: channels from published ones.

    Attributes:
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, width: Widths) -> None:
        super().__init__()
        hidden = width(384)
        row = {"kernel_size": (1, 3), "padding": (0, 1)}
        column = {"kernel_size": (3, 1), "padding": (1, 0)}
        self.branch1x1 = ConvNorm(in_channels, width(320), kernel_size=1)
        self.branch3x3_1 = ConvNorm(in_channels, hidden, kernel_size=1)
        self.branch3x3_2a = ConvNorm(hidden, hidden, **row)
        self.branch3x3_2b = ConvNorm(hidden, hidden, **column)
        self.branch3x3dbl_1 = ConvNorm(in_channels, width(448), kernel_size=1)
        self.branch3x3dbl_2 = ConvNorm(width(448), hidden, kernel_size=3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(hidden, hidden, **row)
        self.branch3x3dbl_3b = ConvNorm(hidden, hidden, **column)
        self.branch_pool = ConvNorm(in_channels, width(192), kernel_size=1)
        self.out_channels = width(320) + 4 * hidden + width(192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]`` to ``[B, out_channels, H, W]``."""
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        parts.append(self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)))
        return torch.cat(parts, dim=1)


class InceptionAux(nn.Module):
    """The auxiliary classifier: mean of 5x5, 1x1, 5x5, mean, linear.

    Args:
        in_channels: channels of the input.
        num_classes: how many logits.
        width: channels from published ones.
    """

    def __init__(self, in_channels: int, num_classes: int, width: Widths) -> None:
        super().__init__()
        self.conv0 = ConvNorm(in_channels, width(128), kernel_size=1)
        self.conv1 = ConvNorm(width(128), width(768), kernel_size=5)
        self.fc = nn.Linear(width(768), num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]``, sides of at least 17, to logits ``[B, num_classes]``."""
        x = self.conv1(self.conv0(F.avg_pool2d(x, kernel_size=5, stride=3)))
        return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class InceptionV3(nn.Module):
    """InceptionV3, as torchvision builds it (MONAI has none).

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", https://arxiv.org/abs/1512.00567, one
    of the networks that MAG-SD is compared with; sizes at an input of 299::

        Conv2d_1a .. 4a   five convolutions, two pools   192    35
        Mixed_5b .. 5d    InceptionA                     288    35
        Mixed_6a          InceptionB                     768    17
        Mixed_6b .. 6e    InceptionC                     768    17   AuxLogits
        Mixed_7a          InceptionD                     1280   8
        Mixed_7b, 7c      InceptionE                     2048   8
        avgpool, dropout, fc

    With ``base_channels`` 32, three input channels and 1,000 classes the state dict has torchvision's names and shapes;
    it has 27,161,264 parameters with its auxiliary classifier and 23,834,568 without. torchvision's weights were made
    for inputs of -1..1. The auxiliary classifier needs sides of at least 299 and is off below, as at MAG-SD's 224.

    Args:
        spatial_dims: 2; the long convolutions are factors of a square one.
        in_channels: channels of the input.
        num_classes: how many logits.
        base_channels: width of the first convolution.
        auxiliary: build the auxiliary classifier.
        dropout: share of features dropped before the last layer.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        base_channels: int = PUBLISHED_CHANNELS,
        auxiliary: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(
                f"spatial_dims must be 2, as InceptionV3's convolutions of 1 x 7 and 7 x 1 have no counterpart in "
                f"volumes, got {spatial_dims}."
            )
        check_arguments(spatial_dims, in_channels=in_channels, num_classes=num_classes, base_channels=base_channels)
        width = Widths(base_channels)
        self.Conv2d_1a_3x3 = ConvNorm(in_channels, width(32), kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(width(32), width(32), kernel_size=3)
        self.Conv2d_2b_3x3 = ConvNorm(width(32), width(64), kernel_size=3, padding=1)
        self.maxpool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = ConvNorm(width(64), width(80), kernel_size=1)
        self.Conv2d_4a_3x3 = ConvNorm(width(80), width(192), kernel_size=3)
        self.maxpool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b = InceptionA(width(192), 32, width)
        self.Mixed_5c = InceptionA(self.Mixed_5b.out_channels, 64, width)
        self.Mixed_5d = InceptionA(self.Mixed_5c.out_channels, 64, width)
        self.Mixed_6a = InceptionB(self.Mixed_5d.out_channels, width)
        self.Mixed_6b = InceptionC(self.Mixed_6a.out_channels, 128, width)
        self.Mixed_6c = InceptionC(self.Mixed_6b.out_channels, 160, width)
        self.Mixed_6d = InceptionC(self.Mixed_6c.out_channels, 160, width)
        self.Mixed_6e = InceptionC(self.Mixed_6d.out_channels, 192, width)
        middle = self.Mixed_6e.out_channels
        self.AuxLogits = InceptionAux(middle, num_classes, width) if auxiliary else None
        self.Mixed_7a = InceptionD(middle, width)
        self.Mixed_7b = InceptionE(self.Mixed_7a.out_channels, width)
        self.Mixed_7c = InceptionE(self.Mixed_7b.out_channels, width)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.Mixed_7c.out_channels, num_classes)
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Start from truncated normal distributions, of torchvision's deviations."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                deviation = {"AuxLogits.conv1.conv": 0.01, "AuxLogits.fc": 0.001}.get(name, 0.1)
                nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]``, sides of at least 75, to logits ``[B, num_classes]``.

        Raises:
            ValueError: a side is below 75.
        """
        return self._classify(self._middle(x))

    def forward_all(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :meth:`forward`, and the auxiliary logits: None where a side is below 299, or the classifier left out."""
        middle = self._middle(x)
        auxiliary: torch.Tensor | None = None
        if self.AuxLogits is not None and min(x.shape[2:]) >= AUXILIARY_SIDE:
            auxiliary = self.AuxLogits(middle)
        return self._classify(middle), auxiliary

    def _middle(self, x: torch.Tensor) -> torch.Tensor:
        if min(x.shape[2:]) < 75:
            raise ValueError(f"each side must be at least 75, got {x.shape[2:]}.")
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        return self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))

    def _classify(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))))
        return self.fc(self.dropout(x).flatten(1))

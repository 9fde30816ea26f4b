"""MAG-SD's attention: maps from several stages of a backbone, and pooling by each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.residual_backbone import check_arguments


class AttentionGenerator(nn.Module):
    """Attention maps from the maps of several stages, on the grid of the last.

    "Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images",
    https://arxiv.org/abs/2012.02278, Section 3.1: each stage's map goes through a 1x1 convolution, BN and ReLU, is
    averaged to the last stage's size, and all are summed.

    Settles what the paper leaves open: the BN and the ReLU, so that no map is negative, and the average.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the maps, one entry a stage, the last stage last.
        num_maps: how many attention maps.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(self, spatial_dims: int, in_channels: Sequence[int], num_maps: int = 32) -> None:
        super().__init__()
        check_arguments(spatial_dims, num_maps=num_maps)
        if not in_channels or min(in_channels) < 1:
            raise ValueError(f"in_channels must have an entry of at least 1 for each stage, got {tuple(in_channels)}.")
        self.branches = nn.ModuleList(
            nn.Sequential(
                Conv[Conv.CONV, spatial_dims](channels, num_maps, kernel_size=1, bias=False),
                Norm[Norm.BATCH, spatial_dims](num_maps),
                nn.ReLU(inplace=True),
            )
            for channels in in_channels
        )
        self.spatial_dims = spatial_dims

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Map one ``[B, C_i, *spatial_i]`` a stage to ``[B, num_maps, *spatial_last]``, at least 0."""
        size = features[-1].shape[2:]
        maps = torch.zeros([], dtype=features[-1].dtype, device=features[-1].device)
        for index, branch in enumerate(self.branches):
            part = branch(features[index])
            if self.spatial_dims == 2:
                part = F.adaptive_avg_pool2d(part, (size[0], size[1]))
            else:
                part = F.adaptive_avg_pool3d(part, (size[0], size[1], size[2]))
            maps = maps + part
        return maps


class AttentionPooling(nn.Module):
    """Mean of a map weighted by each of several attention maps, then normalised.

    Section 3.2.3 of the same paper, eq. 1 and Fig. 4: ``M[j] = mean over the positions of A[j] * f``, for all maps
    ``[B, maps * C]``, here as one batched matrix product without any weighted copy of f. As in the method that the
    paper builds on (Hu et al., "See Better Before Looking Closer: Weakly Supervised Data Augmentation Network",
    https://arxiv.org/abs/1901.09891), a signed square root, the L2 norm over the row, and a factor follow. Maps of
    zeros give rows of zeros, with finite gradients.

    Args:
        feature_scale: length of each row, without which the logits would be tiny; None leaves square root, norm and
            factor out.
    """

    def __init__(self, feature_scale: float | None = 100.0) -> None:
        super().__init__()
        self.feature_scale = feature_scale

    def forward(self, features: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Pool ``[B, C, *spatial]`` by ``[B, maps, *spatial]`` to ``[B, maps * C]``, map after map, in fp32."""
        weights = maps.flatten(2) / features.flatten(2).shape[2]
        pooled = torch.bmm(weights, features.flatten(2).transpose(1, 2)).flatten(1).float()
        if self.feature_scale is None:
            return pooled
        # Without the small number the root's gradient at 0 would be infinite.
        rooted = torch.sign(pooled) * torch.sqrt(pooled.abs() + 1e-12)
        return F.normalize(rooted, dim=1) * self.feature_scale


class GlobalPooling(nn.Module):
    """Mean or maximum over the positions, with the signature of :class:`AttentionPooling`; the maps are not used.

    Args:
        maximum: maximum in place of the mean.
    """

    def __init__(self, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum

    def forward(self, features: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Pool ``[B, C, *spatial]`` to ``[B, C]``."""
        flat = features.flatten(2)
        return flat.amax(dim=2) if self.maximum else flat.mean(dim=2)

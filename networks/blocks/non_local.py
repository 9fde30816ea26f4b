"""The non-local module: every position gathers from all others, weighted by their dot product."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import nn


def weighted_sum(theta: torch.Tensor, phi: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Sum of g over all positions j, weighted by ``theta_i . phi_j / N``: the dot-product form of the non-local mean.

    The weight is bilinear, so the sum can be taken in two orders: ``(g phi^T) theta`` costs ``2 N C^2``
    multiply-adds, the pairwise ``g (phi^T theta)`` costs ``2 N^2 C``. The cheaper one by shape is taken.

    Args:
        theta: ``[B, C, N]``, the position that gathers.
        phi: ``[B, C, N]``, the positions that are compared.
        g: ``[B, C, N]``, what is gathered.

    Returns:
        ``[B, C, N]``
    """
    channels, positions = theta.shape[1], theta.shape[2]
    g = g / positions
    if channels < positions:
        return torch.bmm(torch.bmm(g, phi.transpose(1, 2)), theta)
    return torch.bmm(g, torch.bmm(phi.transpose(1, 2), theta))


class NonLocal(nn.Module):
    """Non-local module (NL-RAN, Fig. 3 and eq. 5), as Wang et al. define its dot-product form.

    theta, phi and g are 1x1x1 convolutions with bias to half the channels; their weighted sum goes through a 1x1x1
    convolution without bias and a batch normalisation, and is added to the input. That normalisation's weight and bias
    start at 0, so the module begins as identity. Differs from the paper: eq. 5 as printed has no factor 1/N and grows
    with the input; the factor is Wang et al.'s.

    Wang et al., "Non-local Neural Networks", https://arxiv.org/abs/1711.07971.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of input and output, at least 2.

    Raises:
        ValueError: when ``channels`` is below 2.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"channels must be at least 2, got {channels}.")
        conv = Conv[Conv.CONV, spatial_dims]
        inner = channels // 2
        self.theta = conv(channels, inner, kernel_size=1)
        self.phi = conv(channels, inner, kernel_size=1)
        self.g = conv(channels, inner, kernel_size=1)
        self.project = conv(inner, channels, kernel_size=1, bias=False)
        self.norm = Norm[Norm.BATCH, spatial_dims](channels)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape."""
        theta = self.theta(x)
        gathered = weighted_sum(theta.flatten(2), self.phi(x).flatten(2), self.g(x).flatten(2))
        return x + self.norm(self.project(gathered.reshape(theta.shape)))

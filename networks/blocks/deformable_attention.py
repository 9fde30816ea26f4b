"""Deformable attention: every position gathers from all others that resemble it, compared by moving convolutions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.deformable_convolution import DeformableConvolution
from pneumonai.networks.blocks.residual_backbone import check_arguments


class DeformableAttention(nn.Module):
    """Deformable attention module: ``x + A`` with A gathered from all positions.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section III.A, Fig. 5, eqs. 1 to 3::

        u = deformable 3x3 convolution, taps move horizontally    C -> n = C / reduction
        v = deformable 3x3 convolution, taps move vertically      C -> n
        w = 1x1 convolution                                       C -> C
        NCC(j, i) = (1 / n) sum over c of u'_jc v'_ic             -1..1
        tau(j, .) = softmax over i of NCC(j, .) / temperature
        A_j       = sum over i of tau(j, i) w_i

    u' and v' are u and v with each position's vector centred and divided by its standard deviation, so that NCC is a
    normalised cross correlation.

    Settles what the paper leaves open: the centring, the softmax (eq. 3 asks for rows that sum to 1) and its
    temperature (at 1 no weight could exceed 0.0072 on 32 x 32 positions), the sum ``x + A``, biases in all
    convolutions. Offsets start at zero.

    Args:
        spatial_dims: 2.
        in_channels: channels C of input and output.
        reduction: C over the channels n of u and v, rounded down; n must be at least 2.
        temperature: divides the correlations; above 0.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(self, spatial_dims: int, in_channels: int, *, reduction: int = 4, temperature: float = 0.1) -> None:
        super().__init__()
        check_arguments(spatial_dims, in_channels=in_channels, reduction=reduction)
        if spatial_dims != 2:
            raise ValueError(
                "spatial_dims must be 2, since the offsets are horizontal and vertical and every position is compared "
                f"with every other, got {spatial_dims}."
            )
        reduced = in_channels // reduction
        if reduced < 2:
            raise ValueError(
                "in_channels must be at least 2 * reduction, since one channel correlates with nothing, "
                f"got {in_channels} and reduction {reduction}."
            )
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        self.temperature = float(temperature)
        self.u = DeformableConvolution(in_channels, reduced, vertical=False)
        self.v = DeformableConvolution(in_channels, reduced, vertical=True)
        self.w = nn.Conv2d(in_channels, in_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        return x + self.attend(x)[0]

    def attend(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the module adds to ``[B, C, H, W]``, and by how much its taps move.

        Returns:
            A, ``[B, C, H, W]``; offsets ``[B, 2, 9, H, W]`` in pixels of this map, those of u along W before those of
            v along H, tap after tap row by row.
        """
        u, horizontal = self.u.forward_offsets(x)
        v, vertical = self.v.forward_offsets(x)
        reduced = [u.shape[1]]
        # Layer normalisation without weights centres and divides by the standard deviation, with eps in its root.
        queries = F.layer_norm(u.flatten(2).transpose(1, 2), reduced)
        keys = F.layer_norm(v.flatten(2).transpose(1, 2), reduced)
        values = self.w(x).flatten(2).transpose(1, 2)
        queries, keys = queries.to(values.dtype) / (u.shape[1] * self.temperature), keys.to(values.dtype)
        if values.dtype == torch.bfloat16 and not values.is_cuda:
            # A CPU multiplies bfloat16 matrices fast, its fused kernel does not.
            weights = torch.softmax(torch.bmm(queries, keys.transpose(1, 2)), dim=2)
            gathered = torch.bmm(weights.to(values.dtype), values)
        else:
            # Kernels that never write out N x N weights want one head and as many channels in all; zeros add nothing.
            missing = [0, values.shape[2] - u.shape[1]]
            gathered = F.scaled_dot_product_attention(
                F.pad(queries, missing)[:, None], F.pad(keys, missing)[:, None], values[:, None], scale=1.0
            )[:, 0]
        return gathered.transpose(1, 2).reshape(x.shape), torch.stack([horizontal, vertical], dim=1)

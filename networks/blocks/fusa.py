"""FUSA, full scale attention: one gate a voxel and channel from channel-wise and position-wise statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pneumonai.networks.blocks.residual_backbone import check_arguments

#: Elements that :class:`_Gated` works on at a time: on a CPU what stays in a core's cache, elsewhere a bound of memory.
CPU_BLOCK = 2**18
DEVICE_BLOCK = 2**25


def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and maximum of ``[B, C, N]`` over the positions, ``[B, C]``, and over the channels, ``[B, N]``."""
    return x.mean(dim=2), x.amax(dim=2), x.mean(dim=1), x.amax(dim=1)


class FUSA(nn.Module):
    """Full scale attention: ``A * x`` with a gate A in 0..1 for every channel and position.

    "Full Scale Attention for Automated COVID-19 Diagnosis from CT Images", Section II.A and Fig. 1. Literally::

        c = channel([mean over the positions, max over the positions])     linear, 2 C -> C
        s = spatial([mean over the channels, max over the channels])       1x1 convolution, 2 -> 1
        A = sigmoid(fuse([c spread over the positions, s spread over the channels]))   1x1 convolution, 2 C -> C

    Neither spread map is built here. With ``fuse``'s weight ``W = [Wc | Ws]`` and bias b, the convolution of the
    spread pair is ``Wc c + b + rowsum(Ws) * s``: ``C^2 + C N`` multiply-adds for N positions where the literal form
    takes ``2 C^2 N``, with the same ``4 C^2 + 2 C + 3`` parameters under the same names. The backward pass computes A
    again instead of keeping it, so that nothing of x's size is kept but x. It is differentiable once. Where several
    positions share a maximum, its gradient is divided among them, as by ``torch.amax``.

    Settles what the paper leaves open: A weights the map, without "1 +" and without a function inside the branches.

    Args:
        spatial_dims: 2 or 3.
        channels: channels C of input and output.

    Raises:
        ValueError: when ``spatial_dims`` is not 2 or 3, or ``channels`` below 1.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        check_arguments(spatial_dims, channels=channels)
        conv = Conv[Conv.CONV, spatial_dims]
        self.channel = nn.Linear(2 * channels, channels)
        self.spatial = conv(2, 1, kernel_size=1)
        self.fuse = conv(2 * channels, channels, kernel_size=1)

    def reset_parameters(self) -> None:
        """Draw all parameters from PyTorch's default distributions again."""
        for layer in (self.channel, self.spatial, self.fuse):
            layer.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, *spatial]`` to the same shape."""
        if not torch.jit.is_scripting() and not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
            return self._block_by_block(x)
        return x * self.attention(x)

    @torch.jit.unused
    def _block_by_block(self, x: torch.Tensor) -> torch.Tensor:
        parameters = []
        for layer in (self.channel, self.spatial, self.fuse):
            parameters += [layer.weight, layer.bias]
        return _Gated.apply(x.flatten(2), *parameters).reshape(x.shape)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """The gate A of ``[B, C, *spatial]``: same shape, 0..1."""
        mean_c, max_c, mean_n, max_n = _statistics(x.flatten(2))
        base, slope, scores = _gate_terms(
            mean_c,
            max_c,
            mean_n,
            max_n,
            self.channel.weight,
            self.channel.bias,
            self.spatial.weight,
            self.spatial.bias,
            self.fuse.weight,
            self.fuse.bias,
        )
        return torch.sigmoid(torch.addcmul(base[:, :, None], slope[:, None], scores[:, None])).reshape(x.shape)


def _gate_terms(
    mean_c: torch.Tensor,
    max_c: torch.Tensor,
    mean_n: torch.Tensor,
    max_n: torch.Tensor,
    channel_weight: torch.Tensor,
    channel_bias: torch.Tensor,
    spatial_weight: torch.Tensor,
    spatial_bias: torch.Tensor | None,
    fuse_weight: torch.Tensor,
    fuse_bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three terms of the gate's logits, ``base + slope * scores``, from the four statistics of the map.

    The biases are never None; TorchScript knows those of convolutions as optional.

    Returns:
        base ``[B, C]``, slope ``[C]``, scores ``[B, N]``
    """
    channels = fuse_weight.shape[0]
    pooled = F.linear(torch.cat([mean_c, max_c], dim=1), channel_weight, channel_bias)
    fuse = fuse_weight.flatten(1)
    base = F.linear(pooled, fuse[:, :channels], fuse_bias)
    slope = fuse[:, channels:].sum(dim=1)
    scores = F.linear(torch.stack([mean_n, max_n], dim=2), spatial_weight.flatten(1), spatial_bias)
    return base, slope, scores[:, :, 0]


def _blocks(x: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and channels of ``[B, C, N]`` in blocks: some samples whole, or some channels of one sample."""
    samples, channels, positions = x.shape
    limit = CPU_BLOCK if x.device.type == "cpu" else DEVICE_BLOCK
    rows = channels
    # A few channels of a channels-last map lie scattered in memory, so its samples stay whole.
    if channels * positions > limit and x.stride(2) == 1:
        rows = max(1, limit // positions)
    step = max(1, limit // (channels * positions))
    for sample in range(0, samples, step):
        for row in range(0, channels, rows):
            yield slice(sample, sample + step), slice(row, row + rows)


def _gate(base: torch.Tensor, slope: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The gate of one block, ``[b, c, N]``."""
    return (slope[:, None] * scores[:, None]).add_(base[:, :, None]).sigmoid_()


class _Gated(torch.autograd.Function):
    """``x * A`` block by block, with one buffer of a block's size forward and three backward beside input and output.

    Half-precision maps are computed in fp32, block by block; all small tensors are fp32 (fp64 for fp64 maps).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        """Gate ``[B, C, N]`` with the parameters of ``channel``, ``spatial`` and ``fuse``, weight before bias."""
        with torch.autocast(x.device.type, enabled=False):
            statistics = [part.to(parameters[0].dtype) for part in _statistics(x)]
            base, slope, scores = _gate_terms(*statistics, *parameters)
            gated = torch.empty_like(x)
            for samples, rows in _blocks(x):
                gate = _gate(base[samples, rows], slope[rows], scores[samples])
                torch.mul(x[samples, rows], gate, out=gated[samples, rows])
        ctx.save_for_backward(x, base, slope, scores, *statistics, *parameters)
        return gated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients of x and of the six parameters."""
        x, base, slope, scores, *rest = ctx.saved_tensors
        statistics, parameters = rest[:4], rest[4:]
        result = torch.empty_like(x)
        by_base, by_slope, by_scores = (torch.zeros_like(term) for term in (base, slope, scores))
        shared = torch.zeros_like(scores)
        for samples, rows in _blocks(x):
            part = x[samples, rows].to(base.dtype)
            gate = _gate(base[samples, rows], slope[rows], scores[samples])
            through = gradient[samples, rows] * gate
            result[samples, rows] = through
            by_logit = through.mul_(part)
            by_logit.addcmul_(by_logit, gate, value=-1)
            by_base[samples, rows] = by_logit.sum(dim=2)
            by_scores[samples] += torch.matmul(slope[rows], by_logit)
            by_slope[rows] += torch.matmul(by_logit, scores[samples, :, None]).sum(dim=(0, 2))
            shared[samples] += torch.eq(part, statistics[3][samples, None], out=gate).sum(dim=1)
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            inputs = [part.detach().requires_grad_() for part in (*statistics, *parameters)]
            terms = _gate_terms(*inputs)
            by_inputs = torch.autograd.grad(terms, inputs, (by_base, by_slope, by_scores))
        _add_statistics(result, x, statistics, by_inputs[:4], shared)
        return result, *by_inputs[4:]


def _add_statistics(
    result: torch.Tensor,
    x: torch.Tensor,
    statistics: list[torch.Tensor],
    gradients: tuple[torch.Tensor, ...],
    shared: torch.Tensor,
) -> None:
    """Add to ``result`` the gradient that reaches x through its four statistics.

    ``shared`` is how many channels hold a position's maximum, ``[B, N]``.
    """
    _, channels, positions = x.shape
    by_mean_c, by_max_c, by_mean_n, by_max_n = gradients
    by_mean_c, by_mean_n, by_max_n = by_mean_c / positions, by_mean_n / channels, by_max_n / shared
    for samples, rows in _blocks(x):
        part = x[samples, rows].to(shared.dtype)
        total = result[samples, rows].to(shared.dtype)
        total += by_mean_c[samples, rows, None]
        total += by_mean_n[samples, None]
        largest = torch.empty_like(part)
        torch.eq(part, statistics[3][samples, None], out=largest)
        total.addcmul_(largest, by_max_n[samples, None])
        torch.eq(part, statistics[1][samples, rows, None], out=largest)
        total.addcmul_(largest, (by_max_c[samples, rows] / largest.sum(dim=2))[..., None])
        if total.dtype != result.dtype:
            result[samples, rows] = total

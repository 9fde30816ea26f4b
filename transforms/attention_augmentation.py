"""Attention-guided augmentation: whole batches changed where the network that trains on them looks.

"Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images",
https://arxiv.org/abs/2012.02278, Section 3.3 and Fig. 5. Each of the three is a function of images
``[B, C, *spatial]``, the network's attention maps ``[B, maps, *coarse]`` (at least 0, detached here) and a
``torch.Generator`` on their device (None: PyTorch's own). All work on the tensors' device and never wait for it: no
shape and no branch depends on a value. Inputs stay as they are.

Each draws one of an image's maps for itself, with probability proportional to the map's mean (this project's choice;
equally where all means are zero), resizes it to the image (linear) and scales it to 0..1, a constant map to 0: A*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from pneumonai.transforms.resize import LINEAR

__all__ = [
    "GUIDED_AUGMENTATIONS",
    "attention_dimming",
    "attention_mix_up",
    "attention_patching",
    "draw_attention",
]


def draw_attention(maps: torch.Tensor, size: Sequence[int], generator: torch.Generator | None = None) -> torch.Tensor:
    """One attention map of each image, A*, at the image's size.

    Args:
        maps: ``[B, maps, *coarse]``, at least 0.
        size: of the images, one number a spatial axis.
        generator: on the maps' device; None is PyTorch's own.

    Returns:
        ``[B, 1, *size]`` in 0..1, float32; zeros where the drawn map is constant.
    """
    maps = maps.detach().float()
    means = maps.flatten(2).mean(dim=2).clamp_min(0)
    weights = torch.where(means.sum(dim=1, keepdim=True) > 0, means, 1.0)
    # As torch.multinomial does it, which would wait for the device: the largest of w / Exp(1) is j in w_j of all cases.
    drawn = (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(dim=1)
    chosen = maps[torch.arange(len(maps), device=maps.device), drawn].unsqueeze(1)
    # Scaled before as well, so that the resizing's rounding does not make a constant map one with a spread.
    resized = F.interpolate(_unit_range(chosen), size=tuple(size), mode=LINEAR[len(size)], align_corners=False)
    return _unit_range(resized)


def attention_mix_up(
    images: torch.Tensor,
    maps: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    threshold: float = 0.5,
    gamma: float = 0.5,
) -> torch.Tensor:
    """Mix each image with its attended box, enlarged to the whole image (eqs. 2 and 3).

    The box is the smallest around A* > threshold, B the same as cutting it out and resizing it linearly. An image
    without such a box stays as it is.

    Args:
        images: ``[B, C, *spatial]``, float32 or float64.
        maps: ``[B, maps, *coarse]``, at least 0.
        generator: on the images' device; None is PyTorch's own.
        threshold: theta_m, in 0..1.
        gamma: share of the image itself, in 0..1.

    Returns:
        ``gamma * images + (1 - gamma) * B``, of the images' shape and type.

    Raises:
        ValueError: arguments that are none of these.
    """
    _check(images, maps, threshold=threshold, gamma=gamma)
    size = images.shape[2:]
    first, after, found = _boxes(draw_attention(maps, size, generator) > threshold)
    axes = []
    for axis, side in enumerate(size):
        low, high = first[axis].to(images.dtype), after[axis].to(images.dtype)
        share = (torch.arange(side, dtype=images.dtype, device=images.device) + 0.5) / side
        # Where the pixels' centres come from, edge of the image to edge; never from beyond the box's own pixels.
        place = (low + share * (high - low)).clamp(low + 0.5, high - 0.5)
        axes.append(_along(2 * place / side - 1, axis, size))
    grid = torch.stack(axes[::-1], dim=-1)
    enlarged = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(_as_images(found, images), gamma * images + (1 - gamma) * enlarged, images)


def attention_patching(
    images: torch.Tensor,
    maps: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    threshold: float = 0.5,
) -> torch.Tensor:
    """Paste each image's attended box, at its own size, at a random place of the image (Fig. 5b).

    The box is that of :func:`attention_mix_up`; all places at which it lies inside the image are equally likely. An
    image without a box stays as it is.

    Args:
        images: ``[B, C, *spatial]``.
        maps: ``[B, maps, *coarse]``, at least 0.
        generator: on the images' device; None is PyTorch's own.
        threshold: theta_m, in 0..1.

    Returns:
        Images of the same shape and type.

    Raises:
        ValueError: arguments that are none of these.
    """
    _check(images, maps, threshold=threshold)
    size = images.shape[2:]
    first, after, inside = _boxes(draw_attention(maps, size, generator) > threshold)
    draws = torch.rand((len(size), len(images), 1), generator=generator, device=images.device)
    inside = inside.reshape(-1, *[1] * len(size))
    source = torch.zeros([], dtype=torch.long, device=images.device)
    for axis, side in enumerate(size):
        low, extent = first[axis], after[axis] - first[axis]
        places = side - extent + 1
        start = torch.minimum((draws[axis] * places).long(), places - 1)
        offset = torch.arange(side, device=images.device) - start
        inside = inside & _along((offset >= 0) & (offset < extent), axis, size)
        source = source * side + _along((low + offset).clamp(0, side - 1), axis, size)
    index = source.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, index).reshape(images.shape)
    return torch.where(inside.unsqueeze(1), moved, images)


def attention_dimming(
    images: torch.Tensor,
    maps: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    threshold: float = 0.5,
    factor: float = 0.1,
) -> torch.Tensor:
    """Multiply each image by ``factor`` where A* > threshold (eq. 4).

    Args:
        images: ``[B, C, *spatial]``.
        maps: ``[B, maps, *coarse]``, at least 0.
        generator: on the images' device; None is PyTorch's own.
        threshold: theta_d, in 0..1.
        factor: in 0..1; the paper's is 0.1.

    Returns:
        Images of the same shape and type.

    Raises:
        ValueError: arguments that are none of these.
    """
    _check(images, maps, threshold=threshold, factor=factor)
    attended = draw_attention(maps, images.shape[2:], generator) > threshold
    return torch.where(attended, images * factor, images)


#: The augmentations by name, in the paper's order: I1, I2, I3.
GUIDED_AUGMENTATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "mix_up": attention_mix_up,
    "patching": attention_patching,
    "dimming": attention_dimming,
}


def _check(images: torch.Tensor, maps: torch.Tensor, **shares: float) -> None:
    if images.dim() - 2 not in LINEAR or maps.dim() != images.dim() or len(maps) != len(images) or not maps.shape[1]:
        raise ValueError(
            "images [B, C, *spatial] and one map or more each [B, maps, *coarse] must have the same batch and the same "
            f"one to three spatial axes, got {list(images.shape)} and {list(maps.shape)}."
        )
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in 0..1, got {value}.")


def _unit_range(maps: torch.Tensor) -> torch.Tensor:
    """Each image's map scaled to 0..1; zeros where it is constant."""
    axes = tuple(range(1, maps.dim()))
    low = maps.amin(dim=axes, keepdim=True)
    spread = maps.amax(dim=axes, keepdim=True) - low
    return torch.where(spread > 0, (maps - low) / spread, 0.0)


def _boxes(region: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """The smallest box around each image's region ``[B, 1, *spatial]``; the whole image where there is none.

    Returns:
        first and after-last position, a list of ``[B, 1]`` with one entry a spatial axis, and whether there is a region
        ``[B]``.
    """
    region = region.squeeze(1)
    found = region.flatten(1).any(dim=1, keepdim=True)
    first, after = [], []
    for axis, side in enumerate(region.shape[1:], start=1):
        others = [other for other in range(1, region.dim()) if other != axis]
        line = region.any(dim=others) if others else region
        positions = torch.arange(side, device=region.device)
        first.append(torch.where(found, torch.where(line, positions, side).amin(dim=1, keepdim=True), 0))
        after.append(torch.where(found, torch.where(line, positions + 1, 0).amax(dim=1, keepdim=True), side))
    return first, after, found.squeeze(1)


def _along(line: torch.Tensor, axis: int, size: torch.Size) -> torch.Tensor:
    """``[B, side]`` of one spatial axis, as ``[B, *spatial]``."""
    shape = [len(line), *[1] * len(size)]
    shape[axis + 1] = size[axis]
    return line.reshape(shape).expand(-1, *size)


def _as_images(flags: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return flags.reshape(-1, *[1] * (images.dim() - 1))

"""Contrast limited adaptive histogram equalization of every slice of a batch at once, on the tensor's device."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

__all__ = ["CLAHE", "CLAHED", "CLAHEDict", "CLAHEd"]

# Slices are equalized in blocks: indices and weights take about 60 bytes a pixel, and small ones stay in the cache.
PIXELS_AT_ONCE = 2**19


class CLAHE(Transform):
    """Contrast limited adaptive histogram equalization (CLAHE), a slice at a time, as OpenCV's ``createCLAHE`` does it.

    Each slice (the last two dimensions) is divided into tiles. A tile's histogram is cut at the clip limit, what was
    cut off is spread evenly over all bins, and the cumulated histogram is the tile's grey level curve. A pixel's
    result is interpolated bilinearly between the curves of the four nearest tile centres. Slices never influence
    each other.

    Zuiderveld: Contrast Limited Adaptive Histogram Equalization. Graphics Gems IV, 1994, pp. 474-485. Details
    (integer clip limit, how the remainder is spread, tile padding) follow OpenCV's ``clahe.cpp``, so that the same
    ``clip_limit`` and ``tile_grid`` give the same picture within one grey level of 255.

    Args:
        clip_limit: the most that a bin may hold, as a multiple of the mean bin: pixels are cut off above
            ``max(1, int(clip_limit * tile_area / num_bins))``. With 0 nothing is cut off (adaptive equalization).
        tile_grid: number of tiles along the width and along the height, in OpenCV's order (columns, rows). Where a
            side is not divisible, the slice is continued at its right and lower edge by reflection without repeating
            the edge, as far as OpenCV does.
        num_bins: number of grey levels, 2 to 65536. OpenCV has 256 for 8-bit pictures.

    Raises:
        ValueError: for a negative or non-finite clip limit, a grid or a number of bins out of range.

    Example: a slice of one tile, 8 pixels, 4 bins. Levels ``[0, 0, 0, 0, 0, 0, 1, 3]`` have the histogram
    ``[6, 1, 0, 1]``; ``clip_limit=1`` cuts at ``1 * 8 / 4 = 2`` to ``[2, 1, 0, 1]``; the 4 cut off are spread to
    ``[3, 2, 1, 2]``; cumulated ``[3, 5, 6, 8]``, times ``3 / 8`` and rounded: the curve ``[1, 2, 2, 3]``::

        >>> equalize = CLAHE(clip_limit=1, tile_grid=(1, 1), num_bins=4)
        >>> levels = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 3]]]) / 3
        >>> (equalize(levels) * 3).tolist()
        [[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0]]]
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, clip_limit: float = 2.0, tile_grid: tuple[int, int] = (8, 8), num_bins: int = 256) -> None:
        if not 0 <= clip_limit < float("inf"):
            raise ValueError(f"CLAHE needs a finite clip_limit of 0 or more, got {clip_limit}.")
        if len(tile_grid) != 2 or any(int(tiles) != tiles or tiles < 1 for tiles in tile_grid):
            raise ValueError(f"CLAHE needs a tile_grid of two whole numbers of 1 or more, got {tile_grid}.")
        if int(num_bins) != num_bins or not 2 <= num_bins <= 65536:
            raise ValueError(f"CLAHE needs a whole num_bins of 2 to 65536, got {num_bins}.")
        if tile_grid[0] * tile_grid[1] * num_bins > 2**26:
            raise ValueError(f"CLAHE needs at most 2**26 bins a slice, got tile_grid={tile_grid}, num_bins={num_bins}.")
        self.clip_limit = float(clip_limit)
        self.tile_grid = (int(tile_grid[0]), int(tile_grid[1]))
        self.num_bins = int(num_bins)

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Equalize every slice.

        Args:
            img: grey values, ``[C, H, W]`` or ``[C, D, H, W]`` (any number of leading dimensions). Floating point:
                0..1, values beyond are clipped; uint8: 0..255.

        Returns:
            The same shape, type and range. Floating point results are not rounded to grey levels.

        Raises:
            ValueError: for NaN, for other data types (window Hounsfield units to 0..1 first), for less than two
                dimensions or empty ones.
        """
        img = convert_to_tensor(img, track_meta=get_track_meta())
        grey = convert_to_tensor(img, track_meta=False).detach()
        if grey.ndim < 2 or grey.numel() == 0:
            raise ValueError(f"CLAHE needs slices [..., H, W] with pixels in them, got the shape {tuple(grey.shape)}.")
        if not (grey.is_floating_point() or grey.dtype == torch.uint8):
            raise ValueError(
                f"CLAHE needs floating point values in 0..1 or uint8, got {grey.dtype}; "
                "scale the image first, Hounsfield units with ScaleIntensityRange."
            )
        slices = grey.reshape(-1, *grey.shape[-2:])
        columns, rows = self.tile_grid
        step = max(1, PIXELS_AT_ONCE // max(slices[0].numel(), rows * columns * self.num_bins))
        result = torch.empty_like(slices, memory_format=torch.contiguous_format)
        for source, target in zip(slices.split(step), result.split(step), strict=True):
            target.copy_(self._equalize(source))
        result = result.reshape(grey.shape)
        return convert_to_dst_type(result, dst=img, dtype=grey.dtype)[0]

    def _equalize(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices ``[N, H, W]`` to equalized slices of the same type."""
        levels = self._quantize(slices)
        height, width = levels.shape[-2:]
        columns, rows = self.tile_grid
        padded = levels
        if height % rows or width % columns:
            # As in OpenCV, a side that is divisible grows by a whole tile count when the other one is not.
            below, right = rows - height % rows, columns - width % columns
            padded = levels[:, _reflect(height, below, levels.device)][:, :, _reflect(width, right, levels.device)]
        curves = self._curves(padded)
        result = self._interpolate(levels, curves, padded.shape[-2] // rows, padded.shape[-1] // columns)
        if slices.dtype == torch.uint8:
            return result.mul_(255 / (self.num_bins - 1)).round_().to(torch.uint8)
        return result.div_(self.num_bins - 1).to(slices.dtype)

    def _quantize(self, slices: torch.Tensor) -> torch.Tensor:
        """Grey values to levels 0 .. num_bins - 1, int32."""
        if slices.dtype == torch.uint8:
            if self.num_bins == 256:
                return slices.int()
            return slices.float().mul_((self.num_bins - 1) / 255).round_().int()
        grey = slices if slices.dtype == torch.float64 else slices.float()
        # The sum is NaN where a value is (or where infinities meet), and five times cheaper than looking at each.
        if torch.isnan(grey.sum()) and torch.isnan(grey).any():
            raise ValueError("CLAHE needs grey values without NaN; find out where they come from.")
        return grey.clamp(0, 1).mul_(self.num_bins - 1).round_().int()

    def _curves(self, padded: torch.Tensor) -> torch.Tensor:
        """Grey level curve of each tile, float32 ``[N * rows * columns, num_bins]``, of levels ``[N, H, W]``."""
        columns, rows = self.tile_grid
        number, height, width = padded.shape
        tiles = padded.reshape(number, rows, height // rows, columns, width // columns).transpose(2, 3)
        area = (height // rows) * (width // columns)
        index = tiles.reshape(number * rows * columns, area).long()
        histogram = torch.zeros(len(index), self.num_bins, dtype=torch.int32, device=padded.device)
        histogram.scatter_add_(1, index, histogram.new_ones(()).expand_as(index))
        if self.clip_limit > 0:
            histogram.clamp_(max=max(1, int(self.clip_limit * area / self.num_bins)))
        curves = histogram.cumsum(-1, dtype=torch.int32)
        if self.clip_limit > 0:
            curves += _spread(area - curves[:, -1:], self.num_bins)
        return curves.float().mul_((self.num_bins - 1) / area).round_().clamp_(max=self.num_bins - 1)

    def _interpolate(
        self, levels: torch.Tensor, curves: torch.Tensor, tile_height: int, tile_width: int
    ) -> torch.Tensor:
        """Levels ``[N, H, W]`` through the curves of the four nearest tile centres; float32 levels, not rounded."""
        number, height, width = levels.shape
        columns, rows = self.tile_grid
        above, below, down = _neighbours(height, tile_height, rows, levels.device)
        left, right, across = _neighbours(width, tile_width, columns, levels.device)
        flat = curves.flatten()
        first = torch.arange(number, dtype=torch.int32, device=levels.device) * (rows * columns * self.num_bins)
        index = levels + first[:, None, None]

        def look_up(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
            tile = (row[:, None] * columns + column) * self.num_bins
            return flat.index_select(0, (index + tile).flatten()).reshape(levels.shape)

        upper = look_up(above, left).lerp_(look_up(above, right), across)
        lower = look_up(below, left).lerp_(look_up(below, right), across)
        return upper.lerp_(lower, down[:, None])


def _reflect(length: int, beyond: int, device: torch.device) -> torch.Tensor:
    """Indices of a side continued by reflection without repeating the edge: 4 and 3 give 0 1 2 3 2 1 0."""
    if length == 1:
        return torch.zeros(1 + beyond, dtype=torch.long, device=device)
    index = torch.arange(length + beyond, device=device) % (2 * (length - 1))
    return torch.minimum(index, 2 * (length - 1) - index)


def _spread(excess: torch.Tensor, bins: int) -> torch.Tensor:
    """What spreading the excess ``[T, 1]`` over all bins adds to the cumulated histogram, ``[T, bins]``.

    Each bin gets the same whole share. The remainder goes one each to bins 0, step, 2 * step, ...
    """
    share = excess // bins
    remainder = excess - share * bins
    step = (bins // remainder.clamp(min=1)).clamp_(min=1)
    index = torch.arange(bins, dtype=torch.int32, device=excess.device)
    # In float32 because whole-number division is slow; exact, as both numbers are small.
    ones = index.float().div(step).floor_().add_(1).int()
    return torch.minimum(ones, remainder).add_(share * (index + 1))


def _neighbours(
    length: int, tile: int, tiles: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two tiles between whose centres each position lies, int32, and its way from one to the other, 0..1."""
    position = torch.arange(length, device=device, dtype=torch.float32) * (1 / tile) - 0.5
    before = position.floor()
    way = position - before
    before = before.int()
    return before.clamp(min=0), (before + 1).clamp_(max=tiles - 1), way


class CLAHEd(MapTransform):
    """Dictionary form of :py:class:`CLAHE`.

    Args:
        keys: keys of the images.
        clip_limit: see :py:class:`CLAHE`.
        tile_grid: see :py:class:`CLAHE`.
        num_bins: see :py:class:`CLAHE`.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = CLAHE.backend

    def __init__(
        self,
        keys: KeysCollection,
        clip_limit: float = 2.0,
        tile_grid: tuple[int, int] = (8, 8),
        num_bins: int = 256,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.equalizer = CLAHE(clip_limit=clip_limit, tile_grid=tile_grid, num_bins=num_bins)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Equalize the image of every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.equalizer(d[key])
        return d


CLAHED = CLAHEDict = CLAHEd

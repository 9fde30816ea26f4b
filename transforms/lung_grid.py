"""The two grids of lung segmentation: blocks of a few millimetres for the anatomy, full voxels for the border.

Arrays here are in the canonical order ``[slice, row, column]`` with axis codes S, P, L: slice 0 at the feet, rows to
the back, columns to the patient's left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

AIR_HU = -1024
"""Value of voxels that hold nothing: padding outside the field of view (down to -3600 in the wild), and NaN."""

BRIGHT_HU = 1500
BLOCK_MM = 3.0
SLAB = 16
FILLED = 0.35


@dataclass(frozen=True)
class Grid:
    """Block grid over a volume.

    Attributes:
        shape: voxels of the volume, canonical order.
        spacing: millimetres between voxels.
        factors: voxels a block along each axis.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    factors: tuple[int, int, int]

    @classmethod
    def over(cls, shape: Sequence[int], spacing: Sequence[float]) -> Grid:
        """Choose whole factors so that a block measures about 3 mm, never less than one voxel."""
        factors = [max(1, min(size, int(BLOCK_MM * 1.1 / mm))) for size, mm in zip(shape, spacing, strict=True)]
        return cls(tuple(shape), tuple(float(s) for s in spacing), tuple(factors))  # type: ignore[arg-type]

    @property
    def block_mm(self) -> tuple[float, float, float]:
        """Size of a block in millimetres."""
        return tuple(f * s for f, s in zip(self.factors, self.spacing, strict=True))  # type: ignore[return-value]

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Blocks along each axis; the last one may hang over the volume's end."""
        return tuple(-(-n // f) for n, f in zip(self.shape, self.factors, strict=True))  # type: ignore[return-value]

    @property
    def block_ml(self) -> float:
        """Volume of a block in millilitres."""
        return float(np.prod(self.block_mm)) / 1000.0


def as_int16(volume: np.ndarray) -> np.ndarray:
    """Contiguous int16 copy of a volume in HU, clipped to -1024..1500; what is no number becomes air.

    Works slab by slab, so that no second copy in floating point exists. Rows are copied in strips since a volume
    whose slices are its last axis in memory would miss the cache at every voxel otherwise.
    """
    out = np.empty(volume.shape, np.int16)
    step = 32

    def copy(start: int) -> None:
        part = volume[:, start : start + step]
        if part.dtype.kind == "f":
            part = np.nan_to_num(np.rint(part), nan=AIR_HU, posinf=BRIGHT_HU, neginf=AIR_HU)
        np.clip(part, AIR_HU, BRIGHT_HU, out=out[:, start : start + step], casting="unsafe")

    _in_threads(copy, range(0, volume.shape[1], step))
    return out


def block_mean(volume: np.ndarray, grid: Grid) -> np.ndarray:
    """Mean HU of every block, float32 of shape ``grid.block_shape``; blocks that hang over are filled by the edge."""
    fz, fy, fx = grid.factors
    nz, ny, nx = grid.block_shape
    out = np.empty(grid.block_shape, np.float32)

    def average(z: int) -> None:
        part = volume[z * fz : (z + 1) * fz]
        plane = part.sum(axis=0, dtype=np.int32)
        pad = ((0, ny * fy - plane.shape[0]), (0, nx * fx - plane.shape[1]))
        if any(after for _, after in pad):
            plane = np.pad(plane, pad, mode="edge")
        columns = np.add.reduceat(plane, np.arange(0, ny * fy, fy), axis=0)
        out[z] = columns.reshape(ny, nx, fx).sum(axis=2) / (fx * fy * len(part))

    _in_threads(average, range(nz))
    return out


@dataclass(frozen=True)
class Blocks:
    """What the block anatomy says about the lungs.

    Attributes:
        side: uint8, 1 right and 2 left, defined wherever ``near`` or ``fill`` is.
        near: blocks whose air belongs to the lungs.
        fill: blocks that belong to the lungs whatever their HU (vessels, lesions).
    """

    side: np.ndarray
    near: np.ndarray
    fill: np.ndarray


def refine(volume: np.ndarray, blocks: Blocks, threshold: float, grid: Grid, out: np.ndarray) -> np.ndarray:
    """Full-resolution label map from the block anatomy.

    A voxel is lung where it is air (below ``threshold``) in a block of ``near``, or where the interpolated ``fill``
    exceeds 0.35, a little less than half so that the rim of a lesion is in; its side is that of its block.

    Args:
        volume: int16 HU, canonical order.
        blocks: the block anatomy.
        threshold: HU between lung and soft tissue.
        grid: the block grid.
        out: uint8 of the volume's shape, all zero: takes 1 right, 2 left.

    Returns:
        Voxels of lung in every slice.
    """
    counts = np.zeros(grid.shape[0], np.int64)
    fz, fy, fx = grid.factors
    used = blocks.near | blocks.fill
    if not used.any():
        return counts
    rows, columns = (np.flatnonzero(used.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    r0, r1 = max(rows[0] - 1, 0), rows[-1] + 2
    c0, c1 = max(columns[0] - 1, 0), columns[-1] + 2
    window = (slice(r0 * fy, min(r1 * fy, grid.shape[1])), slice(c0 * fx, min(c1 * fx, grid.shape[2])))
    side, near, fill = (part[:, r0:r1, c0:c1] for part in (blocks.side, blocks.near, blocks.fill))
    height, width = (part.stop - part.start for part in window)

    def slab(start: int) -> None:
        planes = np.arange(start, min(start + SLAB, grid.shape[0]))
        index = planes // fz
        position = np.clip((planes + 0.5) / fz - 0.5, 0, grid.block_shape[0] - 1)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, grid.block_shape[0] - 1)
        if not used[low[0] : high[-1] + 1].any():
            return
        weight = (position - low).astype(np.float32)[:, None, None]
        soft = torch.from_numpy(fill[low] * (1 - weight) + fill[high] * weight)[:, None]
        scaled = F.interpolate(soft, size=(soft.shape[2] * fy, soft.shape[3] * fx), mode="bilinear")
        filled = (scaled[:, 0, :height, :width] > FILLED).numpy()
        region = (slice(start, start + len(planes)), *window)
        lung = _repeat(near[index], fy, fx)[:, :height, :width] & (volume[region] < threshold)
        lung |= filled
        counts[region[0]] = np.count_nonzero(lung, axis=(1, 2))
        out[region] = lung * _repeat(side[index], fy, fx)[:, :height, :width]

    _in_threads(slab, range(0, grid.shape[0], SLAB))
    return counts


def _repeat(blocks: np.ndarray, fy: int, fx: int) -> np.ndarray:
    return np.repeat(np.repeat(blocks, fx, axis=2), fy, axis=1)


def _in_threads(function: Callable[[int], None], starts: range) -> None:
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        for _ in pool.map(function, starts):
            pass

"""Sampling grids in millimetres, smooth fields on them, and tubes painted into them.

Coordinates are patient millimetres ``(x, y, z)`` towards the patient's left, posterior and head, so that they grow
with the voxel indices ``i, j, k``. Smooth fields are computed on a coarse grid and brought to the image's grid by
separable cubic interpolation (Keys, 1981, https://doi.org/10.1109/TASSP.1981.1163711) as three sparse products, which
is an order of magnitude faster than spline zooming and does not slow down where other processes take the cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

#: One piece of a tube: start and end in mm, radius at both in mm.
Segment = tuple[np.ndarray, np.ndarray, float, float]


@dataclass(frozen=True)
class Grid:
    """A regular grid: voxels along ``i, j, k``, their spacing in mm and the position of voxel (0, 0, 0) in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates along each axis, float32, shaped to broadcast over the grid."""
        x, y, z = (
            np.asarray(start + step * np.arange(count), np.float32)
            for start, step, count in zip(self.origin, self.spacing, self.shape, strict=True)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def coarsened(self, step: float) -> Grid:
        """A grid of ``step`` mm that covers this one with two voxels to spare on each side."""
        a, b, c = (math.ceil((n - 1) * size / step) + 5 for n, size in zip(self.shape, self.spacing, strict=True))
        x, y, z = (start - 2 * step for start in self.origin)
        return Grid((a, b, c), (step, step, step), (x, y, z))

    @property
    def edge_mm(self) -> float:
        """Width of an edge in mm that looks sharp on this grid."""
        return float(np.mean(self.spacing[:2]))


def _interpolation_matrix(source: Grid, target: Grid, axis: int) -> sparse.csr_array:
    """Cubic interpolation weights of Keys along one axis, ``[target, source]``, float32, four a row."""
    count = source.shape[axis]
    where = target.origin[axis] + target.spacing[axis] * np.arange(target.shape[axis]) - source.origin[axis]
    where = where / source.spacing[axis]
    distance = np.abs(where[:, None] - np.arange(count)[None, :])
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return sparse.csr_array(weights.astype(np.float32))


def interpolate(field: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Bring a field from one grid to another, float32 of ``target.shape``."""
    out = np.asarray(field, np.float32)
    # From the last axis to the first, so that the largest product comes last and is already in order.
    for axis in (2, 1, 0):
        out = np.moveaxis(out, axis, 0)
        rest = out.shape[1:]
        weights = _interpolation_matrix(source, target, axis)
        out = np.moveaxis((weights @ out.reshape(len(out), -1)).reshape(-1, *rest), 0, axis)
    return np.ascontiguousarray(out)


def smooth_noise(rng: np.random.Generator, grid: Grid, wavelength: float) -> np.ndarray:
    """Gaussian noise of about unit variance that changes over ``wavelength`` mm, float32 of ``grid.shape``."""
    lattice = grid.coarsened(wavelength)
    values = rng.standard_normal(lattice.shape, dtype=np.float32)
    # Interpolation between independent values takes about a quarter of the deviation away on each axis.
    return interpolate(values * 1.6, lattice, grid)


def occupancy(depth: np.ndarray, edge_mm: float) -> np.ndarray:
    """Share of a voxel inside a surface, 0..1, from the depth below that surface in mm."""
    share = depth * np.float32(1.0 / edge_mm)
    share += np.float32(0.5)
    return np.clip(share, 0.0, 1.0, out=share)


def paint_tubes(field: np.ndarray, grid: Grid, segments: Iterable[Segment]) -> None:
    """Raise ``field`` (float32, 0..1) to the share of each voxel inside tapering tubes, in place.

    Tubes thinner than a voxel weigh as their cross section does, so that small vessels fade as in a scanner.
    """
    x, y, z = (axis.ravel() for axis in grid.axes())
    spacing, origin, shape = np.array(grid.spacing), np.array(grid.origin), np.array(grid.shape)
    edge = grid.edge_mm
    for start, end, radius_start, radius_end in segments:
        reach = max(radius_start, radius_end) + edge
        low = np.maximum(np.floor((np.minimum(start, end) - reach - origin) / spacing).astype(int), 0)
        high = np.minimum(np.ceil((np.maximum(start, end) + reach - origin) / spacing).astype(int) + 1, shape)
        if (low >= high).any():
            continue
        dx = (x[low[0] : high[0]] - np.float32(start[0]))[:, None, None]
        dy = (y[low[1] : high[1]] - np.float32(start[1]))[None, :, None]
        dz = (z[low[2] : high[2]] - np.float32(start[2]))[None, None, :]
        ax, ay, az = (float(v) for v in end - start)
        along = (dx * ax + dy * ay + dz * az) * (1.0 / max(ax * ax + ay * ay + az * az, 1e-6))
        np.clip(along, 0.0, 1.0, out=along)
        distance = np.sqrt((dx - along * ax) ** 2 + (dy - along * ay) ** 2 + (dz - along * az) ** 2)
        share = (radius_start - distance + along * (radius_end - radius_start)) * (1.0 / edge) + 0.5
        weight = min(1.0, math.pi * (0.5 * (radius_start + radius_end) / edge) ** 2)
        box = field[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        np.maximum(box, np.clip(share, 0.0, 1.0) * np.float32(weight), out=box)

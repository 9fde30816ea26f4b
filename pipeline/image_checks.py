"""What the voxels of a chest CT say about the scan itself: noise, metal, slices through the lungs, which way it lies.

Measured on a coarse copy of the volume (about 6 mm) laid out by its affine, and on a few slices at full resolution:
some tenths of a second for a scan of 512 x 512 x 300. Needs numpy and scipy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

COARSE_MM = 6.0
LUNG_HU = -500.0
LEAST_LUNG_ML = 500.0
SOFT_TISSUE_HU = (-30.0, 120.0)
NOISE_SLICES = 12
WINDOW = 5
METAL_HU = 3000.0
METAL_ML = 0.2
BONE_HU = 250.0
NOISY_HU = 56.0
FEW_SLICES = 32
UPSIDE_DOWN = 0.85
"""Width between the lungs below over that above: 1.2 to 2.5 in chests looked at, real ones 1.5 to 2.1."""
HEART_RIGHT_MM = -9.0
"""What lies between the lungs below lies -8 to 22 mm left of the middle in chests looked at, real ones 0 to 13."""
SPINE_IN_FRONT = "the spine seems to lie in front"
HEART_ABOVE = "the heart seems to lie at the upper end"
WRONG_WAY = (SPINE_IN_FRONT, HEART_ABOVE)
"""How the warnings begin that are reasons to refer the study to a reader."""


def look(image: np.ndarray, affine: np.ndarray) -> list[str]:
    """Warnings, in words, about what a chest CT shows of its own quality and orientation.

    Args:
        image: HU ``[i, j, k]``.
        affine: voxel index -> mm, RAS+.
    """
    view, spacing = canonical(image, affine)
    chest = coarse_chest(view, spacing)
    if chest is None:
        return []
    low, high = _extent(chest.lungs)[2]
    step = chest.mm[2] / spacing[2]
    first, last = round(low * step), min(round(high * step), view.shape[2] - 1)
    warnings = []
    heights = np.unique(np.linspace(first, last, NOISE_SLICES).round().astype(int))
    noise = noise_level(view, heights)
    if noise is not None and noise > NOISY_HU:
        warnings.append(
            f"noisy image (about {noise:.0f} HU in soft tissue): faint findings may be hidden or feigned; "
            "send a smoother reconstruction if there is one"
        )
    metal = _metal_slices(view[:, :, first : last + 1], spacing)
    if metal:
        warnings.append(
            f"metal in {metal} slices of the lungs: its streaks may look like disease; look at those slices yourself"
        )
    if last - first + 1 < FEW_SLICES:
        warnings.append(
            f"only {last - first + 1} slices through the lungs: small findings may not show; "
            "send the thinner series if there is one"
        )
    return warnings + _orientation(chest)


def _metal_slices(view: np.ndarray, spacing: tuple[float, float, float]) -> int:
    """In how many slices metal lies, 0 where there is less of it than 0.2 ml."""
    dense = np.flatnonzero(view.max(axis=(0, 1)) > METAL_HU)
    voxels = sum(int((view[:, :, k] > METAL_HU).sum()) for k in dense)
    return len(dense) if voxels * float(np.prod(spacing)) / 1000 >= METAL_ML else 0


def _orientation(chest: CoarseChest) -> list[str]:
    """Warnings where the anatomy speaks against the affine."""
    advice = "check the orientation in the header, or how the file was converted"
    warnings = []
    if spine_in_front(chest):
        warnings.append(f"{SPINE_IN_FRONT}: the scan may be labelled back to front; {advice}")
    widths, shifts = between_lungs(chest)
    height = len(widths)
    below, above = slice(int(0.15 * height), int(0.5 * height)), slice(int(0.6 * height), int(0.9 * height))
    known = np.isfinite(widths)
    if known[below].sum() < 3 or known[above].sum() < 3:
        return warnings
    if np.nanmean(widths[below]) < UPSIDE_DOWN * np.nanmean(widths[above]):
        warnings.append(f"{HEART_ABOVE}: the scan may be labelled upside down; {advice}")
    elif np.nanmean(shifts[below]) < HEART_RIGHT_MM:
        warnings.append(
            f"the heart seems to lie on the right: it may be displaced, or the scan labelled left for right; {advice}"
        )
    return warnings


@dataclass(frozen=True)
class CoarseChest:
    """A chest on a coarse grid ``[left, posterior, head]``, as the affine says it lies.

    Attributes:
        hu: float32, voxels taken (not averaged) from the scan.
        lungs: bool, air inside the body without small pockets.
        mm: spacing along the three axes.
    """

    hu: np.ndarray
    lungs: np.ndarray
    mm: tuple[float, float, float]


def canonical(image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A view of the volume ``[left, posterior, head]``, by the nearest axes of its affine, and its spacing in mm."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing
    axes = [int(np.argmax(np.abs(cosines[row]))) for row in range(3)]
    if len(set(axes)) < 3:
        axes = [0, 1, 2]
    view = image.transpose(axes)
    # RAS+ grows to the right, to the front and to the head.
    signs = [-np.sign(cosines[0, axes[0]]), -np.sign(cosines[1, axes[1]]), np.sign(cosines[2, axes[2]])]
    view = view[tuple(slice(None, None, -1) if sign < 0 else slice(None) for sign in signs)]
    x, y, z = (float(spacing[axis]) for axis in axes)
    return view, (x, y, z)


def coarse_chest(view: np.ndarray, spacing: tuple[float, float, float]) -> CoarseChest | None:
    """The coarse chest of a canonical volume; None where it shows no lungs."""
    steps = [max(1, round(COARSE_MM / s)) for s in spacing]
    hu = np.ascontiguousarray(view[:: steps[0], :: steps[1], :: steps[2]]).astype(np.float32)
    mm = (spacing[0] * steps[0], spacing[1] * steps[1], spacing[2] * steps[2])
    smooth = ndimage.uniform_filter(hu, 3)
    # Air that does not reach the sides of the scan: lungs, airways, bowel.
    air = smooth < LUNG_HU
    sides = np.zeros_like(air)
    sides[[0, -1]] = sides[:, [0, -1]] = True
    outside = np.zeros_like(air)
    for k in range(hu.shape[2]):
        labels, _ = ndimage.label(air[:, :, k])
        reached = np.unique(labels[sides[:, :, k]])
        outside[:, :, k] = np.isin(labels, reached[reached > 0])
    labels, count = ndimage.label(air & ~outside)
    if not count:
        return None
    millilitres = np.bincount(labels.ravel())[1:] * float(np.prod(mm)) / 1000
    lungs = np.isin(labels, 1 + np.flatnonzero(millilitres > 0.15 * millilitres.max()))
    if float(lungs.sum()) * float(np.prod(mm)) / 1000 < LEAST_LUNG_ML:
        return None
    return CoarseChest(hu, lungs, mm)


def noise_level(view: np.ndarray, heights: np.ndarray) -> float | None:
    """The noise of a scan in HU, robustly: the lower quartile of the local deviation in soft tissue; None without any.

    After Christianson et al., AJR 205 (2015) W93-W99: the deviation in small windows over soft tissue. They take the
    most frequent value; the lower quartile, too, keeps out edges, and is steadier where there are few windows.

    Args:
        view: canonical volume.
        heights: slices to look at.
    """
    deviations = []
    for k in heights:
        plane = view[:, :, k].astype(np.float32)
        mean = ndimage.uniform_filter(plane, WINDOW)
        square = ndimage.uniform_filter(np.square(plane), WINDOW)
        deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
        soft = (mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])
        deviations.append(deviation[soft])
    values = np.concatenate(deviations) if deviations else np.empty(0)
    if len(values) < 500:
        return None
    return float(np.percentile(values, 25))


def spine_in_front(chest: CoarseChest) -> bool:
    """Whether the bone near the midline lies in the front quarter of the chest instead of the back one."""
    left, back, height = _extent(chest.lungs)
    middle, reach = (left[0] + left[1]) // 2, max(1, round(25 / chest.mm[0]))
    quarter = (back[1] - back[0] + 1) // 4
    bone = chest.hu[middle - reach : middle + reach + 1, :, height[0] : height[1] + 1] > BONE_HU
    behind, ahead = int(bone[:, back[1] - quarter + 1 :].sum()), int(bone[:, : back[0] + quarter].sum())
    return ahead >= 50 and ahead > 2 * behind


def between_lungs(chest: CoarseChest) -> tuple[np.ndarray, np.ndarray]:
    """For each height of the lungs how wide the gap between them is, and how far left of the middle it lies, mm.

    Means over the rows that cross both lungs; NaN where none does. The middle is that between the lungs' outer edges.
    """
    left, _, height = _extent(chest.lungs)
    middle = (left[0] + left[1]) // 2
    widths, shifts = [], []
    for k in range(height[0], height[1] + 1):
        plane = chest.lungs[:, :, k]
        rows = np.flatnonzero(plane[:middle].any(axis=0) & plane[middle:].any(axis=0))
        if not len(rows):
            widths.append(np.nan)
            shifts.append(np.nan)
            continue
        crossed = plane[:, rows]
        size = len(crossed)
        inner = (middle - 1 - np.argmax(crossed[:middle][::-1], axis=0), middle + np.argmax(crossed[middle:], axis=0))
        outer = (np.argmax(crossed, axis=0), size - 1 - np.argmax(crossed[::-1], axis=0))
        widths.append(float((inner[1] - inner[0]).mean()) * chest.mm[0])
        shifts.append(float((inner[0] + inner[1] - outer[0] - outer[1]).mean()) / 2 * chest.mm[0])
    return np.array(widths), np.array(shifts)


def _extent(lungs: np.ndarray) -> tuple[tuple[int, int], ...]:
    """First and last index of the lungs along each axis."""
    found = []
    for axis in range(3):
        there = np.flatnonzero(lungs.any(axis=tuple(other for other in range(3) if other != axis)))
        found.append((int(there[0]), int(there[-1])))
    return tuple(found)

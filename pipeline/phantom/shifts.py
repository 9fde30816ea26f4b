"""What scanners, protocols and mistakes do to a volume: voxels, affine and a generator in, voxels and affine out.

For measuring how an answer holds where the scan differs from what the weights were trained on. Volumes are int16 HU
``[i, j, k]`` in any orientation, affines RAS+ in mm (NIfTI's); the patient's axes are taken from the affine. What a
shift draws comes from its generator alone. A volume that is given is never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

#: Voxels and affine of a shifted scan.
Shifted = tuple[np.ndarray, np.ndarray]
Shift = Callable[[np.ndarray, np.ndarray, np.random.Generator], Shifted]

AIR = -1024
SOFT_TISSUE = 40.0
METAL = 3071
"""What a scanner of 12 bits shows where it should show more."""


def patient_axis(affine: np.ndarray, direction: int) -> tuple[int, float]:
    """Which voxel axis runs along a patient's axis (0 right, 1 anterior, 2 head), and +1 or -1 for the sense."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axis = int(np.argmax(np.abs(cosines[direction])))
    return axis, float(np.sign(cosines[direction, axis]))


def _spacing(affine: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _as_hu(values: np.ndarray) -> np.ndarray:
    """Rounded to int16 within what a scanner can store."""
    return np.clip(np.rint(values), AIR, METAL).astype(np.int16)


def add_noise(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, *, sigma: float) -> Shifted:
    """Gaussian noise of ``sigma`` HU, independent from voxel to voxel."""
    noise = rng.standard_normal(volume.shape, dtype=np.float32) * np.float32(sigma)
    return _as_hu(volume + noise), affine.copy()


def reslice(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, *, count: int) -> Shifted:
    """The same extent from head to feet in ``count`` slices.

    Fewer slices: each is the mean of what it covers, so that the mean of the volume stays. More: linear interpolation
    between the slices' centres.

    Raises:
        ValueError: for a count under 1.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    axis, _ = patient_axis(affine, 2)
    slices = np.moveaxis(volume, axis, 0).astype(np.float32)
    before = len(slices)
    step = before / count
    if count <= before:
        edges = np.arange(count + 1) * step
        total = np.concatenate([np.zeros((1, *slices.shape[1:])), np.cumsum(slices, axis=0, dtype=np.float64)])
        at_edges = _between(total, np.minimum(edges, before))
        out = np.diff(at_edges, axis=0) / step
    else:
        out = _between(slices, np.clip((np.arange(count) + 0.5) * step - 0.5, 0, before - 1))
    changed = affine.copy()
    changed[:3, axis] *= step
    # The first slice's centre moves, the volume's outer face stays.
    changed[:3, 3] += affine[:3, axis] * (0.5 * step - 0.5)
    return _as_hu(np.moveaxis(out, 0, axis)), changed


def _between(stack: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Linear interpolation along the first axis."""
    low = np.minimum(places.astype(int), len(stack) - 1)
    high = np.minimum(low + 1, len(stack) - 1)
    share = (places - low).reshape(-1, *[1] * (stack.ndim - 1))
    return np.asarray(stack[low] * (1 - share) + stack[high] * share)


def thicken(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, *, thickness: float) -> Shifted:
    """Slices of about ``thickness`` mm (as many as fit the extent exactly), thicker or thinner than before."""
    axis, _ = patient_axis(affine, 2)
    extent = volume.shape[axis] * float(_spacing(affine)[axis])
    return reslice(volume, affine, rng, count=max(1, round(extent / thickness)))


def rotate(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, *, axis: int, degrees: float) -> Shifted:
    """The patient turned by ``degrees`` about a patient's axis (0 left-right, 1 front-back, 2 head-feet).

    Turned in millimetres about the volume's centre, by cubic splines (linear interpolation would take much of the
    noise away); air where nothing was scanned. The affine stays: this is a patient who lies askew, not a header that
    says so.
    """
    spacing = _spacing(affine)
    along, _ = patient_axis(affine, axis)
    first, second = (other for other in range(3) if other != along)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = cos
    turn[first, second], turn[second, first] = -sin, sin
    matrix = np.diag(1 / spacing) @ turn @ np.diag(spacing)
    centre = (np.array(volume.shape) - 1) / 2
    out = ndimage.affine_transform(
        volume.astype(np.float32), matrix, centre - matrix @ centre, order=3, mode="constant", cval=AIR
    )
    return _as_hu(out), affine.copy()


def flip(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, *, axes: Sequence[int]) -> Shifted:
    """Store the voxels the other way round along voxel axes, and say so in the affine: the same scan."""
    changed = affine.copy()
    for axis in axes:
        changed[:3, 3] += changed[:3, axis] * (volume.shape[axis] - 1)
        changed[:3, axis] *= -1
    return np.ascontiguousarray(np.flip(volume, tuple(axes))), changed


def mislabel(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, *, axis: int) -> Shifted:
    """Mirror the voxels along a patient's axis (0, 1, 2) under the same affine: a scan that is labelled wrongly."""
    return np.ascontiguousarray(np.flip(volume, patient_axis(affine, axis)[0])), affine.copy()


def lobe_like_parts(affine: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Upper and lower part of each lung, cut as the oblique fissure runs: 1, 2 right, 3, 4 left, 0 outside.

    Args:
        affine: of the mask.
        lungs: 0, 1 right, 2 left.
    """
    parts = np.zeros(lungs.shape, np.uint8)
    (up, up_sense), (front, front_sense) = patient_axis(affine, 2), patient_axis(affine, 1)
    for side in (1, 2):
        inside = np.argwhere(lungs == side)
        if not len(inside):
            continue
        height, ahead = inside[:, up] * up_sense, inside[:, front] * front_sense
        height = (height - height.min()) / max(float(np.ptp(height)), 1.0)
        behind = 1 - (ahead - ahead.min()) / max(float(np.ptp(ahead)), 1.0)
        lower = height < 0.2 + 0.5 * behind
        parts[tuple(inside.T)] = 2 * side - 1 + lower
    return parts


def remove_lobe(
    volume: np.ndarray,
    affine: np.ndarray,
    rng: np.random.Generator,
    *,
    lungs: np.ndarray,
    infection: np.ndarray | None = None,
) -> Shifted:
    """Soft tissue in place of the upper or lower part of one lung, as after its loss.

    Args:
        volume: HU.
        affine: its affine.
        rng: draws which part, and the filling's noise.
        lungs: 0, 1 right, 2 left.
        infection: the part drawn is one of those that hold the least of it, so that the diagnosis stays.
    """
    parts = lobe_like_parts(affine, lungs)
    disease = np.zeros(5) if infection is None else np.bincount(parts[infection > 0], minlength=5)
    there = [part for part in range(1, 5) if (parts == part).any()]
    least = min(disease[part] for part in there)
    lost = parts == rng.choice([part for part in there if disease[part] == least])
    out = volume.copy()
    out[lost] = _as_hu(SOFT_TISSUE + 12 * rng.standard_normal(int(lost.sum())))
    return out, affine.copy()


def add_metal(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> Shifted:
    """Two metal screws in the spine, and bright and dark streaks from them through some 4 cm of slices.

    The screws lie beside the densest place near the midline of the middle slice. Streaks fall off with the distance
    and are strongest, and dark, along the line through both screws.
    """
    spacing, (up, _), (across, _) = _spacing(affine), patient_axis(affine, 2), patient_axis(affine, 0)
    slices = np.moveaxis(volume, (up, across), (0, 1)).astype(np.float32)
    mm = np.array([spacing[up], spacing[across], spacing[3 - up - across]])
    middle = len(slices) // 2 + int(rng.integers(-2, 3))
    dense = ndimage.gaussian_filter(slices[middle], 8.0 / mm[1:])
    width = slices.shape[1]
    dense[: int(0.4 * width)] = dense[int(0.6 * width) :] = AIR
    place = np.array(np.unravel_index(int(np.argmax(dense)), dense.shape)) * mm[1:]
    x, y = (np.arange(n, dtype=np.float32) * step for n, step in zip(slices.shape[1:], mm[1:], strict=True))
    streaks = np.zeros(slices.shape[1:], np.float32)
    metal = np.zeros(slices.shape[1:], bool)
    for side in (-1, 1):
        dx, dy = x[:, None] - (place[0] + side * 14), y[None, :] - place[1]
        distance = np.hypot(dx, dy)
        metal |= distance < 4.0
        streaks += _rays(rng, np.arctan2(dy, dx)) / (1 + distance / 30)
    between = np.exp(-(((y[None, :] - place[1]) / 5.0) ** 2)) / (1 + np.abs(x[:, None] - place[0]) / 30)
    streaks = strength * (170 * streaks - 350 * between)
    body = ndimage.gaussian_filter(slices[middle], 3.0 / mm[1:]) > -995
    half = max(1, round(20.0 / float(mm[0])))
    for k in range(max(0, middle - half), min(len(slices), middle + half + 1)):
        slices[k] += streaks * rng.uniform(0.7, 1.3) * body
        slices[k][metal] = METAL
    return _as_hu(np.moveaxis(slices, (0, 1), (up, across))), affine.copy()


def _rays(rng: np.random.Generator, angle: np.ndarray) -> np.ndarray:
    """A random function of the angle with some twenty bright and dark rays, of about unit deviation."""
    total = np.zeros(angle.shape, np.float32)
    for order in range(6, 36):
        total += rng.normal(0, 0.26) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return total

"""Lung that a threshold misses: the costal surface as if disease did not hide it, and the dense lung inside it.

Consolidated lung is as dense as the chest wall, so a threshold cuts it away with the wall. Three things tell it apart:
the inner surface of the rib cage is smooth, so its course can be carried on over a gap; consolidation is darker or
more uneven than blood, liver and muscle, since some air is left in it; and it lies between aerated lung and the
ribs, where fat of the mediastinum and bowel do not. Consolidation that is as even and as dense as the heart, and lies
on it, stays out.

Arrays are block means as in ``lung_anatomy``, order S, P, L.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu
from skimage.segmentation import watershed

from pneumonai.transforms.lung_anatomy import close, distance, grow

OUTSIDE = np.float32(-1e3)
ANGLES = 72
RAY_STEP_MM = 1.5
SLICE_STEP_MM = 6.0
TURN_SCALE = np.deg2rad(7.0)
HEIGHT_SCALE_MM = 8.0
"""The costal surface follows the samples over greater distances than these, and is smooth over shorter ones."""

SLACK_MM = 1.5
WALL_SLACK_MM = 3.5
"""Consolidation at the ribs: how far beyond the fitted surface it is filled; fat lies there."""
MIDLINE_MM = 6.0
AIRWAY_MM = 8.0
APEX_SHARE = 0.33

GLASS_STEEPNESS = 75.0
"""HU a millimetre; the border of aerated lung, seen by blocks, is steeper."""
EVEN_TISSUE = 12.0
BRIGHT_TISSUE = 60.0
BRIGHTEST = 90.0
"""HU of smoothed tissue: even tissue lies above the first; over the others there is bone or contrast medium."""
SHEET_MM = 2.5

PIECE_MM = 12.0
NECK_MM = 3.0
SHELL_MM = 4.5
GLASS_SHARE = 0.02
HALO_MM = 6.0
BARE_LEAST_ML, BARE_LARGE_ML, BARE_ENCLOSED = 10.0, 150.0, 0.55
EXPECTED = 0.5
LUNG_SIDE, LUNG_SIDE_EXPECTED = 0.30, 0.18
ENCLOSED, ENCLOSED_EXPECTED = 0.42, 0.14
"""Share of a piece's surroundings that are lung, or lung and ribs, and what the other side's lung takes off."""


def costal_depth(lungs: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """Depth in mm of every block below the costal surface, float32; negative outside, -1000 where no slice has lung.

    In every slice rays run from the middle of the chest outwards; the last lung on a ray is a sample of the surface.
    A stiff surface over angle and height is then fitted from outside: samples that fall short of it, where disease
    hides the wall, lose their weight (asymmetric least squares, Eilers 2005, over two dimensions).
    """
    dz, dy, dx = block_mm
    planes, rows, columns = (np.flatnonzero(lungs.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    cy, cx = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    reach = np.hypot((rows[-1] - rows[0] + 2) * dy, (columns[-1] - columns[0] + 2) * dx) / 2
    radii = np.arange(0, reach, RAY_STEP_MM)
    count = max(1, round((planes[-1] - planes[0]) * dz / SLICE_STEP_MM)) + 1 if len(planes) > 1 else 1
    heights = np.unique(np.round(np.linspace(planes[0], planes[-1], count)).astype(int))
    y = cy + np.outer(np.sin(angle), radii) / dy
    x = cx + np.outer(np.cos(angle), radii) / dx
    samples = np.full((len(heights), ANGLES), np.nan)
    for row, z in enumerate(heights):
        hit = ndimage.map_coordinates(lungs[z].astype(np.float32), [y, x], order=1, mode="constant") > 0.5
        found = hit.any(axis=1)
        samples[row, found] = radii[len(radii) - 1 - hit[found, ::-1].argmax(axis=1)]
    step = (heights[-1] - heights[0]) * dz / max(1, len(heights) - 1)
    surface = _fit_from_outside(samples, max(step, dz))
    grid_y, grid_x = np.mgrid[: lungs.shape[1], : lungs.shape[2]]
    radius = np.hypot((grid_y - cy) * dy, (grid_x - cx) * dx).astype(np.float32)
    turn = np.mod(np.arctan2((grid_y - cy) * dy, (grid_x - cx) * dx), 2 * np.pi) * (ANGLES / (2 * np.pi))
    low = np.minimum(turn.astype(int), ANGLES - 1)
    part = (turn - low).astype(np.float32)
    depth = np.full(lungs.shape, OUTSIDE, np.float32)
    for z in range(planes[0], planes[-1] + 1):
        line = np.array([np.interp(z, heights, surface[:, k]) for k in range(ANGLES)], np.float32)
        line = np.append(line, line[0])
        depth[z] = line[low] + (line[low + 1] - line[low]) * part - radius
    return depth


def _fit_from_outside(samples: np.ndarray, step_mm: float) -> np.ndarray:
    """Stiff surface ``[heights, angles]`` (angles are cyclic) over samples that err inwards; NaN: no sample."""
    rows, columns = samples.shape
    ring = sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(columns, columns)).tolil()
    ring[0, -1] = ring[-1, 0] = 1.0
    ring = ring.tocsr() * (TURN_SCALE * columns / (2 * np.pi)) ** 2
    rough = sparse.kron(sparse.eye(rows), ring.T @ ring)
    if rows > 2:
        bend = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(rows - 2, rows)) * (HEIGHT_SCALE_MM / step_mm) ** 2
        rough = rough + sparse.kron(bend.T @ bend, sparse.eye(columns))
    known = np.isfinite(samples).ravel()
    values = np.where(known, np.nan_to_num(samples).ravel(), 0.0)
    weight = known.astype(float)
    for _ in range(6):
        system = (sparse.diags(weight + 1e-6) + rough).tocsc()
        surface = splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(weight * values)
        short = surface - values
        weight = known * np.where(short < 1.5, 1.0, np.exp(-((short - 1.5) ** 2) / 4.0) + 1e-5)
    return surface.reshape(rows, columns)


def dense_lung(
    hu: np.ndarray,
    inside: np.ndarray,
    lungs: np.ndarray,
    to_air: np.ndarray,
    to_airways: np.ndarray,
    block_mm: Sequence[float],
) -> np.ndarray:
    """Blocks of ground glass and consolidation that belong to the lungs, beyond their air.

    Args:
        hu: block means.
        inside: blocks inside the body.
        lungs: labels of aerated lung, 1 right and 2 left.
        to_air: distance in mm to aerated lung.
        to_airways: distance in mm to trachea and main bronchi.
        block_mm: size of a block.

    Returns:
        bool, hardly further out than the costal surface.
    """
    air = lungs > 0
    depth = costal_depth(air, block_mm)
    wall = depth <= 0
    columns = np.flatnonzero(air.any(axis=(0, 1)))
    chest = inside & (np.abs(np.arange(hu.shape[2]) - (columns[0] + columns[-1]) / 2) * block_mm[2] > MIDLINE_MM)
    zone = chest & (depth > -SLACK_MM) & ~air & (to_airways > AIRWAY_MM)
    area = air.sum(axis=(1, 2))
    apex = np.flatnonzero(area > APEX_SHARE * area.max())[-1] + 1
    # Over the lungs' tops the ribs close in, and muscles and vessels of the neck lie between them.
    zone[apex:] &= to_air[apex:] <= 8.0
    glass = _glass(hu, chest & (depth > 1), block_mm)
    dense = (glass & zone) | _uneven_tissue(hu, zone, inside, to_air, depth, block_mm)
    dense |= zone & (hu < -150) & (hu > -700) & grow(dense, 4.0, block_mm)
    dense |= close(dense, 5.0, block_mm) & zone & (hu < BRIGHTEST)
    expected = grow(_mirrored(air), 10.0, block_mm)
    dense = _enclosed(dense, air, wall, expected, block_mm)
    dense = _with_evidence(dense, glass, expected, air | wall, block_mm)
    if not dense.any():
        return dense
    box = tuple(
        slice(max(part.start - round(30 / mm), 0), part.stop + round(30 / mm))
        for part, mm in zip(ndimage.find_objects(dense.view(np.uint8))[0], block_mm, strict=True)
    )
    dense[box] |= _gaps(dense[box], lungs[box], wall[box], (inside & (depth > -WALL_SLACK_MM))[box], block_mm)
    return dense & ~air


def _mirrored(lungs: np.ndarray) -> np.ndarray:
    """The lungs reflected in the plane of columns where they meet their reflection best: where lung is expected."""
    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    total, last = int(columns[0] + columns[-1]), lungs.shape[2] - 1
    sample = lungs[::2, ::2]

    def reflection(of: np.ndarray, both: int) -> tuple[slice, np.ndarray]:
        where = slice(max(0, both - last), min(last, both) + 1)
        return where, of[..., where][..., ::-1]

    def overlap(both: int) -> int:
        where, reflected = reflection(sample, both)
        return int(np.count_nonzero(sample[..., where] & reflected))

    best = max(range(total - 12, total + 13), key=overlap)
    out = np.zeros_like(lungs)
    where, reflected = reflection(lungs, best)
    out[..., where] = reflected
    return out


def _glass(hu: np.ndarray, zone: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """Ground glass: half-aerated blocks where the density changes slowly, as it does not at the lung's own border."""
    steepness = np.sqrt(sum((np.gradient(hu, axis=axis) / block_mm[axis]) ** 2 for axis in _long_axes(hu)))
    glass = zone & (hu > -700) & (hu < -150) & (steepness < GLASS_STEEPNESS)
    return ndimage.uniform_filter(glass.astype(np.float32), 3) > 0.4


def _long_axes(hu: np.ndarray) -> list[int]:
    return [axis for axis in range(3) if hu.shape[axis] > 1]


def _uneven_tissue(
    hu: np.ndarray,
    zone: np.ndarray,
    inside: np.ndarray,
    to_air: np.ndarray,
    depth: np.ndarray,
    block_mm: Sequence[float],
) -> np.ndarray:
    """Tissue that is darker or more uneven than blood, liver and muscle, and is not plain fat."""
    # Blocks next to air are mixtures and would look uneven everywhere.
    tissue = inside & (hu > -250) & (to_air > 1.1 * max(block_mm))
    share = ndimage.uniform_filter(tissue.astype(np.float32), 3)
    enough = np.maximum(share, 1e-3)
    values = np.where(tissue, hu, np.float32(0))
    mean = ndimage.uniform_filter(values, 3) / enough
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(values * values, 3) / enough - mean * mean, 0))
    tissue &= share > 0.25
    plain = spread[tissue & (mean > 20) & (mean < 80) & (depth > 3)]
    if plain.size == 0:
        return np.zeros(hu.shape, bool)
    noise = float(np.percentile(plain, 25))
    fat = (mean > -125) & (mean < -55) & (spread < 2.2 * noise)
    uneven = zone & tissue & (((mean < EVEN_TISSUE) & ~fat) | ((spread > 2.5 * noise) & (mean < BRIGHT_TISSUE)))
    uneven = ndimage.uniform_filter(uneven.astype(np.float32), 3) > 0.5
    # Seams between fat and organs are uneven too, but thin.
    thick = distance(~uneven, block_mm) > SHEET_MM
    return grow(thick, SHEET_MM + 1.0, block_mm) & zone & (hu < BRIGHTEST)


def _enclosed(
    candidates: np.ndarray, air: np.ndarray, wall: np.ndarray, expected: np.ndarray, block_mm: Sequence[float]
) -> np.ndarray:
    """Candidates with aerated lung, ribs or accepted ones around them, piece by piece until no more are accepted.

    Fat and vessels of the mediastinum, stomach and spleen touch the lungs with a small part of their surface only.
    What hangs together by a neck is parted there first; where the other side has lung, less is asked for.
    """
    depth = ndimage.gaussian_filter(distance(~candidates, block_mm), [NECK_MM / mm for mm in block_mm], truncate=2.0)
    peaks = (depth == ndimage.maximum_filter(depth, [1 + 2 * round(PIECE_MM / mm) for mm in block_mm])) & candidates
    pieces = watershed(-depth, cc3d.connected_components(peaks, connectivity=26), mask=candidates)
    boxes = ndimage.find_objects(pieces)
    count = len(boxes)
    codes = pieces.copy()
    codes[wall] = count + 2
    codes[air] = count + 1
    contacts = np.zeros((count + 1, count + 3))
    margin = [int(np.ceil(SHELL_MM / mm)) + 1 for mm in block_mm]
    for index, box in enumerate(boxes, start=1):
        wide = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, margin, strict=True))
        piece = pieces[wide] == index
        shell = grow(piece, SHELL_MM, block_mm) & ~piece
        contacts[index] = np.bincount(codes[wide][shell], minlength=count + 3)
    contacts /= np.maximum(contacts.sum(axis=1, keepdims=True), 1)
    sizes = np.maximum(np.bincount(pieces.ravel(), minlength=count + 1), 1)
    likely = np.bincount(pieces[expected], minlength=count + 1) / sizes
    lung = np.zeros(count + 3, bool)
    lung[count + 1] = True
    while True:
        beside_lung = contacts[:, lung].sum(axis=1)
        fits = (beside_lung > LUNG_SIDE - LUNG_SIDE_EXPECTED * likely) & (
            beside_lung + contacts[:, count + 2] > ENCLOSED - ENCLOSED_EXPECTED * likely
        )
        fits[0] = False
        if not (fits & ~lung[: count + 1]).any():
            return lung[: count + 1][pieces]
        lung[: count + 1] |= fits


def _with_evidence(
    dense: np.ndarray, glass: np.ndarray, expected: np.ndarray, around: np.ndarray, block_mm: Sequence[float]
) -> np.ndarray:
    """Lesions with ground glass in or beside them; others only where the other side has lung, and large or enclosed.

    What is left out is fat beside the lungs. ``around`` is aerated lung and what lies beyond the costal surface.
    """
    halo = glass & grow(dense, HALO_MM, block_mm)
    labels, count = cc3d.connected_components(dense | halo, connectivity=6, return_N=True)
    size, airy, likely = (np.bincount(labels[part], minlength=count + 1) for part in (dense, halo, dense & expected))
    ml = size * (float(np.prod(block_mm)) / 1000)
    kept = airy > GLASS_SHARE * size
    for index in np.flatnonzero(~kept & (likely > EXPECTED * size) & (ml > BARE_LEAST_ML)):
        shell = distance((labels == index) & dense, block_mm)
        shell = (shell > 0) & (shell <= SHELL_MM)
        enclosed = int(np.count_nonzero(shell & around)) / max(1, int(np.count_nonzero(shell)))
        kept[index] = enclosed > BARE_ENCLOSED or ml[index] > BARE_LARGE_ML
    kept[0] = False
    return kept[labels] & dense


def _gaps(
    dense: np.ndarray, lungs: np.ndarray, wall: np.ndarray, zone: np.ndarray, block_mm: Sequence[float]
) -> np.ndarray:
    """What lies between accepted disease and the ribs or the aerated lung beside it, within ``zone``."""
    zone = zone & grow(dense, 10.0, block_mm)
    right, left = distance(lungs == 1, block_mm), distance(lungs == 2, block_mm)
    gaps = close((lungs == 1) | (dense & (right <= left)), 10.0, block_mm)
    gaps |= close((lungs == 2) | (dense & (left <= right)), 10.0, block_mm)
    gaps |= close(dense | (lungs > 0) | (wall & grow(dense, 15.0, block_mm)), 8.0, block_mm)
    return gaps & zone

"""Disease: where it lies (a score whose highest voxels become lesion) and how dense it is.

The share of the lung that is diseased is drawn first, from distributions that overlap between the classes; the score
is then cut where exactly that share of voxels lies above. What tells the classes apart is place and texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pneumonai.pipeline.phantom.grid import Grid, occupancy


@dataclass(frozen=True)
class Chest:
    """What a lesion needs to know of the image, all on the image's grid.

    Attributes:
        grid: the image's grid.
        lungs: 0, 1 right, 2 left.
        lobes: 0, 1..5.
        depth: mm below the surface of the lung.
        costal: mm below the inner surface of the rib cage or the diaphragm.
        fine, coarse: noise of unit variance over 6 and 18 mm.
        air: share of a voxel in intrapulmonary airways.
    """

    grid: Grid
    lungs: np.ndarray
    lobes: np.ndarray
    depth: np.ndarray
    costal: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    air: np.ndarray


def box_around(grid: Grid, centre: np.ndarray, reach: float) -> tuple[slice, slice, slice]:
    """Voxels within ``reach`` mm of ``centre`` along each axis."""
    slices = []
    for c, origin, step, count in zip(centre, grid.origin, grid.spacing, grid.shape, strict=True):
        low = int(np.clip(np.floor((c - reach - origin) / step), 0, count))
        high = int(np.clip(np.ceil((c + reach - origin) / step) + 1, 0, count))
        slices.append(slice(low, high))
    return slices[0], slices[1], slices[2]


def position(grid: Grid, voxel: np.ndarray) -> np.ndarray:
    """Where a voxel lies, mm ``[3]``."""
    return np.array([o + s * i for o, s, i in zip(grid.origin, grid.spacing, voxel, strict=True)])


def offsets(grid: Grid, box: tuple[slice, slice, slice], centre: np.ndarray) -> tuple[np.ndarray, ...]:
    """Offsets from ``centre`` in mm along each axis inside a box, shaped to broadcast."""
    return np.ix_(*(axis.ravel()[part] - np.float32(c) for axis, part, c in zip(grid.axes(), box, centre, strict=True)))


def cut(score: np.ndarray, inside: np.ndarray, voxels: int) -> float:
    """The value of ``score`` that ``voxels`` of the voxels ``inside`` exceed."""
    values = score[inside]
    voxels = int(np.clip(voxels, 1, max(1, int((values > -5).sum()) - 1)))
    return float(np.partition(values, len(values) - voxels)[len(values) - voxels])


def pleural_seeds(chest: Chest, rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """Voxel indices ``[count, 3]`` in one lung (1 right, 2 left), close to the ribs or the diaphragm."""
    step = (3, 3, 2)
    view = tuple(slice(None, None, s) for s in step)
    near = (chest.lungs[view] == side) & (chest.costal[view] < 14) & (chest.depth[view] > 2)
    places = np.argwhere(near) * step
    _, y, z = chest.grid.axes()
    y, z = y.ravel()[places[:, 1]], z.ravel()[places[:, 2]]
    # Viral pneumonia prefers the back and the bases.
    weight = np.exp(0.010 * y - 0.004 * z)
    chosen = rng.choice(len(places), size=count, replace=False, p=weight / weight.sum())
    return places[chosen]


def blend(image: np.ndarray, region: tuple[slice, ...], target: np.ndarray | np.float32, share: np.ndarray) -> None:
    """Move ``image`` towards denser values by ``share``; never make it less dense."""
    view = image[region]
    view += share * np.maximum(target - view, 0)


def patches(
    chest: Chest, rng: np.random.Generator, seeds: np.ndarray, scale: float, least: float = 9.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of ragged patches that lie flat on the pleura: of all of them, and of those that have a solid part.

    Args:
        chest: where.
        rng: draws size, shape and whether a patch has a solid part.
        seeds: voxel indices ``[n, 3]`` of the centres.
        scale: usual radius in mm; ``least`` the smallest.
    """
    score = np.full(chest.grid.shape, -9.0, np.float32)
    solid = np.full(chest.grid.shape, -9.0, np.float32)
    for seed in seeds:
        centre = position(chest.grid, seed)
        radius = max(least, scale * rng.uniform(0.7, 1.3))
        box = box_around(chest.grid, centre, 2.2 * radius)
        dx, dy, dz = offsets(chest.grid, box, centre)
        flat = (chest.costal[box] - chest.costal[tuple(seed)]) * np.float32(1.6)
        stretch = np.exp(rng.normal(0, 0.2, 3))
        squared = (dx * stretch[0]) ** 2 + (dy * stretch[1]) ** 2 + (dz * stretch[2]) ** 2 + flat * flat
        value = (1 - np.sqrt(squared, dtype=np.float32) / np.float32(radius)).astype(np.float32)
        value += 0.22 * chest.coarse[box] + 0.10 * chest.fine[box]
        same = chest.lungs[box] == chest.lungs[tuple(seed)]
        value = np.where(same, value, np.float32(-9.0))
        np.maximum(score[box], value, out=score[box])
        if rng.random() < 0.35:
            np.maximum(solid[box], value - rng.uniform(0.25, 0.5), out=solid[box])
    return score, solid


def add_viral(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Paint COVID-like disease into ``image`` (HU): peripheral irregular ground glass on both sides; uint8 mask."""
    load = float(np.exp(rng.uniform(np.log(0.014), np.log(0.20))))
    count = int(rng.integers(4, 9) + round(20 * load))
    share = rng.uniform(0.04, 0.18) if rng.random() < 0.35 else rng.uniform(0.3, 0.7)
    few = max(1, round(count * share))
    sides = (1, 2) if rng.random() < 0.5 else (2, 1)
    seeds = np.concatenate([pleural_seeds(chest, rng, sides[0], few), pleural_seeds(chest, rng, sides[1], count - few)])
    score, solid = patches(chest, rng, seeds, scale=42 * (load / count * 8) ** (1 / 3))
    inside = chest.lungs > 0
    level = cut(score, inside, round(load * int(inside.sum())))
    mask = inside & (score > level)
    region = ndimage.find_objects(mask.view(np.uint8))[0]
    fine = chest.fine[region]
    glass = np.float32(rng.uniform(-650, -470)) + 45 * chest.coarse[region] + 25 * fine
    if rng.random() < 0.4:  # crazy paving: thickened septa through the ground glass
        glass += 130 * np.clip(1 - np.abs(fine) / 0.25, 0, 1)
    edge = np.clip((score[region] - level) / 0.10 + 0.35, 0, 1) * (score[region] > level - 0.03) * inside[region]
    blend(image, region, np.clip(glass, -740, -300), edge)
    dense = np.clip((solid[region] - level) / 0.12, 0, 1) * mask[region]
    blend(image, region, np.float32(rng.uniform(-80, 20)) + 40 * fine, dense)
    return mask.astype(np.uint8)


def add_lobar(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Paint common pneumonia into ``image`` (HU): one ragged consolidation within a lobe; uint8 mask."""
    load = float(np.exp(rng.uniform(np.log(0.014), np.log(0.16))))
    lobe = int(rng.choice([1, 2, 3, 4, 5], p=[0.18, 0.14, 0.28, 0.14, 0.26]))
    inside = chest.lobes == lobe
    region = ndimage.find_objects(inside.view(np.uint8))[0]
    places = np.argwhere(inside[region][::3, ::3, ::2]) * (3, 3, 2) + [part.start for part in region]
    depth = chest.depth[tuple(places.T)]
    weight = np.exp(-(((depth - rng.choice([6.0, 18.0])) / 9.0) ** 2)) + 1e-6
    seed = places[rng.choice(len(places), p=weight / weight.sum())]
    centre = position(chest.grid, seed)
    dx, dy, dz = offsets(chest.grid, region, centre)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] * np.exp(rng.normal(0, 0.18, 3))[:, None]
    squared = sum((dx * a[0] + dy * a[1] + dz * a[2]).astype(np.float32) ** 2 for a in axes)
    radius = max(10.0, 62 * (load * 4) ** (1 / 3))
    ragged = 0.16 * chest.coarse[region] + 0.12 * chest.fine[region]
    score = 1 - np.sqrt(squared) / np.float32(radius) + ragged
    voxels = min(round(load * int((chest.lungs > 0).sum())), round(0.9 * int(inside.sum())))
    level = cut(score, inside[region], voxels)
    # The cut leaves crumbs beside the one consolidation.
    labels, _ = ndimage.label(inside[region] & (score > level))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found = labels == int(np.argmax(sizes))
    halo = rng.uniform(0.05, 0.22)
    glass = np.float32(rng.uniform(-620, -420)) + 40 * chest.coarse[region]
    blend(image, region, glass, np.clip((score - level) / 0.06 + 0.4, 0, 1) * found)
    core = np.clip((score - level - halo) / rng.uniform(0.08, 0.3), 0, 1) * found
    if rng.random() < 0.7:  # air bronchograms: the airways stay open
        core *= 1 - np.clip(1.3 * chest.air[region], 0, 1)
    patchy = np.float32(rng.uniform(-130, 30)) + rng.uniform(10, 60) * chest.fine[region]
    blend(image, region, np.clip(patchy, -400, 60), core)
    mask = np.zeros(chest.grid.shape, np.uint8)
    mask[region] = found
    return mask


def add_variants(
    chest: Chest, rng: np.random.Generator, image: np.ndarray, *, dependent: float, band: float, emphysema: float
) -> None:
    """Paint what healthy and old lungs show too: gravity's density behind, atelectatic bands, emphysema (HU)."""
    _, y, z = chest.grid.axes()
    inside = chest.lungs > 0
    if dependent:
        low = np.clip((y - 20) / 60, 0, 1) * np.clip(1 - (z - 40) / 160, 0.15, 1)
        near = np.exp(-np.clip(chest.costal, 0, None) / np.float32(5 + 7 * dependent))
        image += 260 * np.float32(dependent) * low * near * (1 + 0.15 * chest.coarse) * inside
    if band:
        side = int(rng.integers(1, 3))
        for _ in range(int(rng.integers(1, 3))):
            seed = pleural_seeds(chest, rng, side, 1)[0]
            centre = position(chest.grid, seed)
            centre[2] = float(z.ravel()[0]) + rng.uniform(60, 100)
            box = box_around(chest.grid, centre, 48)
            dx, dy, dz = offsets(chest.grid, box, centre)
            across = dz - rng.uniform(-0.35, 0.35) * dx - rng.uniform(-0.35, 0.35) * dy + 2 * chest.coarse[box]
            thick = np.float32(rng.uniform(2.0, 4.5) * (0.6 + 0.6 * band))
            fade = np.clip(1.5 - np.sqrt(dx * dx + dy * dy) / 30, 0, 1) * (chest.lungs[box] == side)
            blend(image, box, np.float32(-250), 0.7 * fade * occupancy(thick / 2 - np.abs(across), 3.0))
    if emphysema:
        holes = np.clip(chest.fine - 0.9, 0, 1) * np.clip((z - 60) / 120, 0.1, 1) * inside
        image -= 120 * np.float32(emphysema) * holes

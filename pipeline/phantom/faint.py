"""Disease of hard phantoms: small and faint, with the same pattern as the plain one.

Viral: several patches of ground glass on the pleura of both lungs. Common pneumonia: on one side, away from the
pleura, a patch with a denser core, or a cluster of small dense nodules around an airway.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pneumonai.pipeline.phantom.lesions import Chest, box_around, cut, offsets, patches, pleural_seeds, position


def brighten(image: np.ndarray, region: tuple[slice, ...], amount: np.ndarray, most: float = 60.0) -> None:
    """Add ``amount`` HU, up to ``most`` HU; never make it less dense."""
    view = image[region]
    view += np.clip(np.float32(most) - view, 0, np.maximum(amount, 0))


def add_faint_viral(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Paint a few faint patches of ground glass under the pleura of both lungs into ``image`` (HU); uint8 mask."""
    load = float(np.exp(rng.uniform(np.log(0.014), np.log(0.045))))
    count = int(rng.integers(5, 9))
    few = int(np.clip(round(count * rng.uniform(0.25, 0.5)), 1, count - 1))
    sides = (1, 2) if rng.random() < 0.5 else (2, 1)
    seeds = np.concatenate([pleural_seeds(chest, rng, sides[0], few), pleural_seeds(chest, rng, sides[1], count - few)])
    score, _ = patches(chest, rng, seeds, scale=42 * (load / count * 8) ** (1 / 3), least=7.0)
    inside = chest.lungs > 0
    level = cut(score, inside, round(load * int(inside.sum())))
    mask = inside & (score > level)
    region = ndimage.find_objects(mask.view(np.uint8))[0]
    edge = np.clip((score[region] - level) / 0.12 + 0.3, 0, 1) * (score[region] > level - 0.03) * inside[region]
    contrast = rng.uniform(130, 230) + 30 * chest.coarse[region] + 20 * chest.fine[region]
    brighten(image, region, edge * np.maximum(contrast, 60), most=-300)
    return mask.astype(np.uint8)


def _central_place(chest: Chest, rng: np.random.Generator, lobe: int) -> np.ndarray:
    """A position in a lobe, mm, that lies rather deep in it."""
    places = np.argwhere(chest.lobes[::3, ::3, ::2] == lobe) * (3, 3, 2)
    depth = chest.depth[tuple(places.T)]
    weight = np.exp(-(((np.clip(depth, 0, 30) - 24.0) / 9.0) ** 2)) + 1e-6
    return position(chest.grid, places[rng.choice(len(places), p=weight / weight.sum())])


def _core(chest: Chest, rng: np.random.Generator, image: np.ndarray, lobe: int, load: float) -> np.ndarray:
    """One patch in a lobe with a denser core; bool mask."""
    inside = chest.lobes == lobe
    region = ndimage.find_objects(inside.view(np.uint8))[0]
    dx, dy, dz = offsets(chest.grid, region, _central_place(chest, rng, lobe))
    stretch = np.exp(rng.normal(0, 0.2, 3))
    squared = (dx * stretch[0]) ** 2 + (dy * stretch[1]) ** 2 + (dz * stretch[2]) ** 2
    radius = max(10.0, 62 * (load * 4) ** (1 / 3))
    score = 1 - np.sqrt(squared).astype(np.float32) / np.float32(radius)
    score += 0.14 * chest.coarse[region] + 0.10 * chest.fine[region]
    level = cut(score, inside[region], round(load * int((chest.lungs > 0).sum())))
    labels, _ = ndimage.label(inside[region] & (score > level))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found = labels == int(np.argmax(sizes))
    halo = np.clip((score - level) / 0.12 + 0.3, 0, 1) * found
    core = np.clip((score - level - rng.uniform(0.10, 0.2)) / 0.2, 0, 1) * found
    core *= 1 - np.clip(1.3 * chest.air[region], 0, 1)
    brighten(image, region, halo * rng.uniform(90, 160) + core * rng.uniform(200, 380), most=20)
    mask = np.zeros(chest.grid.shape, bool)
    mask[region] = found
    return mask


def _cluster(chest: Chest, rng: np.random.Generator, image: np.ndarray, lobe: int, load: float) -> np.ndarray:
    """Small dense nodules close together in one lobe, as of bronchioles filled (tree in bud); bool mask."""
    centre = _central_place(chest, rng, lobe)
    volume = load * float((chest.lungs > 0).sum()) * float(np.prod(chest.grid.spacing))
    radii = np.empty(0)
    while (4.19 * radii**3).sum() < 0.6 * volume and len(radii) < 60:
        radii = np.append(radii, rng.uniform(3.5, 6.5))
    spread = 3.4 * float(np.cbrt((radii**3).sum())) / 2
    mask = np.zeros(chest.grid.shape, bool)
    dense = rng.uniform(250, 420)
    for radius in radii:
        place = centre + rng.normal(0, spread / 1.7, 3)
        box = box_around(chest.grid, place, 2.2 * radius)
        dx, dy, dz = offsets(chest.grid, box, place)
        depth = radius - np.sqrt(dx**2 + dy**2 + dz**2) + 1.0 * chest.fine[box]
        same = chest.lobes[box] == lobe
        brighten(image, box, np.clip(depth / 3 + 0.5, 0, 1) * same * dense, most=20)
        mask[box] |= (depth > 0) & same
    return mask


def add_faint_pneumonia(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Paint a small pneumonia of one side, one lobe, central and with dense parts, into ``image`` (HU); uint8 mask."""
    load = float(np.exp(rng.uniform(np.log(0.016), np.log(0.045))))
    lobe = int(rng.choice([1, 2, 3, 4, 5], p=[0.20, 0.14, 0.26, 0.16, 0.24]))
    paint = _core if rng.random() < 0.6 else _cluster
    mask = paint(chest, rng, image, lobe, load)
    if not mask.any():
        mask = _core(chest, rng, image, lobe, load)
    return mask.astype(np.uint8)

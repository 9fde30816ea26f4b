"""What healthy and aged lungs show that looks like disease, for hard phantoms; drawn alike for every kind.

Density that gravity leaves behind, crowded vessels, scars, nodules, thickened fissures, lobules with less
air, and patches of motion and noise. None of it enters the truth.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from pneumonai.pipeline.phantom.faint import brighten
from pneumonai.pipeline.phantom.grid import paint_tubes
from pneumonai.pipeline.phantom.lesions import Chest, box_around, offsets, pleural_seeds, position
from pneumonai.pipeline.phantom.tubes import branch


def add_lookalikes(
    chest: Chest, rng: np.random.Generator, image: np.ndarray, *, roots: Mapping[int, np.ndarray]
) -> None:
    """Paint variants into ``image`` (HU, in place).

    Args:
        chest: the lungs.
        rng: draws which, where and how strong.
        image: float32 HU.
        roots: where vessels enter the right (-1) and the left (1) lung, mm.
    """
    for side in (1, 2):
        if rng.random() < 0.7:
            _dependent(chest, rng, image, side)
        if rng.random() < 0.5:
            _crowd(chest, rng, image, side, roots[-1 if side == 1 else 1])
        for _ in range(int(rng.poisson(1.2))):
            _scar(chest, rng, image, side)
        for _ in range(int(rng.poisson(0.8))):
            _nodule(chest, rng, image, side)
    if rng.random() < 0.5:
        _thicken_fissures(chest, rng, image)
    if rng.random() < 0.5:
        _mosaic(chest, rng, image)
    for _ in range(int(rng.integers(0, 4))):
        _blur(chest, rng, image)
    for _ in range(int(rng.integers(0, 3))):
        _grain(chest, rng, image)


def _dependent(chest: Chest, rng: np.random.Generator, image: np.ndarray, side: int) -> None:
    """Density behind and below that fades towards the front, strongest along the pleura."""
    _, y, z = chest.grid.axes()
    low = np.clip((y - 10) / 70, 0, 1) * np.clip(1 - (z - rng.uniform(20, 80)) / 180, 0.1, 1)
    near = np.exp(-np.clip(chest.costal, 0, None) / np.float32(rng.uniform(5, 14)))
    amount = rng.uniform(80, 320) * low * near * (1 + 0.25 * chest.coarse)
    brighten(image, np.s_[:, :, :], amount * (chest.lungs == side), most=-200)


def _crowd(chest: Chest, rng: np.random.Generator, image: np.ndarray, side: int, root: np.ndarray) -> None:
    """More vessels than usual in one region of a lung, as where it is not fully expanded."""
    places = np.argwhere((chest.lungs[::4, ::4, ::3] == side) & (chest.depth[::4, ::4, ::3] > 3)) * (4, 4, 3)
    centre = position(chest.grid, places[rng.integers(len(places))])
    where = np.array(chest.grid.origin) + places * chest.grid.spacing
    chance = np.exp(-(((where - centre) ** 2).sum(axis=1)) / (2 * rng.uniform(18, 32) ** 2)) + 1e-9
    number = min(int(rng.integers(25, 60)), len(places))
    targets = where[rng.choice(len(places), number, replace=False, p=chance / chance.sum())]
    share = np.zeros(chest.grid.shape, np.float32)
    paint_tubes(share, chest.grid, branch(rng, root, targets, rng.uniform(2.2, 3.4)))
    inside = (chest.lungs == side) & (share > 0)
    image[inside] += share[inside] * np.maximum(30 - image[inside], 0)


def _scar(chest: Chest, rng: np.random.Generator, image: np.ndarray, side: int) -> None:
    """A small knot under the pleura with a few strands."""
    centre = position(chest.grid, pleural_seeds(chest, rng, side, 1)[0])
    share = np.zeros(chest.grid.shape, np.float32)
    ends = centre + rng.normal(0, 1, (int(rng.integers(2, 5)), 3)) * rng.uniform(7, 15)
    radius = rng.uniform(1.5, 3.5)
    paint_tubes(share, chest.grid, [(centre, end, radius, 0.5) for end in ends])
    inside = (chest.lungs == side) & (share > 0)
    image[inside] += share[inside] * np.maximum(rng.uniform(-350, -60) - image[inside], 0)


def _nodule(chest: Chest, rng: np.random.Generator, image: np.ndarray, side: int) -> None:
    """A round nodule anywhere in a lung; the larger, the fainter."""
    places = np.argwhere(chest.lungs[::3, ::3, ::2] == side) * (3, 3, 2)
    centre = position(chest.grid, places[rng.integers(len(places))])
    radius = float(rng.uniform(2.0, 6.5))
    box = box_around(chest.grid, centre, radius + 4)
    dx, dy, dz = offsets(chest.grid, box, centre)
    share = np.clip((radius - np.sqrt(dx**2 + dy**2 + dz**2)) / 2 + 0.5, 0, 1) * (chest.lungs[box] == side)
    brighten(image, box, share * rng.uniform(120, 800 - 90 * radius), most=40)


def _thicken_fissures(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> None:
    """Fissures a few millimetres thick in places, as where a little fluid lies in them."""
    line = np.zeros(chest.grid.shape, bool)
    for axis in (1, 2):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        first, second = chest.lobes[tuple(ahead)], chest.lobes[tuple(behind)]
        same = chest.lungs[tuple(ahead)] == chest.lungs[tuple(behind)]
        line[tuple(ahead)] |= (first != second) & same & (first > 0)
    soft = ndimage.gaussian_filter(line.astype(np.float32), [rng.uniform(1.0, 2.0) / s for s in chest.grid.spacing])
    places = np.clip(chest.coarse + rng.uniform(-0.8, 0.4), 0, 1)
    most = max(float(soft.max()), 1e-6)
    brighten(image, np.s_[:, :, :], rng.uniform(150, 450) * soft / most * places * (chest.lungs > 0), most=0)


def _mosaic(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> None:
    """Lobules that hold a little less air than their neighbours."""
    image += np.float32(rng.uniform(15, 45)) * np.clip(chest.coarse * 2 - 0.6, 0, 1) * (chest.lungs > 0)


def _patch(chest: Chest, rng: np.random.Generator, reach: float) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """A box somewhere in the lungs and a smooth bump in it, 0 to 1."""
    places = np.argwhere(chest.lungs[::4, ::4, ::3] > 0) * (4, 4, 3)
    centre = position(chest.grid, places[rng.integers(len(places))])
    box = box_around(chest.grid, centre, reach)
    dx, dy, dz = offsets(chest.grid, box, centre)
    return box, np.clip(1.5 * (1 - np.sqrt(dx**2 + dy**2 + dz**2) / reach), 0, 1)


def _blur(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> None:
    """Vessels doubled and smeared where the lung moved during the scan."""
    box, weight = _patch(chest, rng, float(rng.uniform(20, 40)))
    shift = [float(rng.normal(0, 3.0)) / s for s in chest.grid.spacing[:2]] + [0.0]
    view = image[box]
    moved = 0.5 * view + 0.5 * ndimage.shift(view, shift, order=1, mode="nearest")
    view += weight * (chest.lungs[box] > 0) * (moved - view)


def _grain(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> None:
    """A patch of coarser noise, as where arms or shoulders take the photons."""
    box, weight = _patch(chest, rng, float(rng.uniform(25, 50)))
    noise = ndimage.gaussian_filter(rng.standard_normal(weight.shape, dtype=np.float32), 0.7)
    view = image[box]
    view += weight * (chest.lungs[box] > 0) * noise * np.float32(rng.uniform(60, 160))

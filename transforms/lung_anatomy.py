"""Thoracic anatomy on a grid of about 3 mm: body, airways, lungs, their sides, and what lies in them.

Everything works on block means in the canonical order ``[slice, row, column]`` = S, P, L (feet to head, front to
back, patient's right to left). Sizes are in millimetres, so the same figures hold for any scanner. The steps follow
Hu, Hoffman and Reinhardt, "Automatic lung segmentation for accurate quantitation of volumetric X-ray CT images",
IEEE TMI 20 (2001) 490-498: air inside the body, large airways out, sides parted, border smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import edt
import numpy as np
from scipy import ndimage

AIR_MAX = -400.0
"""HU: below, a block is air or lung; half way between lung at -850 and soft tissue at 40."""

OPEN_AIR_MAX = -930.0
GAS_MAX = -920.0
"""HU: a block of gas (airways, bowel) lies below, as does some emphysema; gas has soft tissue around it."""

SMALLEST_PIECE_ML = 1.0
SEAM_REACH_MM = 45.0
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


def distance(mask: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """Distance in millimetres of every block to the nearest block of ``mask`` (infinite where there is none)."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return edt.edt(~mask, anisotropy=tuple(block_mm), parallel=0)


def grow(mask: np.ndarray, mm: float, block_mm: Sequence[float]) -> np.ndarray:
    """Dilate by a ball of radius ``mm``."""
    return distance(mask, block_mm) <= mm


def close(mask: np.ndarray, mm: float, block_mm: Sequence[float]) -> np.ndarray:
    """Close with a ball of radius ``mm``; the volume's border does not open it."""
    return distance(~grow(mask, mm, block_mm), block_mm) > mm


def inside_body(hu: np.ndarray) -> np.ndarray:
    """Blocks inside the body's outline, slice by slice; the table and air around the patient are outside."""
    tissue = hu > -300
    opened = ndimage.binary_opening(tissue, structure=IN_PLANE)
    labels, count = cc3d.connected_components(opened, connectivity=6, return_N=True)
    if count == 0:
        return np.zeros(hu.shape, bool)
    sizes = np.bincount(labels.ravel())[1:]
    core = labels == 1 + int(sizes.argmax())
    # The opening rounds the skin off and may cut thin walls: give the core its own tissue back.
    body = ndimage.binary_propagation(
        core, structure=IN_PLANE, mask=tissue & ndimage.binary_dilation(core, IN_PLANE, 2)
    )
    holes, count = ndimage.label(~body, structure=IN_PLANE)
    edge = np.zeros(hu.shape, bool)
    edge[:, [0, -1]] = True
    edge[:, :, [0, -1]] = True
    # A lung that the field of view cuts off at the side touches the edge too, but not as open air.
    outside = np.unique(holes[edge & (hu < OPEN_AIR_MAX)])
    is_outside = np.zeros(count + 1, bool)
    is_outside[outside] = True
    is_outside[0] = False
    return ~is_outside[holes]


def find_airways(hu: np.ndarray, inside: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """Trachea and main bronchi: followed from the head downwards, slice by slice, until they enter the lungs.

    A trachea is a round piece of gas of 0.5 to 9 cm2 within 4 cm of the body's midline with soft tissue around it.
    """
    dz, dy, dx = block_mm
    pixel = dy * dx
    gas = inside & (hu < GAS_MAX)
    lung_like = inside & (hu < AIR_MAX)
    airways = np.zeros(hu.shape, bool)
    below = 0.0
    for z in range(hu.shape[0] - 1, -1, -1):
        labels, count = ndimage.label(gas[z], structure=np.ones((3, 3)))
        above = ndimage.binary_dilation(airways[z + 1], iterations=1) if z + 1 < hu.shape[0] else None
        body = np.flatnonzero(inside[z].any(axis=0))
        if count == 0 or body.size == 0:
            continue
        middle = (body[0] + body[-1]) / 2
        following = above is not None and bool(above.any())
        pieces = []
        for index, box in enumerate(ndimage.find_objects(labels), start=1):
            piece = labels == index
            area = float(piece.sum()) * pixel
            if area > 900:
                continue
            height, width = (box[0].stop - box[0].start) * dy, (box[1].stop - box[1].start) * dx
            if following:
                if not (piece & above).any():
                    continue
            elif area < 50 or max(height, width) > 40 or abs((box[1].start + box[1].stop) / 2 - middle) * dx > 40:
                continue
            shell = ndimage.binary_dilation(piece, iterations=3) & ~ndimage.binary_dilation(piece, iterations=1)
            if lung_like[z][shell].mean() > 0.5:
                continue
            pieces.append(piece)
        if pieces:
            airways[z] = np.logical_or.reduce(pieces)
            below = below + dz if len(pieces) > 1 else 0.0
            if below > 60:
                break
    labels, count = cc3d.connected_components(airways, connectivity=26, return_N=True)
    # A trachea is long; short chains are sinuses, oesophageal air, bowel.
    for index in range(1, count + 1):
        piece = labels == index
        if np.count_nonzero(piece.any(axis=(1, 2))) * dz < min(25.0, 0.5 * dz * hu.shape[0]):
            airways[piece] = False
    return airways


def find_lungs(hu: np.ndarray, inside: np.ndarray, airways: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """Air of the lungs: what is left inside the body without airways, bowel gas and pockets of open air."""
    air = inside & (hu < AIR_MAX) & ~grow(airways, 1.2 * block_mm[2], block_mm)
    tissue = inside & (hu > -300)
    gas = inside & (hu < -940)
    enclosed = _enclosed_gas(gas, tissue, block_mm)
    if enclosed.any():
        air &= ~grow(enclosed, 2.2 * block_mm[2], block_mm) | airways
    labels, count = cc3d.connected_components(air, connectivity=6, return_N=True)
    lungs = np.zeros(count + 1, bool)
    if count == 0:
        return lungs[labels]
    ml = np.bincount(labels.ravel(), minlength=count + 1) * float(np.prod(block_mm)) / 1000
    open_air = ~inside
    beside = np.zeros(hu.shape, bool)
    beside[1:] |= open_air[:-1]
    beside[:-1] |= open_air[1:]
    pocket = np.bincount(labels[beside], minlength=count + 1) * float(np.prod(block_mm)) / 1000
    for index in np.flatnonzero(ml > SMALLEST_PIECE_ML):
        if index == 0 or pocket[index] > 0.02 * ml[index]:
            continue
        values = hu[labels == index]
        lungs[index] = np.median(values) > -960
    main = ml * lungs
    # A small piece is lung where it lies beside a large one (a recess, an island in a diseased lobe).
    large = lungs & (ml >= max(20.0, 0.1 * float(main.max())))
    small = lungs & ~large
    if small.any() and large.any():
        reach = grow(large[labels], 12.0, block_mm)
        touched = np.bincount(labels[reach], minlength=count + 1) * float(np.prod(block_mm)) / 1000
        lungs &= large | (touched > 0.5 * ml)
    return lungs[labels]


def _enclosed_gas(gas: np.ndarray, tissue: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """Gas that soft tissue surrounds (bowel, stomach, oesophagus), as opposed to emphysema, which lung surrounds."""
    labels, count = cc3d.connected_components(gas, connectivity=6, return_N=True)
    out = np.zeros(gas.shape, bool)
    if count == 0:
        return out
    ml = np.bincount(labels.ravel(), minlength=count + 1) * float(np.prod(block_mm)) / 1000
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if ml[index] < 0.3:
            continue
        wide = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in box)
        piece = labels[wide] == index
        shell = ndimage.binary_dilation(piece, IN_PLANE, 3) & ~ndimage.binary_dilation(piece, IN_PLANE, 2)
        if tissue[wide][shell].mean() > 0.6:
            out[wide] |= piece
    return out


def part_sides(lungs: np.ndarray, hu: np.ndarray, inside: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """Label the lungs 1 (patient's right) and 2 (left), uint8; where they touch, along the brightest seam."""
    columns = np.flatnonzero(inside.any(axis=(0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    labels, count = cc3d.connected_components(lungs, connectivity=6, return_N=True)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    order = [int(index) for index in np.argsort(sizes)[::-1][:2] if sizes[index]]
    spots = np.nonzero(labels)
    weight = np.bincount(labels[spots], weights=spots[2], minlength=count + 1)
    centre = weight / np.maximum(sizes, 1)
    apart = len(order) == 2 and sizes[order[1]] > 0.15 * sizes[order[0]]
    if apart and abs(centre[order[0]] - centre[order[1]]) * block_mm[2] > 50:
        right, left = sorted(order, key=lambda index: float(centre[index]))
        nearer = distance(labels == right, block_mm) <= distance(labels == left, block_mm)
        return np.where(lungs, np.where(nearer, 1, 2), 0).astype(np.uint8)
    on_right = np.arange(lungs.shape[2]) < middle
    share = np.count_nonzero(lungs & on_right) / np.count_nonzero(lungs)
    if share > 0.9 or share < 0.1:
        return (lungs * (1 if share > 0.5 else 2)).astype(np.uint8)
    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    seam = _seam(hu, (columns[0] + columns[-1]) / 2, block_mm)
    return np.where(lungs, np.where(np.arange(lungs.shape[2]) < seam[..., None], 1, 2), 0).astype(np.uint8)


def _seam(hu: np.ndarray, middle: float, block_mm: Sequence[float]) -> np.ndarray:
    """Column ``[slice, row]`` of the brightest way from front to back near the midline (dynamic programming)."""
    reach = max(2, round(SEAM_REACH_MM / block_mm[2]))
    start = max(0, round(middle) - reach)
    band = np.clip(hu[:, :, start : round(middle) + reach + 1], -900, 0)
    if band.shape[0] > 2:
        band = ndimage.uniform_filter1d(band, 3, axis=0)
    slices, rows, width = band.shape
    aside = np.abs(np.arange(width) + start - middle) * block_mm[2]
    best = np.zeros((slices, width), np.float32)
    came = np.zeros((rows, slices, width), np.int64)
    moves = range(-2, 3)
    for row in range(rows):
        if row:
            padded = np.pad(best, ((0, 0), (2, 2)), constant_values=np.inf)
            ways = np.stack([padded[:, 2 + move : 2 + move + width] + 40.0 * abs(move) for move in moves])
            choice = ways.argmin(axis=0)
            came[row] = choice - 2
            best = np.take_along_axis(ways, choice[None], axis=0)[0]
        best = best - band[:, row] + aside.astype(np.float32)
    seam = np.empty((slices, rows), np.int64)
    column = best.argmin(axis=1)
    every = np.arange(slices)
    for row in range(rows - 1, -1, -1):
        seam[:, row] = column
        column = column + came[row, every, column]
    return seam + start

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
from skimage.segmentation import watershed

AIR_MAX = -400.0
"""HU: below, a block is air or lung; half way between lung at -850 and soft tissue at 40."""

OPEN_AIR_MAX = -930.0
GAS_MAX = -920.0
"""HU: a block of gas (airways, bowel) lies below, as does some emphysema; gas has soft tissue around it."""

SMALLEST_PIECE_ML = 1.0
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
    air &= ~(grow(enclosed, 2.2 * block_mm[2], block_mm) & ~airways)
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
    """Label the lungs 1 (patient's right) and 2 (left); where they touch, along the brightest seam between them."""
    columns = np.flatnonzero(inside.any(axis=(0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    markers = _side_markers(lungs, middle, block_mm)
    if (markers == 1).any() and (markers == 2).any():
        depth = edt.edt(lungs, anisotropy=tuple(block_mm), parallel=0)
        return watershed(hu / 100.0 - depth, markers, mask=lungs).astype(np.uint8)
    return np.where(lungs, max(1, int(markers.max())), 0).astype(np.uint8)


def _side_markers(lungs: np.ndarray, middle: float, block_mm: Sequence[float]) -> np.ndarray:
    """One marker a lung: pieces of the deepest core that parts into a right and a left one."""
    depth = edt.edt(lungs, anisotropy=tuple(block_mm), parallel=0)
    markers = np.zeros(lungs.shape, np.int32)
    for mm in (0.0, 3.0, 6.0, 9.0, 12.0, 16.0, 20.0):
        core = depth > mm
        labels, count = cc3d.connected_components(core, connectivity=6, return_N=True)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        order = np.argsort(sizes)[::-1]
        if count == 0:
            break
        centres = {int(i): float(np.nonzero(labels == i)[2].mean()) for i in order[:2] if sizes[i]}
        ids = list(centres)
        both = len(ids) == 2 and sizes[ids[1]] > 0.15 * sizes[ids[0]]
        if both and abs(centres[ids[0]] - centres[ids[1]]) * block_mm[2] > 50:
            right, left = sorted(ids, key=centres.__getitem__)
            markers[labels == right] = 1
            markers[labels == left] = 2
            return markers
    x = np.arange(lungs.shape[2])[None, None, :] < middle
    markers[lungs & x] = 1
    markers[lungs & ~x] = 2
    share = float((markers == 1).sum()) / max(1, int(lungs.sum()))
    if share > 0.9:
        markers[markers == 2] = 0
    elif share < 0.1:
        markers[markers == 1] = 0
    return markers

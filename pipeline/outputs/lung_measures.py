"""Numbers read from the maps: volume of each lung, of the infection in each lung and slice, and HU inside both."""

from __future__ import annotations

from typing import Any

import numpy as np

from pneumonai.pipeline.outputs.views import axis_positions, display_turn

RIGHT, LEFT = 1, 2
"""Labels of the lung map."""

HU_EDGES = tuple(range(-1050, 225, 25))
"""Edges of the histogram's bins: 50 bins of 25 HU."""

GROUND_GLASS_HU = (-750, -300)
CONSOLIDATION_HU = (-300, 50)
"""Densities inside the infection, ``low <= HU < high``, on the histogram's edges; see :func:`infection_densities`."""

_PLANES_AT_ONCE = 16


def lung_measures(lungs: np.ndarray, voxel_ml: float | None) -> dict[str, float]:
    """Size of each lung.

    Args:
        lungs: uint8, any shape, 0 background, 1 right lung, 2 left lung.
        voxel_ml: millilitres of a voxel; None where unknown (pictures, assumed geometry).

    Returns:
        ``right_ml, left_ml, total_ml``; or ``right_pixels, left_pixels, total_pixels`` where no ml is known.
    """
    right = int(np.count_nonzero(lungs == RIGHT))
    left = int(np.count_nonzero(lungs == LEFT))
    if voxel_ml is None:
        return {"right_pixels": right, "left_pixels": left, "total_pixels": right + left}
    return {
        "right_ml": round(right * voxel_ml, 1),
        "left_ml": round(left * voxel_ml, 1),
        "total_ml": round((right + left) * voxel_ml, 1),
    }


def infection_measures(
    infection: np.ndarray, lungs: np.ndarray | None, voxel_ml: float | None
) -> dict[str, float | None]:
    """Size of the infection, and its share of each lung.

    Args:
        infection: uint8 or bool, 0 or 1.
        lungs: the lung map of the same shape, or None.
        voxel_ml: millilitres of a voxel; None where unknown.

    Returns:
        With lungs: ``right_percent, left_percent, total_percent`` of the lung's voxels (None for a lung that is not
        there), counted inside the lungs; without: ``percent_of_picture``. Where ml are known also ``total_ml`` (all
        infection) and, with lungs, ``right_ml, left_ml``.
    """
    marked = infection > 0
    total = int(np.count_nonzero(marked))
    measures: dict[str, float | None] = {}
    if voxel_ml is not None:
        measures["total_ml"] = round(total * voxel_ml, 2)
    if lungs is None:
        measures["percent_of_picture"] = _percent(total, infection.size)
        return measures
    inside_all, lung_all = 0, 0
    for name, label in (("right", RIGHT), ("left", LEFT)):
        lung = lungs == label
        inside, size = int(np.count_nonzero(lung & marked)), int(np.count_nonzero(lung))
        if voxel_ml is not None:
            measures[f"{name}_ml"] = round(inside * voxel_ml, 2)
        measures[f"{name}_percent"] = _percent(inside, size)
        inside_all, lung_all = inside_all + inside, lung_all + size
    measures["total_percent"] = _percent(inside_all, lung_all)
    return measures


def infection_profile(
    infection: np.ndarray, lungs: np.ndarray | None, affine: np.ndarray, *, assumed_geometry: bool = False
) -> list[dict[str, Any]]:
    """How much of each slice is infected, from the feet to the head.

    Args:
        infection: uint8 or bool, 0 or 1, ``[i, j, k]``.
        lungs: the lung map of the same shape, or None.
        affine: 4 x 4, voxel index -> millimetres, RAS+; slices lie along the axis nearest to the body's own.
        assumed_geometry: True where the affine is not from the file: then no position is given.

    Returns:
        In the shape of ``Result.slices``, one entry a slice that has lung (every slice where ``lungs`` is None):
        ``index`` counted from the feet, the volume's first slice 0; ``position_mm``, the DICOM z of the slice's
        middle; ``classes`` None; ``infection_percent`` of the lung's voxels, of the slice's where no lungs are.
    """
    turn, shown_affine = display_turn(affine, infection.shape)
    axis = int(np.flatnonzero(turn[:, 0] == 0)[0])
    if lungs is None:
        sizes = np.full(infection.shape[axis], infection.size // infection.shape[axis])
        marked = _counts_along(axis, infection)
    else:
        sizes, marked = _counts_along(axis, lungs), _counts_along(axis, infection, lungs)
    if turn[axis, 1] < 0:
        sizes, marked = sizes[::-1], marked[::-1]
    shown_shape = tuple(infection.shape[int(i)] for i in np.argsort(turn[:, 0]))
    start, step = axis_positions(shown_affine, shown_shape, 0)
    return [
        {
            "index": index,
            "position_mm": None if assumed_geometry else round(start + index * step, 3),
            "classes": None,
            "infection_percent": _percent(int(marked[index]), int(sizes[index]), 4),
        }
        for index in np.flatnonzero(sizes).tolist()
    ]


def infection_densities(image: np.ndarray, infection: np.ndarray) -> dict[str, Any]:
    """How dense the infection is: ground glass against consolidation.

    Ground glass is taken as -750 <= HU < -300, consolidation as -300 <= HU < 50. There is no standard; these are our
    choice among the usual ones of quantitative CT in COVID-19. That -300 HU parts the two best, of eight thresholds, is
    the finding of "Quantitative CT for detecting COVID-19 pneumonia in suspected cases", BMC Infectious Diseases 2021
    (doi:10.1186/s12879-021-06556-z). Below -750 HU is mostly aerated lung at the margin of a mask, above 50 HU mostly
    vessels filled with contrast, calcification or chest wall.

    Args:
        image: HU (a CT in Hounsfield units only, no picture), int16 or float, ``[i, j, k]``.
        infection: uint8 or bool of the same shape, 0 or 1.

    Returns:
        ``{"hu_histogram": ..., "ground_glass_percent": ..., "consolidation_percent": ...}``: the histogram as of
        :func:`hu_histogram`, and shares of the infection's voxels, None where there is no infection.
    """
    histogram = hu_histogram(image, infection)
    total = sum(histogram["counts"])

    def share(band: tuple[int, int]) -> float | None:
        first, last = (HU_EDGES.index(edge) for edge in band)
        return _percent(sum(histogram["counts"][first:last]), total)

    return {
        "hu_histogram": histogram,
        "ground_glass_percent": share(GROUND_GLASS_HU),
        "consolidation_percent": share(CONSOLIDATION_HU),
    }


def hu_histogram(image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """How the Hounsfield units inside a mask are spread.

    Args:
        image: HU, int16 or float, ``[i, j, k]``.
        mask: the lung map, or the infection, of the same shape: voxels above 0 count.

    Returns:
        ``{"edges": 51 numbers, -1050 to 200 in steps of 25, "counts": 50 integers}``; bins are half-open,
        ``edge <= HU < next edge``; values below and above are counted in the first and last bin.
    """
    counts = np.zeros(len(HU_EDGES) - 1, dtype=np.int64)
    # In the image's own memory order, some planes at a time, or the selection would jump through memory.
    order = _memory_order(image)
    image, mask = image.transpose(order), mask.transpose(order)
    low, width = HU_EDGES[0], HU_EDGES[1] - HU_EDGES[0]
    for start in range(0, len(image), _PLANES_AT_ONCE):
        values = image[start : start + _PLANES_AT_ONCE]
        inside = np.ascontiguousarray(mask[start : start + _PLANES_AT_ONCE]) > 0
        bins = np.floor_divide(values[inside].astype(np.float32) - low, width)
        counts += np.bincount(np.clip(bins, 0, counts.size - 1).astype(np.intp), minlength=counts.size)
    return {"edges": list(HU_EDGES), "counts": counts.tolist()}


def _counts_along(axis: int, *masks: np.ndarray) -> np.ndarray:
    """Voxels above 0 in every one of the masks, for each index along an axis; reads memory in its own order."""
    order = _memory_order(masks[0])
    place = int(np.flatnonzero(order == axis)[0])
    turned = [mask.transpose(order) for mask in masks]
    counts = np.zeros(masks[0].shape[axis], dtype=np.int64)
    for start in range(0, len(turned[0]), _PLANES_AT_ONCE):
        inside = np.ascontiguousarray(turned[0][start : start + _PLANES_AT_ONCE]) > 0
        for mask in turned[1:]:
            inside &= mask[start : start + _PLANES_AT_ONCE] > 0
        if place == 0:
            counts[start : start + len(inside)] = [np.count_nonzero(plane) for plane in inside]
        else:
            # At most 16 planes are summed, so that bytes hold it: many times faster than sums of int64.
            counts += inside.sum(axis=0, dtype=np.uint8).sum(axis=2 - place, dtype=np.int64)
    return counts


def _memory_order(array: np.ndarray) -> np.ndarray:
    """Axes from the one with the longest steps in memory to the one with the shortest."""
    return np.argsort([-abs(stride) for stride in array.strides], kind="stable")


def _percent(part: int, whole: int, digits: int = 2) -> float | None:
    return round(100.0 * part / whole, digits) if whole else None

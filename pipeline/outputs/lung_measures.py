"""Numbers read from the maps: volume of each lung, of the infection in each lung, and HU inside the lungs."""

from __future__ import annotations

from typing import Any

import numpy as np

RIGHT, LEFT = 1, 2
"""Labels of the lung map."""

HU_EDGES = tuple(range(-1050, 225, 25))
"""Edges of the histogram's bins: 50 bins of 25 HU."""

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


def hu_histogram(image: np.ndarray, lungs: np.ndarray) -> dict[str, Any]:
    """How the Hounsfield units inside both lungs are spread.

    Args:
        image: HU, int16 or float, ``[i, j, k]``.
        lungs: the lung map of the same shape.

    Returns:
        ``{"edges": 51 numbers, -1050 to 200 in steps of 25, "counts": 50 integers}``; bins are half-open,
        ``edge <= HU < next edge``; values below and above are counted in the first and last bin.
    """
    counts = np.zeros(len(HU_EDGES) - 1, dtype=np.int64)
    # In the image's own memory order, some planes at a time, or the selection would jump through memory.
    order = np.argsort([-abs(stride) for stride in image.strides], kind="stable")
    image, lungs = image.transpose(order), lungs.transpose(order)
    low, width = HU_EDGES[0], HU_EDGES[1] - HU_EDGES[0]
    for start in range(0, len(image), _PLANES_AT_ONCE):
        values = image[start : start + _PLANES_AT_ONCE]
        inside = np.ascontiguousarray(lungs[start : start + _PLANES_AT_ONCE]) > 0
        bins = np.floor_divide(values[inside].astype(np.float32) - low, width)
        counts += np.bincount(np.clip(bins, 0, counts.size - 1).astype(np.intp), minlength=counts.size)
    return {"edges": list(HU_EDGES), "counts": counts.tolist()}


def _percent(part: int, whole: int) -> float | None:
    return round(100.0 * part / whole, 2) if whole else None

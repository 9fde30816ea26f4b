"""From a heat map of a picture to boxes around what it marks, and how far they agree with a truth.

As MAG-SD localises infection ("Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images",
https://arxiv.org/abs/2012.02278, Section 4.4.6): a threshold on the map gives a mask, rectangles around its components
give boxes; the intersection over union scores either. Boxes are in pixels as displayed, origin top left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

#: Pixels that touch at a corner are one component.
_TOUCHING = np.ones((3, 3))


def marked_region(heat_map: np.ndarray, threshold: float) -> np.ndarray:
    """Where a map is at least ``threshold`` of its range, bool ``[row, column]``; nowhere in a map of zeros.

    Args:
        heat_map: uint8 ``[row, column]``, 0..255 for 0..1.
        threshold: above 0, at most 1.
    """
    return np.asarray(heat_map >= max(1, math.ceil(255 * threshold)))


def boxes_around(region: np.ndarray, heat_map: np.ndarray | None = None) -> list[dict[str, float]]:
    """The smallest rectangle around each component of a region.

    Args:
        region: bool ``[row, column]``.
        heat_map: uint8 of the same shape; each box's ``score`` is then its mean inside the component, 0..1, and the
            boxes come in falling order of it.

    Returns:
        ``[{"x", "y", "width", "height"}, ...]``, with ``score`` where a map is given.

    Examples:
        >>> boxes_around(np.array([[0, 1, 1], [0, 1, 0]]) > 0)
        [{'x': 1, 'y': 0, 'width': 2, 'height': 2}]
    """
    components, count = ndimage.label(region, structure=_TOUCHING)
    boxes: list[dict[str, float]] = []
    for rows, columns in ndimage.find_objects(components):
        box = {"x": columns.start, "y": rows.start}
        boxes.append(box | {"width": columns.stop - columns.start, "height": rows.stop - rows.start})
    if heat_map is None:
        return boxes
    means = ndimage.mean(heat_map, components, range(1, count + 1))
    scored = [box | {"score": round(float(mean) / 255, 4)} for box, mean in zip(boxes, means, strict=True)]
    return sorted(scored, key=lambda box: -box["score"])


def fill_boxes(boxes: Sequence[Mapping[str, float]], shape: Sequence[int]) -> np.ndarray:
    """All pixels whose centres lie in one of the boxes, uint8 of the picture's ``[rows, columns]``, 0 or 1."""
    filled = np.zeros(tuple(shape), np.uint8)
    for box in boxes:
        top, left = (max(0, math.ceil(box[key] - 0.5)) for key in ("y", "x"))
        bottom = math.ceil(box["y"] + box["height"] - 0.5)
        right = math.ceil(box["x"] + box["width"] - 0.5)
        filled[top:bottom, left:right] = 1
    return filled


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float | None:
    """Intersection over union of two regions of one shape, 0..1; None where both are empty."""
    one, two = first > 0, second > 0
    union = int(np.count_nonzero(one | two))
    return np.count_nonzero(one & two) / union if union else None


def agreement(heat_map: np.ndarray, threshold: float, truth: np.ndarray, *, of_boxes: bool) -> float | None:
    """Intersection over union of what a map marks with a truth, the map's own boxes where the truth is of boxes.

    Args:
        heat_map: uint8 ``[row, column]``, 0..255.
        threshold: of :func:`marked_region`.
        truth: ``[row, column]``, above 0 inside.
        of_boxes: the truth was drawn as boxes, so that boxes are compared with it.
    """
    marked = marked_region(heat_map, threshold)
    if of_boxes:
        marked = fill_boxes(boxes_around(marked), marked.shape) > 0
    return intersection_over_union(marked, truth)

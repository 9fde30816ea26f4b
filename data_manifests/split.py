"""Splits by patient, stratified by class: plain functions of items and a seed.

A unit is what must never cross parts: the images of one patient, else of one group (near duplicates, slices of one
volume), else one image. scikit-learn's ``StratifiedGroupKFold`` knows equal folds only, and the ratios 8:1:1 glued
together from its folds inherit the folds' errors three times; here the parts' own targets are met, and where every
unit is one image each class of each part lies within one image of its target.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonai.data_manifests.errors import ManifestError

Item = Mapping[str, Any]

#: Weight of the parts' whole sizes beside their classes': it decides between equals alone, so that the roundings of
#: many small classes do not all fall on one part.
WHOLE = 1e-3


def unit_of(item: Item) -> tuple[str, Hashable]:
    """What an item must not be parted from: ``("patient", id)``, else ``("group", name)``, else ``("image", path)``."""
    for kind, key in (("patient", "patient_id"), ("group", "group")):
        if item.get(key) not in (None, ""):
            return kind, item[key]
    image = item["image"]
    return "image", image if isinstance(image, str) else tuple(image)


def split_ratio(items: Sequence[Item], ratios: Sequence[float], seed: int = 0) -> list[int]:
    """The part of each item, so that the parts' sizes stand in the given ratio in every class.

    Args:
        items: datalist items; ``label`` is what is stratified by (any value; none is a class of its own).
        ratios: such as ``[8, 1, 1]``; 0 leaves a part empty.
        seed: the same seed gives the same parts, whatever the order of other items' keys.

    Returns:
        For each item 0, 1, ... ``len(ratios) - 1``; no unit has two of them.

    Raises:
        ManifestError: for ratios that are negative or all 0.
    """
    shares = np.asarray(ratios, dtype=float)
    if shares.ndim != 1 or not len(shares) or (shares < 0).any() or not np.isfinite(shares).all() or not shares.sum():
        raise ManifestError("split", f"ratios must be 0 or more and not all 0, got {list(ratios)}", "use 8:1:1, say")
    units, counts = _units(items)
    targets = np.outer(shares / shares.sum(), counts.sum(axis=0))
    parts = assign(counts, targets, seed)
    return [int(parts[unit]) for unit in units]


def split_folds(items: Sequence[Item], k: int, seed: int = 0) -> list[int]:
    """The fold 0 ... k - 1 of each item; as :func:`split_ratio` with k equal parts.

    Raises:
        ManifestError: for fewer than 2 folds or fewer units than folds.
    """
    if k < 2:
        raise ManifestError("split", f"folds must be 2 or more, got {k}", "use folds=5, say")
    units, counts = _units(items)
    if len(counts) < k:
        raise ManifestError(
            "split", f"{k} folds need {k} patients (or groups, or images), {len(counts)} are there", "use fewer folds"
        )
    return [int(part) for part in assign(counts, np.tile(counts.sum(axis=0) / k, (k, 1)), seed)[units]]


def assign(counts: NDArray[np.int64], targets: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Parts of units such that each part's class counts come near its targets.

    The units of a class are dealt out in order of size, always to the part that is furthest behind its share of what
    has been dealt: so every part gets its share of large and of small patients. Then single units move as long as
    that brings the counts nearer to the targets (sum of squares).

    Args:
        counts: ``[units, classes]``, images of each class in each unit.
        targets: ``[parts, classes]``; each column sums to that of ``counts``.
        seed: draws the order of units of one size.

    Returns:
        ``[units]``, the part of each.
    """
    weigh = np.sqrt(WHOLE)
    main, sizes = counts.argmax(axis=1), counts.sum(axis=1)
    drawn = np.random.default_rng(seed).permutation(len(counts))
    order = drawn[np.lexsort((-sizes[drawn], main[drawn]))]
    weights = np.column_stack([counts, weigh * sizes])
    targets = np.column_stack([targets, weigh * targets.sum(axis=1)])
    totals = weights.sum(axis=0)
    shares = targets / np.where(totals > 0, totals, 1)
    parts = np.zeros(len(counts), dtype=np.int64)
    dealt, given = np.zeros(len(totals)), np.zeros_like(targets)
    never = targets.sum(axis=1) <= 0
    for unit in order:
        dealt += weights[unit]
        behind = (shares * dealt - given) @ weights[unit]
        behind[never] = -np.inf
        # Rounding must not decide between equals, or the order of classes would.
        part = int(np.argmax(np.round(behind, 6)))
        parts[unit], given[part] = part, given[part] + weights[unit]
    return _refine(parts, weights, targets, never)


def _refine(
    parts: NDArray[np.int64], counts: NDArray[np.float64], targets: NDArray[np.float64], never: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Move units one at a time, the best move first, until none lowers the sum of squared deviations."""
    squares, rows = (counts**2).sum(axis=1), np.arange(len(counts))
    over = np.zeros_like(targets)
    np.add.at(over, parts, counts)
    over -= targets
    for _ in range(len(counts)):
        reach = counts @ over.T
        change = reach - reach[rows, parts][:, None] + squares[:, None]
        change[rows, parts] = 0
        change[:, never] = np.inf
        unit, part = np.unravel_index(int(np.argmin(change)), change.shape)
        if change[unit, part] > -1e-6:
            break
        over[parts[unit]] -= counts[unit]
        over[part] += counts[unit]
        parts[unit] = part
    return parts


def _units(items: Sequence[Item]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The unit's number of each item, ``[items]``, and the classes of each unit, ``[units, classes]``."""
    units: dict[tuple[str, Hashable], int] = {}
    labels: dict[str, int] = {}
    pairs = [
        (units.setdefault(unit_of(item), len(units)), labels.setdefault(str(item.get("label")), len(labels)))
        for item in items
    ]
    counts = np.zeros((len(units), len(labels)), dtype=np.int64)
    numbers = np.array([unit for unit, _ in pairs], dtype=np.int64)
    np.add.at(counts, (numbers, np.array([label for _, label in pairs], dtype=np.int64)), 1)
    return numbers, counts

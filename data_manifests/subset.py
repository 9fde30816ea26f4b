"""Smaller training parts of a datalist, each inside the next larger one; validation and test stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pneumonai.data_manifests.datalist import PARTS
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.split import Item, assign, unit_of

#: By how much of all images a wanted size may exceed the training part: parts are cut between patients.
SLACK = 0.01


def nested_subsets(
    items: Sequence[Item], percents: Sequence[float], seed: int = 0, *, total: int | None = None
) -> dict[float, list[Item]]:
    """Subsets of the training part, the smaller inside the larger, by patient and stratified by class.

    Args:
        items: the training items.
        percents: such as ``[80, 60, 40]``, over 0 to 100; the images of a subset come as near to it as whole
            patients allow.
        seed: draws who stays.
        total: how many images 100 % are; the items themselves when None. NL-RAN's Table III counts all scans, the
            test part too.

    Returns:
        For each percentage, in the given order, its items in their original order.

    Raises:
        ManifestError: for a percentage outside 0 to 100, or one that wants more images than there are.
    """
    if not items or not percents:
        raise ManifestError("subset", "no training items or no percentages", "give some of each")
    for percent in percents:
        if not 0 < percent <= 100:
            raise ManifestError("subset", f"percentages lie over 0 to 100, got {percent:g}", "use 80 60 40, say")
    whole = len(items) if total is None else total
    labels = sorted({str(item.get("label")) for item in items})
    column = {label: number for number, label in enumerate(labels)}
    full = np.bincount([column[str(item.get("label"))] for item in items], minlength=len(labels))
    kept, found = list(range(len(items))), {}
    for percent in sorted(set(percents), reverse=True):
        wanted = percent / 100 * whole
        if wanted > len(items) + SLACK * whole:
            raise ManifestError(
                "subset",
                f"{percent:g} % of {whole} images are {wanted:.0f}, the training part has {len(items)}",
                "ask for less, or count --of training",
            )
        kept = _thinned(items, kept, column, full * min(wanted / len(items), 1.0), seed)
        if not kept:
            raise ManifestError("subset", f"{percent:g} % leaves no image", "ask for more")
        found[percent] = [items[number] for number in kept]
    return {percent: found[percent] for percent in percents}


def _thinned(
    items: Sequence[Item], kept: list[int], column: Mapping[str, int], target: np.ndarray, seed: int
) -> list[int]:
    """Those of ``kept`` that stay so that the class counts come near ``target``."""
    units: dict[Any, int] = {}
    numbers = np.array([units.setdefault(unit_of(items[number]), len(units)) for number in kept])
    counts = np.zeros((len(units), len(column)), dtype=np.int64)
    np.add.at(counts, (numbers, np.array([column[str(items[number].get("label"))] for number in kept])), 1)
    present = counts.sum(axis=0)
    stay = np.minimum(target, present)
    parts = assign(counts, np.stack([stay, present - stay]), seed)
    return [number for number, unit in zip(kept, numbers, strict=True) if parts[unit] == 0]


def subset_datalists(
    content: Mapping[str, Any], percents: Sequence[float], seed: int = 0, *, of_all: bool = False
) -> dict[float, dict[str, Any]]:
    """Whole datalists with a thinned training part, each with a block ``pneumonai.subset``.

    The block says what was asked (``of``, ``percent``, ``seed``) and what it became (``images``,
    ``actual_percent``); ``of_all`` counts percentages of all items, not of the training part's.

    Raises:
        ManifestError: as :func:`nested_subsets`.
    """
    training = content.get("training", [])
    for number, item in enumerate(training):
        if not isinstance(item, Mapping) or "image" not in item:
            raise ManifestError(f"training[{number}]", "an item needs an entry 'image'", "add it")
    total = sum(len(content.get(part, [])) for part in PARTS) if of_all else len(training)
    found = {}
    for percent, items in nested_subsets(training, percents, seed, total=total).items():
        subset = {
            "of": "all" if of_all else "training",
            "percent": int(percent) if percent == int(percent) else percent,
            "actual_percent": round(100 * len(items) / total, 2),
            "images": len(items),
            "seed": seed,
        }
        block = {**content.get("pneumonai", {}), "subset": subset}
        found[percent] = {**content, "pneumonai": block, "training": items}
    return found

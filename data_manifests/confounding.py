"""Can the class be told without looking at the chest: from file size, dimensions, bit depth and borders alone?

Where it can, a network may learn the source of an image instead of the disease, and a score on images of the same
sources says little.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pneumonai.data_manifests.file_figures import FileFigures

WARN_ABOVE = 0.7
MIN_UNITS = 15
"""Patients (or groups, or images) that the smallest class needs: with fewer an AUC is mostly chance."""
FOLDS = 5
TRAITS = {
    "size_bytes": "file size",
    "height": "height in pixels",
    "width": "width in pixels",
    "depth": "number of slices",
    "aspect": "aspect ratio",
    "bits": "bit depth",
    "form": "file format",
    "black_border": "width of black borders",
    "white_border": "width of white borders",
    "frame_grey": "mean grey at the edges",
    "pixel_mm": "pixel spacing",
    "slice_mm": "slice spacing",
}


@dataclass(frozen=True, slots=True)
class Confounding:
    """How well the class can be told from traits of the files.

    Attributes:
        auc: cross-validated area under the ROC curve (mean over one class against the rest), or None.
        trait: the one that alone tells most, in words; None where no AUC is.
        trait_auc: its own cross-validated AUC.
        medians: of that trait, by class; empty for the file format.
        units: patients (or groups, or images) that counted.
        reason: why there is no AUC, in words.
    """

    auc: float | None
    trait: str | None = None
    trait_auc: float | None = None
    medians: Mapping[str, float] | None = None
    units: int = 0
    reason: str | None = None


def class_from_traits(
    figures: Sequence[FileFigures], labels: Sequence[str], units: Sequence[Hashable], *, seed: int = 0
) -> Confounding:
    """Cross-validated AUC of a random forest on the traits, by unit, and of a small tree on each trait alone.

    Args:
        figures: of the readable images.
        labels: their classes.
        units: patient, group or image of each; one unit never trains and tests.
        seed: of the folds and the forest.

    Returns:
        The AUC, or the reason why there is none (one class, too few units of a class).
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    names = sorted(set(labels))
    if len(names) < 2:
        return Confounding(None, reason="all images have one class")
    per_class = {name: len({u for u, label in zip(units, labels, strict=True) if label == name}) for name in names}
    total = len(set(units))
    least = min(per_class, key=lambda name: per_class[name])
    if per_class[least] < MIN_UNITS:
        reason = f"too few: {per_class[least]} patients, groups or images of {least}, {MIN_UNITS} are needed"
        return Confounding(None, units=total, reason=reason)
    table = _traits(figures)
    varying = [t for t, column in table.items() if len(np.unique(column[np.isfinite(column)])) > 1]
    if not varying:
        return Confounding(0.5, "none: all files have the same traits", 0.5, {}, total)
    classes = np.array([names.index(label) for label in labels])
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    groups = np.array([numbers[unit] for unit in units])
    splits = _splits(classes, groups, seed)
    leaf = max(3, len(labels) // 100)
    tree = DecisionTreeClassifier(min_samples_leaf=leaf, max_leaf_nodes=16, random_state=seed)
    alone = {t: _auc(tree, table[t][:, None], classes, splits) for t in varying}
    best = max(alone, key=lambda trait: alone[trait])
    forest = RandomForestClassifier(
        100, min_samples_leaf=3, max_samples=min(1.0, 4000 / len(labels)), random_state=seed
    )
    together = _auc(forest, np.column_stack([table[t] for t in varying]), classes, splits)
    middle = {name: float(np.median(table[best][classes == number])) for number, name in enumerate(names)}
    medians = {} if best == "form" else {name: value for name, value in middle.items() if np.isfinite(value)}
    return Confounding(round(together, 3), TRAITS[best], round(alone[best], 3), medians, total)


def _traits(figures: Sequence[FileFigures]) -> dict[str, np.ndarray]:
    """Each trait of each file; NaN where it has none."""
    nan = float("nan")
    forms = {form: number for number, form in enumerate(sorted({f.form for f in figures}))}
    rows = []
    for f in figures:
        flat = len(f.shape) == 2
        height, width = (f.shape[0], f.shape[1]) if flat else (f.shape[1], f.shape[0])
        rows.append(
            {
                "size_bytes": f.size_bytes,
                "height": height,
                "width": width,
                "depth": nan if flat else f.shape[2],
                "aspect": width / max(height, 1),
                "bits": f.bits,
                "form": forms[f.form],
                "black_border": f.black_border,
                "white_border": f.white_border,
                "frame_grey": f.frame_grey,
                "pixel_mm": f.spacing[0] if len(f.spacing) == 3 else nan,
                "slice_mm": f.spacing[2] if len(f.spacing) == 3 else nan,
            }
        )
    return {trait: np.array([row[trait] for row in rows], dtype=float) for trait in TRAITS}


def _splits(classes: np.ndarray, groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(len(classes)), classes, groups))


def _auc(
    model: object, values: np.ndarray, classes: np.ndarray, splits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float:
    """Mean over the folds, and over one class against the rest, of the area under the ROC curve."""
    from sklearn.base import clone
    from sklearn.metrics import roc_auc_score

    areas = []
    for train, test in splits:
        fitted = clone(model).fit(values[train], classes[train])
        scores = fitted.predict_proba(values[test])
        for column, name in enumerate(fitted.classes_):
            truth = classes[test] == name
            if 0 < truth.sum() < len(truth):
                areas.append(roc_auc_score(truth, scores[:, column]))
    return float(np.mean(areas)) if areas else 0.5

"""How well a score follows raters' scores, with intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from pneumonai.pipeline.metrics.resampling import bootstrap_record, draw_patients, patient_index, score

AGREEMENT = ("spearman", "pearson", "determination", "squared_pearson")


def score_agreement(
    found: Sequence[float],
    truth: Sequence[float],
    patient_ids: Sequence[str | None] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Correlation of a score with its truth, and how much of the truth's variance the score itself accounts for.

    Args:
        found: scores ``[N]``.
        truth: the raters' scores ``[N]``, on the same scale.
        patient_ids: an id an image; every image is its own patient when None.
        resamples: bootstrap samples by patient.
        seed: of the bootstrap.

    Returns:
        ``n_images, n_patients, bootstrap`` and for ``spearman``, ``pearson``, ``determination`` (R squared, 1 - sum of
        squared errors / sum of squares about the mean, of the score as it is: below 0 where the mean would do better)
        and ``squared_pearson`` (r squared, of the best line through it) ``{"value", "interval"}``; the value is None
        where one of the scores does not vary.

    Raises:
        ValueError: fewer than three images, or numbers of scores that differ.
    """
    one, two = np.asarray(found, float), np.asarray(truth, float)
    if one.shape != two.shape or one.ndim != 1 or len(one) < 3:
        raise ValueError(f"as many scores as truths, at least 3, are required, got {len(one)} and {len(two)}")
    patients, count = patient_index(patient_ids, len(one))
    values = _agreement(one, two)
    samples = [
        _agreement(one[drawn], two[drawn])
        for weights in draw_patients(count, resamples if count > 1 else 0, seed, width=len(one))
        for drawn in (np.repeat(np.arange(len(one)), row[patients].astype(int)) for row in weights)
    ]
    columns = np.array(samples).T if samples else [None] * len(AGREEMENT)
    return {
        "n_images": len(one),
        "n_patients": count,
        "bootstrap": bootstrap_record(count, len(one), resamples, seed),
        **{name: score(value, column) for name, value, column in zip(AGREEMENT, values, columns, strict=True)},
    }


def rank_correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Spearman's correlation of two arrays of one shape; nan where one of them does not vary."""
    return _correlation(rankdata(one, axis=None), rankdata(two, axis=None))


def _agreement(found: np.ndarray, truth: np.ndarray) -> list[float]:
    pearson = _correlation(found, truth)
    total = float(((truth - truth.mean()) ** 2).sum())
    determination = 1 - float(((truth - found) ** 2).sum()) / total if total > 0 else float("nan")
    return [rank_correlation(found, truth), pearson, determination, pearson**2]


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    first, second = one - one.mean(), two - two.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    # Rounding leaves equal values a spread that is not quite 0.
    return float((first * second).sum() / size) if np.ptp(one) > 0 and np.ptp(two) > 0 else float("nan")

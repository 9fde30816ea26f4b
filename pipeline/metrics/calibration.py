"""How far the probabilities can be believed: confidence against accuracy, bin by bin."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15
"""Bins of equal width over the confidence 0..1, ``low <= confidence < high``; the last one holds 1 too."""


def confidence_bins(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The confidence (highest probability) of each answer, and the bin that it falls into; both ``[N]``."""
    confidence = probabilities.max(axis=1)
    return confidence, np.minimum((confidence * BINS).astype(int), BINS - 1)


def calibration_error(gaps: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Expected calibration error: the mean over images of their bin's ``|accuracy - mean confidence|``.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3, with 15 bins of equal width.

    Args:
        gaps: sum of ``hit - confidence`` of each bin, ``[..., BINS]``.
        images: number of images, ``[...]``.
    """
    return np.abs(gaps).sum(axis=-1) / images


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """The reliability diagram's numbers.

    Args:
        labels: true class indices, ``[N]``.
        probabilities: ``[N, C]``.

    Returns:
        A bin each: ``low, high, n, confidence, accuracy``; the last two are means, None in an empty bin.
    """
    confidence, bins = confidence_bins(probabilities)
    hits = probabilities.argmax(axis=1) == labels
    count = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, hits)]
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "n": int(count[b]),
            "confidence": float(sums[0][b] / count[b]) if count[b] else None,
            "accuracy": float(sums[1][b] / count[b]) if count[b] else None,
        }
        for b in range(BINS)
    ]

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


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """The temperature that makes probabilities the most likely, and the probabilities under it.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: softmax(logits / T); the logarithms of
    probabilities serve as logits, from which they differ by a constant a row. The order of classes stays.

    Args:
        labels: true class indices, ``[N]``.
        probabilities: ``[N, C]``, those of validation data.

    Returns:
        T within 0.05..20, and ``[N, C]``.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = np.log(np.clip(probabilities, np.finfo(float).tiny, 1.0))
    rows = np.arange(len(labels))

    def surprise(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    found = minimize_scalar(surprise, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    temperature = float(np.exp(found.x))
    return temperature, np.exp(log_softmax(logits / temperature, axis=1))


def referral_threshold(
    labels: np.ndarray, probabilities: np.ndarray, *, target: float = 0.95, least: float = 0.5, fewest: int = 20
) -> float | None:
    """The lowest confidence above which answers are right as often as wanted; the others go to a reader.

    Args:
        labels: true class indices, ``[N]``.
        probabilities: calibrated, ``[N, C]``, those of validation data.
        target: accuracy wanted of the answers at or above the threshold.
        least: no threshold below this.
        fewest: answers that must remain, for the accuracy to mean something.

    Returns:
        The threshold; None where none does it.

    Examples:
        >>> referral_threshold(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]), fewest=1)
        0.8
    """
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    for threshold in np.unique(np.maximum(confidence, least)):
        kept = confidence >= threshold
        if kept.sum() < fewest:
            return None
        if hits[kept].mean() >= target:
            return float(threshold)
    return None

"""The bootstrap by patient that stands behind every interval: patients are drawn, and all their images with them.

Images of one patient resemble each other; an interval that draws single images would be too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95
"""Of every interval: the percentiles 2.5 and 97.5 of the resampled scores."""

# Elements of a block of weights: small enough to stay in the processor's cache.
_BLOCK = 1 << 18


def patient_index(patient_ids: Sequence[str | None] | None, count: int) -> tuple[np.ndarray, int]:
    """Number the patients of ``count`` images.

    Args:
        patient_ids: an id an image; an image with an empty id (or None) is its own patient. All are when None.
        count: how many images there are.

    Returns:
        The number of each image's patient ``[count]`` (0, 1, ... in order of appearance), and how many there are.

    Raises:
        ValueError: not one id an image.
    """
    if patient_ids is None:
        return np.arange(count), count
    if len(patient_ids) != count:
        raise ValueError(f"one patient id an image is required, got {len(patient_ids)} for {count} images")
    numbers: dict[Any, int] = {}
    keys = [("image", n) if p is None or p == "" else ("patient", str(p)) for n, p in enumerate(patient_ids)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.intp), len(numbers)


def draw_patients(patients: int, resamples: int, seed: int, *, width: int | None = None) -> Iterator[np.ndarray]:
    """How often each patient is drawn, resample by resample, a block of resamples at a time.

    The same arguments give the same draws, so that two models are compared on the same resamples.

    Args:
        patients: how many there are; each resample draws as many, with replacement.
        resamples: how many resamples in all.
        seed: of the draws.
        width: columns of the widest array that the caller makes of a block (images, say); bounds the block's rows.

    Yields:
        Counts ``[rows, patients]``, float64; each row sums to ``patients``.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // max(patients, width or 0, 1))
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = generator.integers(patients, size=(block, patients)) + np.arange(block)[:, None] * patients
        counts = np.bincount(drawn.ravel(), minlength=block * patients)
        yield counts.reshape(block, patients).astype(float)


def sum_by_patient(values: np.ndarray, patients: np.ndarray, count: int) -> np.ndarray:
    """Sum the rows of ``values`` ``[N, S]`` over the images of each patient: ``[count, S]``."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, patients, values)
    return sums


def resampled_means(
    values: np.ndarray, patient_ids: Sequence[str | None] | None, *, resamples: int = 2000, seed: int = 0
) -> np.ndarray | None:
    """The mean over images in each resample of their patients.

    Args:
        values: of the images, ``[N]``, all finite.
        patient_ids: see :func:`patient_index`.
        resamples: how many; without any, or with fewer than two patients, there is nothing to say.
        seed: of the draws.

    Returns:
        ``[resamples]``, or None.
    """
    patients, count = patient_index(patient_ids, len(values))
    if count < 2 or resamples < 1:
        return None
    sums = sum_by_patient(np.column_stack([values, np.ones(len(values))]), patients, count)
    totals = np.concatenate([weights @ sums for weights in draw_patients(count, resamples, seed)])
    means: np.ndarray = totals[:, 0] / totals[:, 1]
    return means


def interval(samples: np.ndarray | None) -> list[float] | None:
    """The percentiles 2.5 and 97.5 of resampled scores.

    Resamples in which the score is not defined (nan) are left out; None where no resample defines it.
    """
    defined = None if samples is None else samples[np.isfinite(samples)]
    if defined is None or not len(defined):
        return None
    tail = 50.0 * (1.0 - LEVEL)
    return [float(bound) for bound in np.percentile(defined, [tail, 100.0 - tail])]


def score(value: float, samples: np.ndarray | None) -> dict[str, Any]:
    """A score as every report holds it: ``{"value": v, "interval": [low, high]}``, both None where v is nan."""
    if not np.isfinite(value):
        return {"value": None, "interval": None}
    return {"value": float(value), "interval": interval(samples)}


def is_score(entry: Any) -> bool:
    """Whether an entry of a report is a score."""
    return isinstance(entry, dict) and entry.keys() == {"value", "interval"}


def bootstrap_record(patients: int, images: int, resamples: int, seed: int) -> dict[str, Any]:
    """What a report says about its intervals."""
    return {
        "method": "percentile bootstrap",
        "unit": "patient" if patients < images else "image",
        "level": LEVEL,
        "resamples": resamples,
        "seed": seed,
    }

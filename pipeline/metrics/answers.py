"""Answers of a classifier beside the truth, and their scores under any weighting of the patients.

:meth:`Answers.scores` takes the values from scikit-learn. :meth:`Answers.resampled_scores` computes the same scores
for thousands of bootstrap resamples at once, where a call of scikit-learn a resample would take minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pneumonai.pipeline.metrics.calibration import BINS, calibration_error, confidence_bins
from pneumonai.pipeline.metrics.resampling import draw_patients, patient_index, sum_by_patient

CLASS_SCORES = ("precision", "recall", "specificity", "f1", "auc", "average_precision")
"""Scores of one class against the rest."""

_SMALLEST = np.finfo(float).eps


class ScoreKey(NamedTuple):
    """Which score: its name, and the index of its class (None for a score of all classes)."""

    name: str
    class_index: int | None = None


class Answers:
    """Labels, probabilities and patients of the same images.

    Args:
        labels: true class indices, ``[N]``, 0 to C - 1.
        probabilities: ``[N, C]``, C at least 2, rows sum to 1.
        patient_ids: N ids; an image with an empty id is its own patient, and all are when None.

    Raises:
        ValueError: for no images, shapes that do not fit, labels out of range, or rows that are no probabilities.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        probabilities: np.ndarray,
        patient_ids: Sequence[str | None] | None = None,
    ) -> None:
        self.labels = np.asarray(labels, dtype=int)
        self.probabilities = np.asarray(probabilities, dtype=float)
        _check(self.labels, self.probabilities)
        self.predicted = self.probabilities.argmax(axis=1)
        self.images, self.classes = self.probabilities.shape
        self.patients, self.patient_count = patient_index(patient_ids, self.images)
        self._sums: np.ndarray | None = None

    @property
    def support(self) -> np.ndarray:
        """Images of each class, ``[C]``."""
        return np.bincount(self.labels, minlength=self.classes)

    def scores(self) -> dict[ScoreKey, float]:
        """Every score; nan where it is not defined (see :func:`classification_report`)."""
        from sklearn.metrics import (
            accuracy_score,
            average_precision_score,
            cohen_kappa_score,
            confusion_matrix,
            log_loss,
            roc_auc_score,
        )

        names = list(range(self.classes))
        confusion = confusion_matrix(self.labels, self.predicted, labels=names).astype(float)
        tables = _from_confusion(confusion)
        for name, ranked in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
            tables[name] = np.full(self.classes, np.nan)
            for c in np.flatnonzero(self.support):
                if name == "average_precision" or self.support[c] < self.images:
                    tables[name][c] = ranked(self.labels == c, self.probabilities[:, c])
        single = len(np.unique([self.labels, self.predicted])) == 1
        confidence, bins = confidence_bins(self.probabilities)
        gaps = np.bincount(bins, weights=(self.predicted == self.labels) - confidence, minlength=BINS)
        means = {key: float(value) for key, value in _flatten(tables, self.support).items()}
        return means | {
            ScoreKey("accuracy"): float(accuracy_score(self.labels, self.predicted)),
            ScoreKey("kappa"): np.nan if single else float(cohen_kappa_score(self.labels, self.predicted)),
            ScoreKey("brier"): float(self._brier().mean()),
            ScoreKey("negative_log_likelihood"): float(log_loss(self.labels, self._clipped(), labels=names)),
            ScoreKey("ece"): float(calibration_error(gaps, np.array(self.images))),
        }

    def resampled_scores(self, resamples: int, seed: int, *, ranks: bool = True) -> dict[ScoreKey, np.ndarray]:
        """Every score in each of ``resamples`` bootstrap resamples of the patients, ``[resamples]``.

        The time grows with ``resamples * images * classes`` (AUC and average precision); the rest is cheap.

        Args:
            resamples: how many.
            seed: of the draws; equal seeds draw the same patients.
            ranks: with AUC and average precision.
        """
        blocks = list(self._blocks(resamples, seed, ranks))
        return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]} if blocks else {}

    def _blocks(self, resamples: int, seed: int, ranks: bool) -> Iterator[dict[ScoreKey, np.ndarray]]:
        orders = [np.argsort(-self.probabilities[:, c], kind="stable") for c in range(self.classes)] if ranks else []
        for weights in draw_patients(self.patient_count, resamples, seed, width=self.images):
            yield self._weighted_scores(weights, orders)

    def _weighted_scores(self, weights: np.ndarray, orders: list[np.ndarray]) -> dict[ScoreKey, np.ndarray]:
        sums = weights @ self._patient_sums()
        cells = self.classes**2
        confusion = sums[:, :cells].reshape(-1, self.classes, self.classes)
        tables = _from_confusion(confusion)
        if orders:
            ranked = [self._weighted_ranks(weights, order, c) for c, order in enumerate(orders)]
            tables["auc"], tables["average_precision"] = (np.stack(t, axis=-1) for t in zip(*ranked, strict=True))
        support, images = confusion.sum(axis=2), confusion.sum(axis=(1, 2))
        agreed = np.trace(confusion, axis1=1, axis2=2) / images
        chance = (support * confusion.sum(axis=1)).sum(axis=1) / images**2
        return _flatten(tables, support) | {
            ScoreKey("accuracy"): agreed,
            ScoreKey("kappa"): _ratio(agreed - chance, 1 - chance),
            ScoreKey("brier"): sums[:, cells] / images,
            ScoreKey("negative_log_likelihood"): sums[:, cells + 1] / images,
            ScoreKey("ece"): calibration_error(sums[:, cells + 2 :], images),
        }

    def _weighted_ranks(
        self, weights: np.ndarray, order: np.ndarray, class_index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """AUC (a tie counts half) and average precision of one class in each row of ``weights``."""
        drawn = weights[:, self.patients[order]]
        ranked = self.probabilities[order, class_index]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        hits = np.cumsum(drawn * (self.labels[order] == class_index), axis=1)[:, ends]
        above = np.cumsum(drawn, axis=1)[:, ends]
        steps = np.diff(hits, axis=1, prepend=0.0)
        misses = above - hits
        # Trapezoids under the curve of hits over misses, one a group of equal probabilities.
        area = (np.diff(misses, axis=1, prepend=0.0) * (hits - 0.5 * steps)).sum(axis=1)
        positives, negatives = hits[:, -1], misses[:, -1]
        precision = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
        return _ratio(area, positives * negatives), _ratio((steps * precision).sum(axis=1), positives)

    def _patient_sums(self) -> np.ndarray:
        """Sums a patient of what the scores are made of: confusion matrix, Brier, log likelihood, gap a bin."""
        if self._sums is None:
            confidence, bins = confidence_bins(self.probabilities)
            gaps = np.eye(BINS)[bins] * ((self.predicted == self.labels) - confidence)[:, None]
            cells = np.eye(self.classes**2)[self.labels * self.classes + self.predicted]
            surprise = -np.log(self._clipped()[np.arange(self.images), self.labels])
            columns = np.column_stack([cells, self._brier(), surprise, gaps])
            self._sums = sum_by_patient(columns, self.patients, self.patient_count)
        return self._sums

    def _brier(self) -> np.ndarray:
        return ((self.probabilities - np.eye(self.classes)[self.labels]) ** 2).sum(axis=1)

    def _clipped(self) -> np.ndarray:
        """The probabilities as the log likelihood takes them: no zeros, rows that sum to 1 exactly."""
        clipped = np.clip(self.probabilities, _SMALLEST, 1.0)
        return clipped / clipped.sum(axis=1, keepdims=True)


def _check(labels: np.ndarray, probabilities: np.ndarray) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"labels [N] and probabilities [N, C] required, got {labels.shape} and {probabilities.shape}")
    if not len(labels):
        raise ValueError("at least one image is required, got none")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels 0 to {probabilities.shape[1] - 1} required, got {labels.min()} to {labels.max()}")
    rows = np.flatnonzero(~(np.abs(probabilities.sum(axis=1) - 1) < 1e-3) | ~(probabilities >= 0).all(axis=1))
    if len(rows):
        raise ValueError(f"rows of probabilities must be 0..1 and sum to 1; row {rows[0]} is {probabilities[rows[0]]}")


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, nan where ``below`` is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def _from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, specificity and F1 of each class ``[..., C]`` from matrices ``[..., C, C]`` (rows: truth)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    negatives = confusion.sum(axis=(-2, -1))[..., None] - support
    precision = np.where((predicted == 0) & (support > 0), 0.0, _ratio(hits, predicted))
    return {
        "precision": precision,
        "recall": _ratio(hits, support),
        "specificity": _ratio(negatives - (predicted - hits), negatives),
        "f1": _ratio(2 * hits, support + predicted),
    }


def _flatten(tables: dict[str, np.ndarray], support: np.ndarray) -> dict[ScoreKey, np.ndarray]:
    """Scores of the classes, and their means over the classes that occur, plain and weighted by support."""
    scores = {ScoreKey(name, c): table[..., c] for name, table in tables.items() for c in range(table.shape[-1])}
    occurs = support > 0
    present = {name: np.where(occurs, table, 0.0) for name, table in tables.items()}
    for name, table in present.items():
        scores[ScoreKey(f"macro_{name}")] = table.sum(axis=-1) / occurs.sum(axis=-1)
    for name, key in _WEIGHTED.items():
        if name in present:
            scores[ScoreKey(key)] = (present[name] * support).sum(axis=-1) / support.sum(axis=-1)
    precision, recall = scores[ScoreKey("weighted_precision")], scores[ScoreKey("weighted_recall")]
    harmonic = np.divide(2 * precision * recall, precision + recall, out=np.zeros_like(recall), where=recall > 0)
    return scores | {ScoreKey("weighted_f1_harmonic"): harmonic}


_WEIGHTED = {
    "precision": "weighted_precision",
    "recall": "weighted_recall",
    "f1": "weighted_f1_mean_of_classes",
    "auc": "weighted_auc",
}

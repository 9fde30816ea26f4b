"""Scores of classification, each accuracy with the interval that the number of patients allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score


def classification_report(
    labels: Sequence[int] | np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    patient_ids: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy with a 95 % interval, figures a class, AUC and confusion matrix.

    Args:
        labels: true class indices, ``[N]``.
        probabilities: ``[N, C]``, rows sum to 1.
        class_names: C names in index order.
        patient_ids: N ids; the bootstrap draws patients, not images. Each image is its own patient when None.
        resamples: bootstrap samples of the interval (percentiles 2.5 and 97.5).
        seed: of the bootstrap.

    Returns:
        ``n, accuracy, accuracy_interval, auc`` (one against the rest, weighted by support; None where a class is
        absent), ``classes`` (name -> precision, recall, f1, support; 0 where undefined) and ``confusion_matrix``
        (rows: truth).
    """
    truth = np.asarray(labels, dtype=int)
    probabilities = np.asarray(probabilities, dtype=float)
    indices = list(range(len(class_names)))
    predicted = probabilities.argmax(axis=1)
    correct = predicted == truth
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=indices, zero_division=0.0
    )
    return {
        "n": len(truth),
        "accuracy": float(correct.mean()),
        "accuracy_interval": _bootstrap_interval(correct, patient_ids, resamples, seed),
        "auc": _weighted_auc(truth, probabilities, indices),
        "classes": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(class_names)
        },
        "confusion_matrix": confusion_matrix(truth, predicted, labels=indices).tolist(),
    }


def _bootstrap_interval(
    correct: np.ndarray, patient_ids: Sequence[str] | None, resamples: int, seed: int
) -> list[float]:
    _, patient = np.unique(range(len(correct)) if patient_ids is None else patient_ids, return_inverse=True)
    hits = np.bincount(patient, weights=correct)
    images = np.bincount(patient)
    drawn = np.random.default_rng(seed).integers(len(images), size=(resamples, len(images)))
    accuracies = hits[drawn].sum(axis=1) / images[drawn].sum(axis=1)
    return [float(bound) for bound in np.percentile(accuracies, [2.5, 97.5])]


def _weighted_auc(truth: np.ndarray, probabilities: np.ndarray, indices: list[int]) -> float | None:
    if len(np.unique(truth)) < len(indices):
        return None
    if len(indices) == 2:
        return float(roc_auc_score(truth, probabilities[:, 1]))
    return float(roc_auc_score(truth, probabilities, multi_class="ovr", average="weighted", labels=indices))

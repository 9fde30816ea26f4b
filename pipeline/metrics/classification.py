"""The classification report of every bundle: scores, each with the interval that the number of patients allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pneumonai.pipeline.metrics.answers import CLASS_SCORES, Answers, ScoreKey
from pneumonai.pipeline.metrics.calibration import reliability_bins
from pneumonai.pipeline.metrics.resampling import bootstrap_record, score

OVERALL_SCORES = (
    "accuracy",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1_mean_of_classes",
    "weighted_f1_harmonic",
    "weighted_auc",
    *(f"macro_{name}" for name in CLASS_SCORES),
    "kappa",
    "ece",
    "brier",
    "negative_log_likelihood",
)
"""Scores of all classes together, as a report names them."""

_SHORT_NAMES = {
    "precision": "weighted_precision",
    "recall": "weighted_recall",
    "f1": "weighted_f1_mean_of_classes",
    "auc": "weighted_auc",
    "specificity": "macro_specificity",
    "average_precision": "macro_average_precision",
}


def classification_report(
    labels: Sequence[int] | np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    patient_ids: Sequence[str | None] | None = None,
    positive: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of a classifier, ready for JSON.

    The answer to an image is its most probable class (of equal ones the first). Every score has the form
    ``{"value": v, "interval": [low, high]}``; the interval is the 95 % percentile bootstrap by patient. Resamples in
    which a score is not defined are left out of its interval, and with one patient there is none (None).

    Scores of a class against the rest (``classes``: name -> ``support`` and these):

    - ``precision``: 0, by convention, for a class that occurs but is never answered; None for one that does neither.
    - ``recall`` (sensitivity): None where the class does not occur.
    - ``specificity``: None where nothing else occurs.
    - ``f1`` = 2 TP / (2 TP + FP + FN): None for a class that neither occurs nor is answered.
    - ``auc`` (a tie counts half): None unless the class and the rest occur.
    - ``average_precision`` (scikit-learn's sum over steps): None where the class does not occur.

    Scores of all classes; means run over the classes that occur, and are None where one of their parts is:

    - ``accuracy``.
    - ``macro_SCORE``: plain mean of each score above; ``macro_recall`` is the mean sensitivity.
    - ``weighted_precision, weighted_recall, weighted_auc``: means weighted by support, as NL-RAN has them (eqs. 9, 10);
      ``weighted_recall`` equals the accuracy.
    - ``weighted_f1_mean_of_classes``: mean of the classes' F1, weighted by support; what NL-RAN prints.
    - ``weighted_f1_harmonic``: harmonic mean of ``weighted_precision`` and ``weighted_recall``; NL-RAN's eq. 11.
    - ``kappa``: Cohen's; None where truth and answers are all of one class.
    - ``ece``: expected calibration error over 15 bins of equal width of the highest probability; its interval lies
      high, because resampling adds noise to every bin.
    - ``brier``: mean over images of the sum over classes of ``(p - [class is true])^2``, 0..2.
    - ``negative_log_likelihood``: mean of ``-log p`` of the true class, p no smaller than 2.2e-16.

    With two classes the scores of ``positive`` stand at the top level too (``precision, recall, ...``).

    Args:
        labels: true class indices, ``[N]``.
        probabilities: ``[N, C]``, rows sum to 1.
        class_names: C names in index order.
        patient_ids: N ids; the bootstrap draws patients, not images. An image with an empty id is its own patient,
            and all are when None.
        positive: of two classes, the one that is looked for; the last when None.
        resamples: bootstrap samples; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        ``n_images, n_patients, class_names``, ``positive`` (None with more than two classes), ``bootstrap`` (how the
        intervals were made), the scores above, ``classes``, ``confusion_matrix`` (``[truth][answer]``) and
        ``calibration`` (bins of the reliability diagram).

    Raises:
        ValueError: no images, shapes that do not fit, rows that are no probabilities, an unknown ``positive``.
    """
    names = list(class_names)
    answers = Answers(labels, probabilities, patient_ids)
    if len(names) != answers.classes:
        raise ValueError(f"a name a class is required, got {len(names)} names for {answers.classes} classes")
    chosen = positive_index(names, positive)
    values = answers.scores()
    samples = answers.resampled_scores(resamples if answers.patient_count > 1 else 0, seed)

    def entry(name: str, class_index: int | None = None) -> dict[str, Any]:
        key = ScoreKey(name, class_index)
        return score(values[key], samples.get(key))

    report: dict[str, Any] = {
        "n_images": answers.images,
        "n_patients": answers.patient_count,
        "class_names": names,
        "positive": None if chosen is None else names[chosen],
        "bootstrap": bootstrap_record(answers.patient_count, answers.images, resamples, seed),
    }
    if chosen is not None:
        report |= {name: entry(name, chosen) for name in CLASS_SCORES}
    report |= {name: entry(name) for name in OVERALL_SCORES}
    report["classes"] = {
        name: {"support": int(answers.support[c])} | {s: entry(s, c) for s in CLASS_SCORES}
        for c, name in enumerate(names)
    }
    cells = np.bincount(answers.labels * answers.classes + answers.predicted, minlength=answers.classes**2)
    report["confusion_matrix"] = cells.reshape(answers.classes, answers.classes).tolist()
    report["calibration"] = {"bins": reliability_bins(answers.labels, answers.probabilities)}
    return report


def positive_index(class_names: Sequence[str], positive: str | None) -> int | None:
    """Index of the positive class: the last of two by default; None with more than two.

    Raises:
        ValueError: ``positive`` is no class, or there are more than two.
    """
    if positive is None:
        return 1 if len(class_names) == 2 else None
    if len(class_names) != 2 or positive not in class_names:
        raise ValueError(f"positive must be one of two classes, got {positive!r} of {', '.join(class_names)}")
    return list(class_names).index(positive)


def find_score(metric: str, class_names: Sequence[str], positive: str | None = None) -> ScoreKey:
    """The score that a name means.

    Args:
        metric: a score of all classes (``accuracy, weighted_auc, ...``); ``SCORE:CLASS`` for one class; or a score
            of a class alone (``auc``, ``f1``, ...): with two classes it is the positive class's, with more the mean
            that NL-RAN prints (weighted by support; macro for specificity and average precision).
        class_names: names in index order.
        positive: of two classes, the positive one; the last when None.

    Raises:
        ValueError: no such score or class; it lists what there is.
    """
    name, _, of_class = metric.partition(":")
    if of_class and name in CLASS_SCORES and of_class in class_names:
        return ScoreKey(name, list(class_names).index(of_class))
    if not of_class and name in OVERALL_SCORES:
        return ScoreKey(name)
    if not of_class and name in CLASS_SCORES:
        chosen = positive_index(class_names, positive)
        return ScoreKey(_SHORT_NAMES[name]) if chosen is None else ScoreKey(name, chosen)
    known = ", ".join([*OVERALL_SCORES, *CLASS_SCORES])
    raise ValueError(f"unknown score {metric!r}; use one of {known}, or SCORE:CLASS with {', '.join(class_names)}")

"""Two models on the same images: is one better, or is it luck? Five tests, one form of answer.

Differences are second minus first, so a positive one speaks for the second model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pneumonai.pipeline.metrics.answers import Answers
from pneumonai.pipeline.metrics.classification import find_score, positive_index
from pneumonai.pipeline.metrics.resampling import LEVEL, interval, patient_index, resampled_means


@dataclass(frozen=True)
class PairedTest:
    """What a paired test found.

    Attributes:
        method: which test.
        metric: of which score.
        first, second: the score of each model; for folds the means. None where it is not defined.
        difference: second minus first; None where it is not defined.
        interval: its 95 % interval; None where there is none.
        p_value: two-sided, of no difference; None where the test says nothing.
        note: what a reader should know, in words; empty if nothing.
    """

    method: str
    metric: str
    first: float | None
    second: float | None
    difference: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def paired_bootstrap(
    labels: Sequence[int] | np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    class_names: Sequence[str],
    *,
    metric: str = "accuracy",
    patient_ids: Sequence[str | None] | None = None,
    positive: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Bootstrap by patient of the difference of any score between two models, both on the same resamples.

    The interval is the 95 % percentile interval of the difference. The p-value inverts it: twice the smaller share of
    resampled differences on one side of 0, zeros on both sides, plus one over plus one (so never 0; equal models: 1).

    Args:
        labels: true class indices, ``[N]``.
        first, second: probabilities of the two models, ``[N, C]``; for several seeds their mean.
        class_names: C names in index order.
        metric: see :func:`pneumonai.pipeline.metrics.classification.find_score`.
        patient_ids: N ids; an image with an empty id is its own patient, and all are when None.
        positive: of two classes, the positive one; the last when None.
        resamples: bootstrap samples, at least 1.
        seed: of the draws.

    Raises:
        ValueError: as :func:`pneumonai.pipeline.metrics.classification.classification_report`; an unknown metric.
    """
    key = find_score(metric, class_names, positive)
    ranks = "auc" in key.name or "average_precision" in key.name
    models = [Answers(labels, probabilities, patient_ids) for probabilities in (first, second)]
    one, two = (float(model.scores()[key]) for model in models)
    method = f"paired bootstrap by {'patient' if models[0].patient_count < models[0].images else 'image'}"
    if not np.isfinite([one, two]).all():
        return PairedTest(method, metric, _known(one), _known(two), None, None, None, "the score is not defined")
    if models[0].patient_count < 2:
        return PairedTest(method, metric, one, two, two - one, None, None, "one patient gives no interval")
    samples = [model.resampled_scores(resamples, seed, ranks=ranks)[key] for model in models]
    differences = samples[1] - samples[0]
    return _from_samples(method, metric, one, two, differences[np.isfinite(differences)])


def paired_means(
    first: Sequence[float],
    second: Sequence[float],
    *,
    metric: str,
    patient_ids: Sequence[str | None] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Bootstrap by patient of the difference of two models' means over images, such as of a segmentation's Dice.

    Interval and p-value are made as :func:`paired_bootstrap` makes them.

    Args:
        first, second: the score of each model in each image, ``[N]``; for several seeds its mean.
        metric: what the score is called.
        patient_ids: N ids; an image with an empty id is its own patient, and all are when None.
        resamples: bootstrap samples, at least 1.
        seed: of the draws.

    Raises:
        ValueError: other numbers of images.
    """
    scores = np.column_stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    _, count = patient_index(patient_ids, len(scores))
    one, two = (float(mean) for mean in scores.mean(axis=0))
    method = f"paired bootstrap by {'patient' if count < len(scores) else 'image'}"
    differences = resampled_means(scores[:, 1] - scores[:, 0], patient_ids, resamples=resamples, seed=seed)
    if differences is None:
        return PairedTest(method, metric, one, two, two - one, None, None, "one patient gives no interval")
    return _from_samples(method, metric, one, two, differences)


def _from_samples(method: str, metric: str, one: float, two: float, differences: np.ndarray) -> PairedTest:
    """What resampled differences say."""
    # Summed in another order, equal scores may differ in the last digit.
    differences = np.where(np.abs(differences) < 1e-12, 0.0, differences)
    tail = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    p_value = min(1.0, 2.0 * (tail + 1) / (len(differences) + 1))
    return PairedTest(method, metric, one, two, two - one, _pair(interval(differences)), p_value)


def mcnemar(
    labels: Sequence[int] | np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    patient_ids: Sequence[str | None] | None = None,
) -> PairedTest:
    """McNemar's exact test of two models' accuracy: a binomial test on the images that only one got right.

    The interval is Clopper and Pearson's for that binomial, as a difference of accuracy given the number of such
    images. The test takes images as independent; where patients have several, the note says so.

    Args:
        labels: true class indices, ``[N]``.
        first, second: probabilities of the two models, ``[N, C]``.
        patient_ids: N ids, for the note only.
    """
    from scipy.stats import binomtest

    models = [Answers(labels, probabilities, patient_ids) for probabilities in (first, second)]
    right = [model.predicted == model.labels for model in models]
    only_first, only_second = (int(np.count_nonzero(a & ~b)) for a, b in (right, right[::-1]))
    discordant, images = only_first + only_second, models[0].images
    p_value, bounds = 1.0, (0.0, 0.0)
    if discordant:
        test = binomtest(only_second, discordant, 0.5)
        exact = test.proportion_ci(LEVEL, method="exact")
        p_value, share = float(test.pvalue), discordant / images
        bounds = (float(2 * exact.low - 1) * share, float(2 * exact.high - 1) * share)
    one, two = (float(hits.mean()) for hits in right)
    difference = (only_second - only_first) / images
    return PairedTest("McNemar, exact", "accuracy", one, two, difference, bounds, p_value, _dependence(models[0]))


def delong(
    labels: Sequence[int] | np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    class_names: Sequence[str],
    *,
    positive: str | None = None,
    patient_ids: Sequence[str | None] | None = None,
) -> PairedTest:
    """DeLong's test of the AUC of two models on the same images (two classes).

    DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; computed from midranks as in Sun and Xu, IEEE Signal
    Processing Letters 21, 2014. A tie counts half. The test takes images as independent; where patients have
    several, the note says so.

    Args:
        labels: true class indices, ``[N]``.
        first, second: probabilities of the two models, ``[N, 2]``.
        class_names: two names in index order.
        positive: the positive class; the last when None.
        patient_ids: N ids, for the note only.

    Raises:
        ValueError: not two classes.
    """
    from scipy.stats import norm

    chosen = positive_index(class_names, positive)
    if chosen is None:
        raise ValueError(f"DeLong's test compares two AUCs of two classes, got {len(class_names)} classes")
    models = [Answers(labels, probabilities, patient_ids) for probabilities in (first, second)]
    is_positive = models[0].labels == chosen
    method, note = "DeLong", _dependence(models[0])
    if min(is_positive.sum(), (~is_positive).sum()) < 1:
        return PairedTest(method, "auc", None, None, None, None, None, "the score is not defined")
    # A model's placements: the share of the other class that each image is rightly above (or below).
    placed = [_placements(model.probabilities[:, chosen], is_positive) for model in models]
    one, two = (float(of_positives.mean()) for of_positives, _ in placed)
    difference = two - one
    if all(np.array_equal(a, b) for a, b in zip(*placed, strict=True)):
        return PairedTest(method, "auc", one, two, 0.0, (0.0, 0.0), 1.0, note)
    changes = [second - first for first, second in zip(*placed, strict=True)]
    if min(len(change) for change in changes) < 2:
        few = "the variance needs two images of each class"
        return PairedTest(method, "auc", one, two, difference, None, None, few)
    error = float(np.sqrt(sum(change.var(ddof=1) / len(change) for change in changes)))
    if error < 1e-12:
        return PairedTest(method, "auc", one, two, difference, None, None, "the variance of the difference is 0")
    reach = float(norm.isf((1 - LEVEL) / 2)) * error
    p_value = float(2 * norm.sf(abs(difference) / error))
    return PairedTest(method, "auc", one, two, difference, (difference - reach, difference + reach), p_value, note)


def _placements(scores: np.ndarray, is_positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the negatives below each positive, and of the positives above each negative; ties count half."""
    from scipy.stats import rankdata

    positives, negatives = scores[is_positive], scores[~is_positive]
    ranks = rankdata(scores)
    below = (ranks[is_positive] - rankdata(positives)) / len(negatives)
    above = 1.0 - (ranks[~is_positive] - rankdata(negatives)) / len(positives)
    return below, above


def corrected_resampled_t_test(
    first: Sequence[float],
    second: Sequence[float],
    *,
    n_train: float,
    n_test: float,
    metric: str = "accuracy",
) -> PairedTest:
    """Nadeau and Bengio's t-test over folds or repeated splits, whose training parts overlap.

    "Inference for the Generalization Error", Machine Learning 52, 2003: the variance of the mean difference is taken
    as ``(1/k + n_test/n_train) * s^2``, with k - 1 degrees of freedom.

    Args:
        first, second: the score of each model in each of k folds, k at least 2.
        n_train, n_test: images (or patients) of a training and a test part; means where folds differ.
        metric: what the scores are called.

    Raises:
        ValueError: fewer than two folds, lists of different length, scores that are not finite, empty parts.
    """
    from scipy.stats import t

    scores = np.array([list(first), list(second)], dtype=float) if len(first) == len(second) else np.empty((2, 0))
    folds = scores.shape[1]
    if folds < 2 or not np.isfinite(scores).all():
        raise ValueError(f"two finite scores in each of at least two folds are required, got {first} and {second}")
    if not (n_train > 0 and n_test > 0):
        raise ValueError(f"n_train and n_test must be above 0, got {n_train} and {n_test}")
    method, one, two = "corrected resampled t-test", float(scores[0].mean()), float(scores[1].mean())
    differences = scores[1] - scores[0]
    difference = float(differences.mean())
    error = float(np.sqrt((1 / folds + n_test / n_train) * differences.var(ddof=1)))
    if not differences.any():
        return PairedTest(method, metric, one, two, 0.0, (0.0, 0.0), 1.0)
    if error < 1e-12:
        return PairedTest(method, metric, one, two, difference, None, None, "the difference is the same in every fold")
    reach = float(t.isf((1 - LEVEL) / 2, folds - 1)) * error
    p_value = float(2 * t.sf(abs(difference) / error, folds - 1))
    return PairedTest(method, metric, one, two, difference, (difference - reach, difference + reach), p_value)


def _dependence(answers: Answers) -> str:
    if answers.patient_count == answers.images:
        return ""
    return f"takes images as independent, but {answers.images} images are of {answers.patient_count} patients"


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _pair(bounds: list[float] | None) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))

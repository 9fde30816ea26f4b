"""Paired tests against values worked out by hand, and DeLong's against its definition."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from pneumonai.pipeline.metrics.paired import (
    corrected_resampled_t_test,
    delong,
    mcnemar,
    paired_bootstrap,
    paired_means,
)

NAMES = ["noncovid", "covid"]


def both(scores: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - scores, scores])


def answers(right: list[int]) -> np.ndarray:
    """Answers to images of class 1, right or wrong."""
    return np.eye(2)[right] * 0.6 + 0.2


def test_mcnemar_by_hand() -> None:
    # Only the first right once, only the second 6 times: 2 (1 + 7) / 2^7.
    first, second = [1, 0, 0, 0, 0, 0, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1, 1, 1, 0, 1]
    result = mcnemar([1] * 10, answers(first), answers(second))
    assert result.p_value == pytest.approx(0.125)
    assert (result.first, result.second, result.difference) == pytest.approx((0.3, 0.8, 0.5))
    # Clopper and Pearson's bounds of 6 of 7 are 0.4213 and 0.9964.
    assert result.interval == pytest.approx(((2 * 0.4213 - 1) * 0.7, (2 * 0.9964 - 1) * 0.7), abs=1e-3)
    assert result.note == ""
    swapped = mcnemar([1] * 10, answers(second), answers(first))
    assert (swapped.difference, swapped.p_value) == (-0.5, result.p_value)


def test_tests_of_images_say_when_patients_have_several() -> None:
    labels, scores = [0, 1, 0, 1], both(np.array([0.1, 0.7, 0.6, 0.4]))
    ids = ["a", "b", "c", "c"]
    note = "takes images as independent, but 4 images are of 3 patients"
    assert mcnemar(labels, scores, scores, patient_ids=ids).note == note
    assert delong(labels, scores, scores, NAMES, patient_ids=ids).note == note


def delong_by_definition(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Difference of the AUCs and its variance from all pairs, as printed in the paper."""
    matrices = []
    for scores in (first, second):
        pairs = list(product(scores[labels == 1], scores[labels == 0]))
        kernel = np.array([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs])
        matrices.append(kernel.reshape((labels == 1).sum(), (labels == 0).sum()))
    by_positive = np.cov([m.mean(axis=1) for m in matrices]) / (labels == 1).sum()
    by_negative = np.cov([m.mean(axis=0) for m in matrices]) / (labels == 0).sum()
    covariance, contrast = by_positive + by_negative, np.array([-1.0, 1.0])
    return matrices[1].mean() - matrices[0].mean(), float(contrast @ covariance @ contrast)


@pytest.mark.parametrize("seed", range(20))
def test_delong_equals_its_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    images = int(generator.integers(8, 40))
    labels = np.append([0, 0, 1, 1], generator.integers(2, size=images - 4))
    # One decimal, so that there are ties; the models share a signal.
    signal = labels * generator.random() + generator.random(images)
    noise = generator.random((2, images)) * generator.random()
    first, second = np.round((signal + noise) / 4, 1)
    difference, variance = delong_by_definition(labels, first, second)
    result = delong(labels, both(first), both(second), NAMES)
    assert result.difference == pytest.approx(difference)
    if variance > 1e-12:
        assert result.p_value == pytest.approx(2 * norm.sf(abs(difference) / np.sqrt(variance)))
        reach = 1.959964 * np.sqrt(variance)
        assert result.interval == pytest.approx((difference - reach, difference + reach))
    # The other class as the positive one: the same test.
    other = delong(labels, both(first), both(second), NAMES, positive="noncovid")
    assert (other.difference, other.p_value) == pytest.approx((result.difference, result.p_value))


def test_delong_where_it_says_nothing() -> None:
    labels = np.array([0, 0, 1, 1])
    best, worst = both(np.array([0.1, 0.2, 0.8, 0.9])), both(np.array([0.9, 0.8, 0.2, 0.1]))
    reversed_ = delong(labels, worst, best, NAMES)
    assert (reversed_.difference, reversed_.p_value, reversed_.interval) == (1.0, None, None)
    assert "variance" in reversed_.note
    assert "two images of each class" in delong(labels[1:3], worst[1:3], best[1:3], NAMES).note
    one_class = delong(labels[:2], worst[:2], best[:2], NAMES)
    assert (one_class.difference, one_class.note) == (None, "the score is not defined")
    with pytest.raises(ValueError, match="two classes"):
        delong([0, 1, 2], np.eye(3), np.eye(3), ["a", "b", "c"])


def test_corrected_t_test_by_hand() -> None:
    result = corrected_resampled_t_test([0.5, 0.5, 0.5], [0.51, 0.52, 0.53], n_train=200, n_test=100)
    # Mean 0.02, s^2 = 0.0001, factor 1/3 + 1/2; with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2).
    t = 0.02 / np.sqrt((1 / 3 + 1 / 2) * 0.0001)
    assert result.difference == pytest.approx(0.02)
    assert result.p_value == pytest.approx(1 - t / np.sqrt(t**2 + 2))
    reach = 4.302653 * 0.02 / t
    assert result.interval == pytest.approx((0.02 - reach, 0.02 + reach))
    constant = corrected_resampled_t_test([0.5, 0.6], [0.6, 0.7], n_train=4, n_test=1)
    assert (constant.p_value, constant.interval) == (None, None)
    assert "same in every fold" in constant.note
    for wrong in (([0.5], [0.6]), ([0.5, 0.6], [0.6]), ([0.5, np.nan], [0.6, 0.7])):
        with pytest.raises(ValueError, match="at least two folds"):
            corrected_resampled_t_test(*wrong, n_train=4, n_test=1)
    with pytest.raises(ValueError, match="above 0"):
        corrected_resampled_t_test([0.5, 0.6], [0.6, 0.7], n_train=0, n_test=1)


@pytest.mark.parametrize("metric", ["accuracy", "auc", "f1", "recall:noncovid", "kappa", "ece"])
def test_equal_models_do_not_differ(metric: str) -> None:
    generator = np.random.default_rng(4)
    labels, scores = generator.integers(2, size=30), both(generator.random(30))
    result = paired_bootstrap(labels, scores, scores, NAMES, metric=metric, resamples=200)
    assert (result.difference, result.interval, result.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_equal_models_do_not_differ_in_any_test() -> None:
    labels, scores = [0, 1, 0, 1, 1], both(np.array([0.1, 0.7, 0.6, 0.4, 0.9]))
    folds = [0.7, 0.8, 0.9]
    results = [
        mcnemar(labels, scores, scores),
        delong(labels, scores, scores, NAMES),
        corrected_resampled_t_test(folds, folds, n_train=8, n_test=2),
    ]
    for result in results:
        assert (result.difference, result.interval, result.p_value) == (0.0, (0.0, 0.0), 1.0)
        assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["interval"] == [0.0, 0.0]


def test_paired_bootstrap_by_hand() -> None:
    # The second model is always right, the first never: 1 in every resample.
    result = paired_bootstrap([1] * 8, answers([0] * 8), answers([1] * 8), NAMES, resamples=999)
    assert (result.difference, result.interval) == (1.0, (1.0, 1.0))
    assert result.p_value == pytest.approx(2 / 1000)
    assert result.method == "paired bootstrap by image"


def test_pairing_narrows_and_patients_widen_the_interval() -> None:
    generator = np.random.default_rng(9)
    labels = generator.integers(2, size=300)
    right = generator.random(300) < 0.8
    better = right | (generator.random(300) < 0.1)
    first, second = (np.eye(2)[np.where(r, labels, 1 - labels)] * 0.6 + 0.2 for r in (right, better))
    result = paired_bootstrap(labels, first, second, NAMES)
    # Only images that the second alone got right vary: a binomial share q, error sqrt(q (1 - q) / 300).
    gain = float((better & ~right).mean())
    reach = 1.96 * np.sqrt(gain * (1 - gain) / 300)
    assert result.difference == pytest.approx(gain)
    assert result.interval == pytest.approx((gain - reach, gain + reach), abs=0.005)
    by_patient = paired_bootstrap(labels, first, second, NAMES, patient_ids=[str(n // 30) for n in range(300)])
    copies = paired_bootstrap(
        np.tile(labels, 4),
        np.tile(first, (4, 1)),
        np.tile(second, (4, 1)),
        NAMES,
        patient_ids=[*map(str, range(300))] * 4,
    )
    assert by_patient.method == "paired bootstrap by patient"
    assert copies.interval == pytest.approx(result.interval)


def test_paired_means_of_right_answers_are_the_paired_bootstrap_of_accuracy() -> None:
    rng = np.random.default_rng(3)
    labels, one, two = (rng.integers(0, 2, 30) for _ in range(3))
    patients = [f"P{n // 3}" for n in range(30)]
    expected = paired_bootstrap(labels, answers(one.tolist()), answers(two.tolist()), NAMES, patient_ids=patients)
    found = paired_means(one == labels, two == labels, metric="accuracy", patient_ids=patients)
    assert (found.first, found.second, found.p_value) == pytest.approx(
        (expected.first, expected.second, expected.p_value)
    )
    assert found.interval == pytest.approx(expected.interval)
    assert paired_means([0.5, 0.7], [0.5, 0.7], metric="dice").p_value == 1.0
    assert paired_means([0.5, 0.7], [0.6, 0.9], metric="dice", patient_ids=["a", "a"]).interval is None


def test_paired_bootstrap_where_it_says_nothing() -> None:
    one_class = paired_bootstrap([1, 1], answers([0, 1]), answers([1, 1]), NAMES, metric="auc")
    assert (one_class.difference, one_class.p_value, one_class.note) == (None, None, "the score is not defined")
    one_patient = paired_bootstrap([1, 1], answers([0, 1]), answers([1, 1]), NAMES, patient_ids=["a", "a"])
    assert (one_patient.difference, one_patient.interval, one_patient.p_value) == (0.5, None, None)
    with pytest.raises(ValueError, match="unknown score 'acc'"):
        paired_bootstrap([1, 1], answers([0, 1]), answers([1, 1]), NAMES, metric="acc")

"""The classification report against values worked out by hand, and against scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumonai.pipeline.metrics.answers import Answers, ScoreKey
from pneumonai.pipeline.metrics.classification import classification_report, find_score
from pneumonai.pipeline.metrics.resampling import is_score

NAMES = ["normal", "ncp", "cp"]
LABELS = [0, 0, 1, 1, 2, 2]
# Predicted 0 0 1 2 2 0: four of six are right.
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.4, 0.5], [0.2, 0.2, 0.6], [0.5, 0.1, 0.4]]
)


def value(report: dict[str, Any], name: str, class_name: str | None = None) -> Any:
    return (report if class_name is None else report["classes"][class_name])[name]["value"]


def random_answers(seed: int, classes: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Random labels and probabilities in steps of 0.05, so that there are ties."""
    generator = np.random.default_rng(seed)
    steps = generator.multinomial(20, generator.dirichlet(np.ones(classes)), size=images)
    return generator.integers(classes, size=images), steps / 20


def test_figures_by_hand() -> None:
    report = classification_report(LABELS, PROBABILITIES, NAMES)
    assert (report["n_images"], report["n_patients"], report["positive"]) == (6, 6, None)
    assert report["confusion_matrix"] == [[2, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert value(report, "accuracy") == pytest.approx(4 / 6)
    normal = {"precision": 2 / 3, "recall": 1, "specificity": 3 / 4, "f1": 0.8, "auc": 1, "average_precision": 1}
    assert {name: value(report, name, "normal") for name in normal} == pytest.approx(normal)
    assert report["classes"]["normal"]["support"] == 2
    # cp: 0.6 lies above all others, 0.4 below the 0.5 of an ncp: 7 of 8 pairs; precision 1, then 2 of 3.
    assert value(report, "auc", "cp") == pytest.approx(7 / 8)
    assert value(report, "average_precision", "cp") == pytest.approx((1 + 2 / 3) / 2)
    assert value(report, "weighted_auc") == value(report, "macro_auc") == pytest.approx((1 + 1 + 7 / 8) / 3)
    assert value(report, "macro_specificity") == pytest.approx((3 / 4 + 1 + 3 / 4) / 3)
    # Observed agreement 4/6; by chance (2 * 3 + 2 * 1 + 2 * 2) / 36 = 1/3.
    assert value(report, "kappa") == pytest.approx(0.5)
    low, high = report["accuracy"]["interval"]
    assert 0.3 <= low < 4 / 6 < high <= 1


def test_both_f1_of_nl_ran_by_hand() -> None:
    # Six of class a, two of b; answered a: 5 and 1. a: precision 5/6, recall 5/6; b: precision 1/2, recall 1/2.
    labels, answers = [0] * 6 + [1] * 2, [0] * 5 + [1] + [0, 1]
    report = classification_report(labels, np.eye(2)[answers], ["a", "b"])
    assert value(report, "weighted_f1_mean_of_classes") == pytest.approx((6 * 5 / 6 + 2 * 1 / 2) / 8)
    # And where they differ: all answered a, so precision 3/4 and 0, recall 1 and 0.
    report = classification_report(labels, np.eye(2)[[0] * 8], ["a", "b"])
    precision, recall = 0.75 * 0.75, 0.75
    assert value(report, "weighted_precision") == pytest.approx(precision)
    assert value(report, "weighted_f1_mean_of_classes") == pytest.approx(0.75 * 2 * 0.75 / 1.75)
    assert value(report, "weighted_f1_harmonic") == pytest.approx(2 * precision * recall / (precision + recall))


def test_calibration_by_hand() -> None:
    # Confidences 0.9 (right), 0.9 (wrong), 0.62 (right): bins 13 and 9 of 15.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.38, 0.62]])
    report = classification_report([0, 1, 1], probabilities, ["a", "b"])
    assert value(report, "ece") == pytest.approx((2 * abs(0.5 - 0.9) + abs(1 - 0.62)) / 3)
    assert value(report, "brier") == pytest.approx((2 * 0.1**2 + 2 * 0.9**2 + 2 * 0.38**2) / 3)
    assert value(report, "negative_log_likelihood") == pytest.approx(-np.log([0.9, 0.1, 0.62]).mean())
    filled = {n: b for n, b in enumerate(report["calibration"]["bins"]) if b["n"]}
    assert {n: (b["n"], b["accuracy"]) for n, b in filled.items()} == {9: (1, 1.0), 13: (2, 0.5)}
    assert filled[13]["confidence"] == pytest.approx(0.9)
    assert report["calibration"]["bins"][0] == {
        "low": 0.0,
        "high": pytest.approx(1 / 15),
        "n": 0,
        "confidence": None,
        "accuracy": None,
    }


def test_two_classes_have_a_positive_one_at_the_top() -> None:
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9]])
    report = classification_report([0, 0, 1, 1], probabilities, ["noncovid", "covid"])
    assert report["positive"] == "covid"
    expected = {"precision": 2 / 3, "recall": 1, "specificity": 1 / 2, "f1": 0.8, "auc": 3 / 4}
    assert {name: value(report, name) for name in expected} == pytest.approx(expected)
    other = classification_report([0, 0, 1, 1], probabilities, ["noncovid", "covid"], positive="noncovid")
    assert (value(other, "precision"), value(other, "recall"), value(other, "specificity")) == (1, 0.5, 1)
    with pytest.raises(ValueError, match="positive must be one of two classes"):
        classification_report(LABELS, PROBABILITIES, NAMES, positive="ncp")


def test_a_tie_counts_half() -> None:
    report = classification_report([0, 1], [[0.4, 0.6], [0.4, 0.6]], ["a", "b"])
    assert value(report, "auc") == 0.5


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 4), images=st.integers(8, 60))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_equals_scikit_learn(seed: int, classes: int, images: int) -> None:
    labels, probabilities = random_answers(seed, classes, images)
    labels[:classes] = range(classes)
    names = [f"c{n}" for n in range(classes)]
    report = classification_report(labels, probabilities, names, resamples=0)
    predicted, indices = probabilities.argmax(axis=1), list(range(classes))
    settings_ = {"labels": indices, "zero_division": 0.0}
    table = sk.precision_recall_fscore_support(labels, predicted, **settings_)
    for row, name in enumerate(("precision", "recall", "f1")):
        assert [value(report, name, c) for c in names] == pytest.approx(table[row].tolist())
    for prefix in ("weighted", "macro"):
        p, r, f, _ = sk.precision_recall_fscore_support(labels, predicted, average=prefix, **settings_)
        f1_name = "weighted_f1_mean_of_classes" if prefix == "weighted" else "macro_f1"
        found = [value(report, name) for name in (f"{prefix}_precision", f"{prefix}_recall", f1_name)]
        assert found == pytest.approx([p, r, f])
        if classes > 2:
            auc = sk.roc_auc_score(labels, probabilities, multi_class="ovr", average=prefix, labels=indices)
            assert value(report, f"{prefix}_auc") == pytest.approx(auc)
    assert value(report, "weighted_recall") == pytest.approx(value(report, "accuracy"), abs=1e-12)
    assert value(report, "kappa") == pytest.approx(sk.cohen_kappa_score(labels, predicted))
    if classes == 2:
        assert value(report, "brier") == pytest.approx(2 * sk.brier_score_loss(labels, probabilities[:, 1]))
        assert value(report, "auc") == pytest.approx(sk.roc_auc_score(labels, probabilities[:, 1]))


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 4), images=st.integers(2, 40), patients=st.integers(2, 9))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_resample_scores_as_the_images_it_draws(seed: int, classes: int, images: int, patients: int) -> None:
    """The vectorised scores of each resample equal scikit-learn's of the images written out."""
    labels, probabilities = random_answers(seed, classes, images)
    generator = np.random.default_rng(seed)
    ids = generator.integers(patients, size=images).astype(str)
    answers = Answers(labels, probabilities, list(ids))
    samples = answers.resampled_scores(5, seed)
    draws = np.random.default_rng(seed).integers(answers.patient_count, size=(5, answers.patient_count))
    for n, drawn in enumerate(draws):
        rows = np.concatenate([np.flatnonzero(answers.patients == patient) for patient in drawn])
        written_out = Answers(labels[rows], probabilities[rows]).scores()
        assert written_out.keys() == samples.keys()
        for key, expected in written_out.items():
            assert samples[key][n] == pytest.approx(expected, abs=1e-9, nan_ok=True), key


def test_the_interval_counts_patients_not_images() -> None:
    labels, probabilities = random_answers(3, 3, 30)
    by_image = classification_report(labels, probabilities, NAMES)
    same = classification_report(
        np.tile(labels, 9), np.tile(probabilities, (9, 1)), NAMES, patient_ids=[*range(30)] * 9
    )
    assert (same["n_images"], same["n_patients"], same["bootstrap"]["unit"]) == (270, 30, "patient")
    assert same["accuracy"]["interval"] == pytest.approx(by_image["accuracy"]["interval"])
    assert same["kappa"]["interval"] == pytest.approx(by_image["kappa"]["interval"])


def test_the_interval_covers_as_the_binomial_does() -> None:
    labels = np.zeros(100, dtype=int)
    probabilities = np.eye(2)[[0] * 80 + [1] * 20]
    low, high = classification_report(labels, probabilities, ["a", "b"])["accuracy"]["interval"]
    # Normal approximation: 0.8 +- 1.96 * sqrt(0.8 * 0.2 / 100).
    assert (low, high) == pytest.approx((0.7216, 0.8784), abs=0.015)


def test_one_patient_has_no_interval() -> None:
    report = classification_report(LABELS, PROBABILITIES, NAMES, patient_ids=["p"] * 6)
    assert report["accuracy"] == {"value": pytest.approx(4 / 6), "interval": None}


def test_images_without_patient_are_their_own() -> None:
    report = classification_report(LABELS, PROBABILITIES, NAMES, patient_ids=["p", "p", "", "", None, "q"])
    assert report["n_patients"] == 5


def test_an_absent_class() -> None:
    # Truth a, b; answered a, c: c does not occur but is answered.
    report = classification_report([0, 1], [[0.9, 0.1, 0.0], [0.1, 0.4, 0.5]], ["a", "b", "c"])
    names = ("precision", "recall", "specificity", "f1", "auc", "average_precision")
    assert [value(report, name, "c") for name in names] == [0, None, 0.5, 0, None, None]
    # b occurs but is never answered.
    assert [value(report, name, "b") for name in names] == [0, 0, 1, 0, 1, 1]
    # Means run over a and b.
    assert value(report, "macro_auc") == value(report, "weighted_auc") == 1
    assert value(report, "macro_f1") == value(report, "weighted_recall") == 0.5
    unseen = classification_report([0, 0], [[0.9, 0.1], [0.8, 0.2]], ["a", "b"])
    assert [value(unseen, name, "b") for name in names] == [None, None, 1, None, None, None]


@pytest.mark.parametrize(("labels", "rows"), [([0], 1), ([1], 1), ([1, 1, 1], 3)])
def test_one_class_or_one_image_is_no_crash(labels: list[int], rows: int) -> None:
    report = classification_report(labels, [[0.3, 0.7]] * rows, ["a", "b"])
    assert value(report, "auc") is None
    assert report["auc"]["interval"] is None
    assert (value(report, "kappa") is None) == (labels[0] == 1)
    json.dumps(report, allow_nan=False)


def test_every_score_has_one_form() -> None:
    report = classification_report(*random_answers(1, 2, 40), ["a", "b"])
    plain = {"n_images", "n_patients", "class_names", "positive", "bootstrap", "classes", "confusion_matrix"}
    scores = [report[key] for key in report.keys() - plain - {"calibration"}]
    scores += [entry for c in report["classes"].values() for key, entry in c.items() if key != "support"]
    assert len(scores) == 6 + 16 + 2 * 6
    assert all(is_score(entry) for entry in scores)
    assert all(low <= high for low, high in (entry["interval"] for entry in scores))


@pytest.mark.parametrize(
    ("labels", "probabilities", "names", "message"),
    [
        ([], np.empty((0, 2)), ["a", "b"], "at least one image"),
        ([0, 1], [[1.0, 0.0]], ["a", "b"], r"labels \[N\]"),
        ([2], [[1.0, 0.0]], ["a", "b"], "labels 0 to 1"),
        ([0], [[3.0, -2.0]], ["a", "b"], "row 0"),
        ([0], [[np.nan, 1.0]], ["a", "b"], "row 0"),
        ([0], [[1.0, 0.0]], ["a", "b", "c"], "3 names for 2 classes"),
    ],
)
def test_wrong_arguments(labels: Any, probabilities: Any, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_report(labels, np.asarray(probabilities), names)


def test_names_of_scores() -> None:
    two = ["noncovid", "covid"]
    assert find_score("accuracy", two) == ScoreKey("accuracy")
    assert find_score("auc", two) == ScoreKey("auc", 1)
    assert find_score("f1", two, "noncovid") == ScoreKey("f1", 0)
    assert find_score("auc", NAMES) == ScoreKey("weighted_auc")
    assert find_score("recall:ncp", NAMES) == ScoreKey("recall", 1)
    with pytest.raises(ValueError, match="unknown score 'recall:flu'"):
        find_score("recall:flu", NAMES)

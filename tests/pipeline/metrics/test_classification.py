"""The classification report against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pneumonai.pipeline.metrics.classification import classification_report

LABELS = [0, 0, 1, 1, 2, 2]
# Predicted 0 0 1 2 2 0: four of six are right.
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.4, 0.5], [0.2, 0.2, 0.6], [0.5, 0.1, 0.4]]
)


def test_figures_by_hand() -> None:
    report = classification_report(LABELS, PROBABILITIES, ["normal", "ncp", "cp"])
    assert report["accuracy"] == pytest.approx(4 / 6)
    assert report["confusion_matrix"] == [[2, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert report["classes"]["normal"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2})
    # normal: both scores above all others; ncp: likewise 0.7 and 0.4 above 0.2; cp: 0.6 above all, 0.4 below the 0.5.
    assert report["auc"] == pytest.approx((1 + 1 + 7 / 8) / 3)
    low, high = report["accuracy_interval"]
    assert 0.3 <= low < 4 / 6 < high <= 1


def test_the_interval_counts_patients_not_images() -> None:
    one_patient = classification_report(LABELS, PROBABILITIES, ["a", "b", "c"], patient_ids=["p"] * 6)
    assert one_patient["accuracy_interval"] == pytest.approx([4 / 6, 4 / 6])


def test_an_absent_class_has_no_auc() -> None:
    report = classification_report([0, 1], PROBABILITIES[[0, 2]], ["a", "b", "c"])
    assert report["auc"] is None
    assert report["classes"]["c"]["support"] == 0

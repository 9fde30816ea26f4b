"""What the figures draw: curves, numbers in their legends, counts."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pneumonai.pipeline.metrics.classification import classification_report
from pneumonai.pipeline.metrics.figures import confusion_figure, pr_figure, reliability_figure, roc_figure

NAMES = ["normal", "ncp", "cp"]
LABELS = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.4, 0.5], [0.2, 0.2, 0.6], [0.5, 0.1, 0.4]]
)
ONE = {"model": (LABELS, PROBABILITIES)}
TWO = ONE | {"other": (LABELS, np.full((6, 3), 1 / 3))}


def legend(axes) -> list[str]:  # type: ignore[no-untyped-def]
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_one_model_has_a_curve_a_class() -> None:
    report = classification_report(LABELS, PROBABILITIES, NAMES, resamples=100)
    low, high = report["classes"]["cp"]["auc"]["interval"]
    figure = roc_figure(ONE, NAMES, reports={"model": report})
    (axes,) = figure.axes
    assert legend(axes)[2] == f"cp: AUC 0.875 ({low:.3f} to {high:.3f})"
    (axes,) = pr_figure(ONE, NAMES).axes
    assert legend(axes) == ["normal: AP 1.000", "ncp: AP 1.000", "cp: AP 0.833"]


def test_several_models_have_a_panel_a_class() -> None:
    for figure, name in ((roc_figure(TWO, NAMES), "AUC 0.500"), (pr_figure(TWO, NAMES), "AP 0.333")):
        assert [axes.get_title() for axes in figure.axes] == [f"{name} against the rest" for name in NAMES]
        assert all(legend(axes)[1] == f"other: {name}" for axes in figure.axes)


def test_two_classes_show_the_positive_one() -> None:
    models = {"model": (np.array([0, 1]), np.array([[0.8, 0.2], [0.1, 0.9]]))}
    assert legend(roc_figure(models, ["noncovid", "covid"]).axes[0]) == ["covid: AUC 1.000"]
    assert legend(roc_figure(models, ["noncovid", "covid"], positive="noncovid").axes[0]) == ["noncovid: AUC 1.000"]


def test_a_curve_that_is_not_defined_is_said() -> None:
    models = {"model": (np.array([0]), np.array([[0.8, 0.2]]))}
    for draw in (roc_figure, pr_figure):
        assert legend(draw(models, ["noncovid", "covid"]).axes[0])[0].startswith("covid: not defined")


def test_confusion_shows_counts_and_per_cent_of_the_row() -> None:
    figure = confusion_figure(TWO, NAMES)
    assert [axes.get_title() for axes in figure.axes] == ["model", "other"]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words[3:6] == ["0\n0.0 %", "1\n50.0 %", "1\n50.0 %"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"{n}\nn = 2" for n in NAMES]


def test_reliability_points_by_hand() -> None:
    models = {"model": (np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.88, 0.12], [0.38, 0.62]]))}
    figure = reliability_figure(models)
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert points == pytest.approx(np.array([[0.62, 1.0], [0.89, 0.5]]))
    assert legend(figure.axes[0]) == [f"ECE {(0.38 + 2 * 0.39) / 3:.3f}"]


def test_no_global_state_of_matplotlib() -> None:
    had = "matplotlib.pyplot" in sys.modules
    confusion_figure(ONE, NAMES)
    roc_figure(TWO, NAMES)
    assert ("matplotlib.pyplot" in sys.modules) == had

"""Means, deviations, tests and tables from made runs, with numbers that can be checked by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from pneumonai.pipeline.comparison.figures import write_figures
from pneumonai.pipeline.comparison.plan import Comparison, Run, plan_runs, read_comparison
from pneumonai.pipeline.comparison.results import read_line, run_tests
from pneumonai.pipeline.comparison.tables import comma_separated, latex, markdown
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.metrics.classification import classification_report

NAMES = ["noncovid", "covid"]
LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def finish(run: Run, wrong: int) -> None:
    """Leave what a run leaves that answers all of ten images but ``wrong`` rightly."""
    scores = run.folder / "scores"
    scores.mkdir(parents=True)
    right = np.array([0.1 if n < wrong else 0.9 for n in range(10)])
    probabilities = np.array([[p, 1 - p] if label == 0 else [1 - p, p] for p, label in zip(right, LABELS, strict=True)])
    report = classification_report(LABELS, probabilities, NAMES, resamples=20)
    (scores / "metrics.json").write_text(json.dumps(report))
    with (scores / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient_id", "label", "pred", "p_noncovid", "p_covid"])
        for n, (label, row) in enumerate(zip(LABELS, probabilities, strict=True)):
            writer.writerow([f"{n}.png", f"P{n}", NAMES[label], NAMES[int(row.argmax())], *row])
    (run.folder / "history.csv").write_text("epoch,seconds,train_loss,val_accuracy\n1,5,0.7,0.5\n2,5,0.6,0.6\n")
    record = {
        "epochs": 2,
        "seconds": {"train": 10.0, "epoch": 5.0, "evaluate": 1.0},
        "peak_memory_bytes": 2**30,
        "images": {"training": 30, "test": 10},
        "parameters": 1_500_000,
        "multiply_adds": 2_000_000_000,
    }
    run.record.write_text(json.dumps(record))


def compared(folder: Path, **content: object) -> tuple[Comparison, list[Run]]:
    items = [{"image": f"{n}.png", "label": LABELS[n], "fold": n % 2} for n in range(10)]
    (folder / "datalist.json").write_text(json.dumps({"training": items, "test": items, "name": "ten images"}))
    rows = [
        {"name": "first", "bundle": "nl_ran_ct_classification", "published": {"accuracy": 94.26}},
        {"name": "50% & _more_", "bundle": "nl_ran_ct_classification"},
    ]
    config = {"datalist": "datalist.json", "rows": rows, "metrics": ["accuracy", "auc", "f1:covid"], **content}
    (folder / "compare.json").write_text(json.dumps(config))
    comparison = read_comparison(folder / "compare.json")
    return comparison, plan_runs(comparison, folder / "out")


def test_mean_deviation_costs_and_tests_over_seeds(tmp_path: Path) -> None:
    comparison, runs = compared(tmp_path, seeds=[0, 1])
    for run, wrong in zip(runs, (4, 2, 1, 1), strict=True):
        finish(run, wrong)
    lines = [read_line(comparison, runs, row, 100.0) for row in comparison.rows]
    assert lines[0].scores["accuracy"] == pytest.approx([0.6, 0.8])
    assert lines[0].mean("accuracy") == pytest.approx(0.7)
    assert lines[0].deviation("accuracy") == pytest.approx(np.sqrt(0.02))
    assert lines[1].deviation("accuracy") == 0
    assert (lines[0].seconds, lines[0].epoch_seconds, lines[0].parameters) == (10, 5, 1_500_000)
    tests = run_tests(comparison, runs)
    assert [test.of for test in tests] == ["mean of seeds", "seed 0", "seed 1"]
    assert [test.found.method for test in tests[1:]] == ["McNemar, exact"] * 2
    # Seed 0: three images only the second model got right, none the other way: p = 2 / 2^3.
    assert tests[1].found.difference == pytest.approx(0.3)
    assert tests[1].found.p_value == pytest.approx(0.25)
    text = markdown(comparison, lines, tests)
    assert "| first | 70.00 ± 14.14 |" in text
    assert "| first, as published | *94.26* |" in text
    assert "Data: ten images (images: training 10, test 10). 2 seeds." in text
    assert "| first | 1.50 | 2.00 | 2 | 10 | 5.0 | 1.00 |" in text
    assert "not for clinical use" in text
    assert "50\\% \\& \\_more\\_ & 90.00 $\\pm$ 0.00" in latex(comparison, lines)
    row = next(csv.DictReader(io.StringIO(comma_separated(comparison, lines))))
    assert float(row["accuracy_mean"]) == pytest.approx(0.7)
    assert float(row["accuracy_published_percent"]) == 94.26
    figures = write_figures(comparison, runs, lines, tmp_path / "figures")
    assert [path.name for path in figures] == ["scores.png", "history.png", "roc.png", "pr.png", "confusion.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


def test_auc_of_two_classes_is_tested_with_delong(tmp_path: Path) -> None:
    comparison, runs = compared(tmp_path, metrics=["auc"])
    for run, wrong in zip(runs, (3, 1), strict=True):
        finish(run, wrong)
    assert [test.found.method for test in run_tests(comparison, runs)] == ["paired bootstrap by image", "DeLong"]


def test_folds_are_tested_together(tmp_path: Path) -> None:
    comparison, runs = compared(tmp_path, folds="all")
    for run, wrong in zip(runs, (4, 2, 1, 1), strict=True):
        finish(run, wrong)
    (test,) = run_tests(comparison, runs)
    assert (test.of, test.found.method) == ("2 folds", "corrected resampled t-test")
    assert test.found.difference == pytest.approx(0.2)


def test_what_failed_is_counted_and_the_rest_shown(tmp_path: Path) -> None:
    comparison, runs = compared(tmp_path, seeds=[0, 1])
    finish(runs[0], 1)
    lines = [read_line(comparison, runs, row, 100.0) for row in comparison.rows]
    assert [line.failed for line in lines] == [1, 2]
    text = markdown(comparison, lines, run_tests(comparison, runs))
    assert "1 failed" in text
    assert "| 50% & _more_ | - | - | - |" in text
    assert write_figures(comparison, runs, lines, tmp_path / "figures")


def test_an_unknown_metric_is_named(tmp_path: Path) -> None:
    comparison, runs = compared(tmp_path, metrics=["acuracy"])
    finish(runs[0], 1)
    with pytest.raises(BundleError, match="its evaluation has no score 'acuracy'; use one of"):
        read_line(comparison, runs, comparison.rows[0], 100.0)

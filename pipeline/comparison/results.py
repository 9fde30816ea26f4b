"""What the finished runs of a comparison say: scores with their spread, costs, and tests against the first row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pneumonai.pipeline.comparison.plan import Comparison, Row, Run, runs_of
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.metrics import paired
from pneumonai.pipeline.metrics.classification import find_score
from pneumonai.pipeline.training.predictions import Predictions, read_dice, read_predictions


@dataclass(frozen=True)
class Line:
    """One row at one training size.

    Attributes:
        row, percent: which.
        scores: metric -> its value in each run (seeds, or seeds x folds); None where it is not defined.
        seconds, epoch_seconds: of training, and of its median epoch; means over the runs.
        epochs: mean over the runs.
        parameters, multiply_adds: of the network, the latter for one input.
        peak_memory_bytes: of a run, the largest.
        failed: runs without an answer.
    """

    row: Row
    percent: float
    scores: Mapping[str, list[float | None]]
    seconds: float | None
    epoch_seconds: float | None
    epochs: float | None
    parameters: int | None
    multiply_adds: int | None
    peak_memory_bytes: int | None
    failed: int

    def mean(self, metric: str) -> float | None:
        """Mean over the runs; None without any."""
        values = [value for value in self.scores[metric] if value is not None]
        return float(np.mean(values)) if values else None

    def deviation(self, metric: str) -> float | None:
        """Standard deviation over the runs (of the sample, n - 1); None with fewer than two."""
        values = [value for value in self.scores[metric] if value is not None]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class RowTest:
    """A paired test of a row against the first one, at one training size; ``of`` says of which runs."""

    row: Row
    percent: float
    of: str
    found: paired.PairedTest


def read_line(comparison: Comparison, runs: Sequence[Run], row: Row, percent: float) -> Line:
    """Scores and costs of a row at a training size.

    Raises:
        BundleError: a metric that the evaluation does not give.
    """
    chosen = list(runs_of(runs, row=row, percent=percent))
    done = [run for run in chosen if run.record.exists()]
    reports = [_load(run, "scores/metrics.json") for run in done]
    records = [_load(run, "record.json") for run in done]

    def mean(of: Callable[[dict[str, Any]], float]) -> float | None:
        return float(np.mean([of(record) for record in records])) if records else None

    return Line(
        row=row,
        percent=percent,
        scores={metric: [report_score(row, report, metric) for report in reports] for metric in comparison.metrics},
        seconds=mean(lambda record: record["seconds"]["train"]),
        epoch_seconds=mean(lambda record: record["seconds"]["epoch"]),
        epochs=mean(lambda record: record["epochs"]),
        parameters=records[0]["parameters"] if records else None,
        multiply_adds=records[0]["multiply_adds"] if records else None,
        peak_memory_bytes=max((record["peak_memory_bytes"] for record in records), default=None),
        failed=len(chosen) - len(done),
    )


def report_score(row: Row, report: Mapping[str, Any], metric: str) -> float | None:
    """A score of a ``metrics.json`` by the name that a comparison gives it.

    Raises:
        BundleError: there is no such score.
    """
    try:
        entry: Any = report.get(metric)
        if "class_names" in report:
            names = report["class_names"]
            key = find_score(metric, names, report.get("positive"))
            entry = report[key.name] if key.class_index is None else report["classes"][names[key.class_index]][key.name]
        value: float | None = entry["value"]
        return value
    except (KeyError, TypeError, ValueError):
        known = ", ".join(name for name, entry in report.items() if isinstance(entry, dict) and "value" in entry)
        raise BundleError(row.bundle.name, f"its evaluation has no score {metric!r}", f"use one of {known}") from None


def run_tests(comparison: Comparison, runs: Sequence[Run]) -> list[RowTest]:
    """Every row against the first, at each training size.

    With one split: a bootstrap by patient of the difference between seed-averaged predictions, and for each seed
    McNemar's test (or DeLong's, where the first metric is the AUC of two classes). Over folds: the corrected resampled
    t-test of the means over seeds.
    """
    done = {(run.row.name, run.percent, run.seed, run.fold): run for run in runs if run.record.exists()}
    of_folds = comparison.folds != (None,)
    first, *others = comparison.rows
    tests = []
    for percent in comparison.percents:
        for row in others:
            keys = [(percent, seed, fold) for seed in comparison.seeds for fold in comparison.folds]
            both = [key for key in keys if (first.name, *key) in done and (row.name, *key) in done]
            pair = [[done[r.name, *key] for key in both] for r in (first, row)]
            if both:
                found = _fold_tests(comparison, *pair) if of_folds else _split_tests(comparison, *pair)
                tests += [RowTest(row, percent, of, result) for of, result in found]
    return tests


def _split_tests(
    comparison: Comparison, first: Sequence[Run], second: Sequence[Run]
) -> list[tuple[str, paired.PairedTest]]:
    if "class_names" not in _load(first[0], "scores/metrics.json"):
        return [_dice_test(first, second)]
    answers = [
        [read_predictions(run.folder / "scores" / "predictions.csv") for run in runs] for runs in (first, second)
    ]
    one = answers[0][0]
    if one.labels is None:
        return []
    patients, metric = one.patient_ids, comparison.metrics[0]
    means = average(answers[0]), average(answers[1])
    found = paired.paired_bootstrap(
        one.labels, means[0], means[1], one.class_names, metric=metric, patient_ids=patients
    )
    tests = [("mean of seeds" if len(first) > 1 else f"seed {first[0].seed}", found)]
    for run, a, b in zip(first, *answers, strict=True):
        pair = (one.labels, a.probabilities, b.probabilities)
        if metric == "auc" and len(one.class_names) == 2:
            result = paired.delong(*pair, one.class_names, patient_ids=patients)
        else:
            result = paired.mcnemar(*pair, patient_ids=patients)
        tests.append((f"seed {run.seed}", result))
    return tests


def _dice_test(first: Sequence[Run], second: Sequence[Run]) -> tuple[str, paired.PairedTest]:
    """Of segmentations: the Dice image by image, averaged over the seeds."""
    tables = [[read_dice(run.folder / "scores" / "predictions.csv") for run in runs] for runs in (first, second)]
    patients = list(tables[0][0].patient_ids)
    means = [np.mean([table.dice for table in of_row], axis=0) for of_row in tables]
    found = paired.paired_means(means[0], means[1], metric="dice of an image", patient_ids=patients)
    return "mean of seeds" if len(first) > 1 else f"seed {first[0].seed}", found


def _fold_tests(
    comparison: Comparison, first: Sequence[Run], second: Sequence[Run]
) -> list[tuple[str, paired.PairedTest]]:
    metric = comparison.metrics[0]

    def means(runs: Sequence[Run]) -> list[float]:
        scores = {run: report_score(run.row, _load(run, "scores/metrics.json"), metric) for run in runs}
        of_folds = [[scores[run] for run in runs_of(runs, fold=fold)] for fold in comparison.folds]
        return [float(np.mean([np.nan if score is None else score for score in fold])) for fold in of_folds]

    scores = means(first), means(second)
    if len(comparison.folds) < 2 or not np.isfinite(scores).all():
        return []
    counts = [_load(run, "record.json")["images"] for run in first]
    n_train, n_test = (float(np.mean([count[part] for count in counts])) for part in ("training", "test"))
    found = paired.corrected_resampled_t_test(*scores, n_train=n_train, n_test=n_test, metric=metric)
    return [(f"{len(comparison.folds)} folds", found)]


def average(predictions: Sequence[Predictions]) -> np.ndarray:
    """Mean probabilities ``[N, C]`` of several runs' answers to the same images."""
    return np.mean([answers.probabilities for answers in predictions], axis=0)


def _load(run: Run, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folder / name).read_text(encoding="utf-8"))
    return content

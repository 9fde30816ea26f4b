"""One table of answers to images that were held out: folds pooled, ensembles, 95 % intervals by patient.

    python benchmarks/pooled_folds.py --row plain RUNS/plain*/scores/predictions.csv \\
        --row large RUNS/large*/scores/predictions.csv --ensemble both=plain,large

A row is a name and the ``predictions.csv`` of its folds (of ``evaluate.json`` or ``pneumonai compare``); of several
answers to an image, as other seeds give, the mean probability counts. An ensemble is the mean of rows. All rows
answer the same images, and each is tested against the first. ``--where /cap/`` keeps images with that in their
path: the accuracy is then the recall of that kind.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from pneumonai.pipeline.metrics.classification import classification_report, find_score
from pneumonai.pipeline.metrics.paired import paired_bootstrap
from pneumonai.pipeline.training.predictions import Predictions, read_predictions


def pool(name: str, paths: list[str], where: str = "") -> Predictions:
    """The answers of all files to images with a text in their path, each image once, in the order of their names."""
    answers: dict[str, list[Any]] = {}
    files = [read_predictions(path) for path in paths]
    for file in files:
        if file.labels is None:
            sys.exit(f"error: {name}: a file has no labels; write it with evaluate.json")
        for image, patient, label, row in zip(
            file.images, file.patient_ids, file.labels, file.probabilities, strict=True
        ):
            answers.setdefault(image, [patient, label, []])[2].append(row)
    ordered = sorted(item for item in answers.items() if where in item[0])
    if not ordered:
        sys.exit(f"error: {name}: no image has {where!r} in its path; see the column image")
    return Predictions(
        [image for image, _ in ordered],
        [patient for _, (patient, _, _) in ordered],
        np.array([label for _, (_, label, _) in ordered]),
        np.array([np.mean(rows, axis=0) for _, (_, _, rows) in ordered]),
        files[0].class_names,
    )


def table(rows: dict[str, Predictions], metrics: list[str]) -> str:
    """Markdown: a row's scores with their intervals, and the first metric's difference from the first row."""
    first = next(iter(rows.values()))
    lines = [
        f"| of {len(first.images)} images | " + " | ".join(metrics) + f" | {metrics[0]} against the first row |",
        "| --- |" + " ---: |" * len(metrics) + " --- |",
    ]
    for name, row in rows.items():
        report = classification_report(row.labels, row.probabilities, row.class_names, patient_ids=row.patient_ids)
        cells = [_cell(report, metric, row.class_names) for metric in metrics]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {'' if row is first else _difference(row, first, metrics[0])} |"
        )
    return "\n".join(lines)


def _cell(report: dict[str, Any], metric: str, class_names: list[str]) -> str:
    key = find_score(metric, class_names, report["positive"])
    part = report if key.class_index is None else report["classes"][class_names[key.class_index]]
    low, high = part[key.name]["interval"] or (np.nan, np.nan)
    return f"{part[key.name]['value']:.3f} ({low:.3f} to {high:.3f})"


def _difference(row: Predictions, first: Predictions, metric: str) -> str:
    found = paired_bootstrap(
        first.labels,
        first.probabilities,
        row.probabilities,
        row.class_names,
        metric=metric,
        patient_ids=row.patient_ids,
    )
    low, high = found.interval or (np.nan, np.nan)
    return f"{found.difference:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Read, pool, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", nargs="+", required=True, metavar=("NAME", "PREDICTIONS"))
    parser.add_argument("--ensemble", action="append", default=[], metavar="NAME=ROW,ROW,...")
    parser.add_argument("--where", default="", metavar="TEXT")
    parser.add_argument("--metrics", default="accuracy,f1,auc")
    arguments = parser.parse_args()
    rows = {name: pool(name, paths, arguments.where) for name, *paths in arguments.row}
    first = next(iter(rows.values()))
    for name, row in rows.items():
        if row.images != first.images:
            sys.exit(f"error: {name}: its {len(row.images)} images are not those of the first row; pool the same folds")
    for name, _, members in (ensemble.partition("=") for ensemble in arguments.ensemble):
        chosen = [rows[member] for member in members.split(",")]
        rows[name] = chosen[0]._replace(probabilities=np.mean([row.probabilities for row in chosen], axis=0))
    print(table(rows, arguments.metrics.split(",")))


if __name__ == "__main__":
    main()

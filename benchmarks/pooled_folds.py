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
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bundle_runs import pneumonai

from pneumonai.pipeline.comparison.plan import plan_runs, read_comparison
from pneumonai.pipeline.metrics.classification import classification_report, find_score
from pneumonai.pipeline.metrics.paired import paired_bootstrap
from pneumonai.pipeline.training.predictions import Predictions, read_predictions, write_rows


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


def compare_pooled(comparison: dict[str, Any], config: Path, folder: Path, jobs: int) -> dict[str, Predictions]:
    """The pooled answers to the images held out, by row, of ``pneumonai compare``; runs that are done stay done.

    Args:
        comparison: what the config says; its datalist lies beside the config.
        config: file to write it to.
        folder: of the runs and the table.
        jobs: trainings at a time.
    """
    config.write_text(json.dumps(comparison, indent=1))
    pneumonai("compare", config, "--output", folder, "--jobs", jobs)
    runs = plan_runs(read_comparison(config), folder)
    names = [row["name"] for row in comparison["rows"]]
    return {
        name: pool(name, [str(run.folder / "scores" / "predictions.csv") for run in runs if run.row.name == name])
        for name in names
    }


def write_answers(row: Predictions, path: Path) -> None:
    """Pooled answers in the form of an evaluation's ``predictions.csv``."""
    assert row.labels is not None
    columns = ["image", "patient_id", "label", "pred", *(f"p_{name}" for name in row.class_names)]
    write_rows(
        path,
        columns,
        (
            {
                "image": image,
                "patient_id": patient,
                "label": row.class_names[label],
                "pred": row.class_names[p.argmax()],
            }
            | {f"p_{name}": float(value) for name, value in zip(row.class_names, p, strict=True)}
            for image, patient, label, p in zip(row.images, row.patient_ids, row.labels, row.probabilities, strict=True)
        ),
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

"""A report on disk: ``metrics.json``, the same scores as ``metrics.csv``, and the figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pneumonai.pipeline.metrics.resampling import is_score
from pneumonai.pipeline.outputs.files import whole_file, write_bytes

COLUMNS = ("score", "class", "value", "low", "high")
"""Of ``metrics.csv``; ``class`` is empty for a score of all classes, a value that is not defined too."""


def write_report(
    report: Mapping[str, Any],
    output_dir: str | Path,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
    name: str = "model",
) -> list[Path]:
    """Write a report of a classification or a segmentation.

    Args:
        report: of :func:`classification_report` or :func:`segmentation_report`.
        output_dir: folder of the files; made where missing.
        labels: true class indices, ``[N]``; with ``probabilities``, the figures of a classification are drawn.
        probabilities: ``[N, C]``.
        name: what the figures call the model.

    Returns:
        The files: ``metrics.json``, ``metrics.csv`` and, with answers, ``roc.png, pr.png, confusion.png,
        reliability.png``.

    Raises:
        OutputError: the file system refused.
    """
    folder = Path(output_dir)
    files = [folder / "metrics.json", folder / "metrics.csv"]
    write_bytes(files[0], (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    with whole_file(files[1]) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(report_rows(report))
    if labels is not None and probabilities is not None:
        files += _write_figures(report, folder, {name: (labels, probabilities)}, name)
    return files


def report_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any, Any]]:
    """The numbers of a report in long form, as :data:`COLUMNS`; None where there is none."""
    for key, entry in report.items():
        if key.startswith("n_"):
            yield key, "", entry, None, None
        elif is_score(entry):
            yield key, "", entry["value"], *(entry["interval"] or (None, None))
    for name, scores in report.get("classes", {}).items():
        yield "support", name, scores["support"], None, None
        for key, entry in scores.items():
            if is_score(entry):
                yield key, name, entry["value"], *(entry["interval"] or (None, None))


def _write_figures(
    report: Mapping[str, Any], folder: Path, models: dict[str, tuple[Any, Any]], name: str
) -> list[Path]:
    from pneumonai.pipeline.metrics.figures import (
        confusion_figure,
        pr_figure,
        reliability_figure,
        roc_figure,
        save_figure,
    )

    names, reports = report["class_names"], {name: report}
    figures = {
        "roc.png": roc_figure(models, names, positive=report["positive"], reports=reports),
        "pr.png": pr_figure(models, names, positive=report["positive"], reports=reports),
        "confusion.png": confusion_figure(models, names),
        "reliability.png": reliability_figure(models, reports=reports),
    }
    for file_name, figure in figures.items():
        save_figure(figure, folder / file_name)
    return [folder / file_name for file_name in figures]

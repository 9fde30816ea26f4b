"""Pictures of a comparison: scores with every run as a point, size of the training part, curves, learning."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pneumonai.pipeline.comparison.plan import Comparison, Run, runs_of
from pneumonai.pipeline.comparison.results import Line, average
from pneumonai.pipeline.metrics.figures import COLOURS, confusion_figure, pr_figure, roc_figure, save_figure
from pneumonai.pipeline.training.checkpoint import HISTORY
from pneumonai.pipeline.training.predictions import read_predictions


def write_figures(comparison: Comparison, runs: Sequence[Run], lines: Sequence[Line], output: Path) -> list[Path]:
    """Write the figures that the runs allow; returns their paths.

    ``scores.png``; ``training_size.png`` with more than one size; ``history.png``; and for classifications with one
    split ``roc.png``, ``pr.png``, ``confusion.png`` of the seed-averaged answers at the largest size.

    Args:
        comparison: what was compared.
        runs: all runs; those without a record are left out.
        lines: of :func:`pneumonai.pipeline.comparison.results.read_line`.
        output: folder of the pictures.
    """
    done = [run for run in runs if run.record.exists()]
    if not done:
        return []
    largest = max(comparison.percents)
    figures = {"scores.png": scores_figure(comparison, [line for line in lines if line.percent == largest])}
    if len(comparison.percents) > 1:
        figures["training_size.png"] = training_size_figure(comparison, lines)
    figures["history.png"] = history_figure(comparison, list(runs_of(done, percent=largest)))
    models, names = _averaged_answers(comparison, list(runs_of(done, percent=largest)))
    if models:
        figures["roc.png"] = roc_figure(models, names)
        figures["pr.png"] = pr_figure(models, names)
        figures["confusion.png"] = confusion_figure(models, names)
    for name, figure in figures.items():
        save_figure(figure, output / name)
    return [output / name for name in figures]


def _averaged_answers(
    comparison: Comparison, runs: Sequence[Run]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    models: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    names: list[str] = []
    for row in comparison.rows if comparison.folds == (None,) else ():
        files = [run.folder / "scores" / "predictions.csv" for run in runs_of(runs, row=row)]
        header = files[0].open(encoding="utf-8").readline() if files else ""
        if ",p_" in header:
            answers = [read_predictions(file) for file in files]
            if answers[0].labels is not None and (not names or names == answers[0].class_names):
                names = answers[0].class_names
                models[row.name] = (answers[0].labels, average(answers))
    return models, names


def scores_figure(comparison: Comparison, lines: Sequence[Line]) -> Figure:
    """Each metric a panel, each model a row: every run a point, the mean a line, a published figure a diamond."""
    metrics = comparison.metrics
    figure = Figure(figsize=(2.6 * len(metrics) + 1.2, 0.5 * len(lines) + 1.1), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for place, line in enumerate(lines):
            values = [value for value in line.scores[metric] if value is not None]
            spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
            colour = COLOURS[place % len(COLOURS)]
            axes.scatter(values, [place + s for s in spread[: len(values)]], s=18, color=colour, alpha=0.7, zorder=3)
            mean = line.mean(metric)
            if mean is not None:
                axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2.2, zorder=4)
            published = line.row.published_at(line.percent)
            if metric in published:
                printed = published[metric] / 100
                axes.scatter([printed], [place], marker="D", s=26, facecolors="none", edgecolors="#555555", zorder=2)
        axes.set_title(metric, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(lines)), [line.row.name for line in lines])
    panels[0].set_ylim(len(lines) - 0.5, -0.5)
    note = "points: runs; line: their mean"
    if any(line.row.published_at(line.percent) for line in lines):
        note += "; diamond: published, on other data"
    figure.supxlabel(note, fontsize=8, color="#555555")
    return figure


def training_size_figure(comparison: Comparison, lines: Sequence[Line]) -> Figure:
    """The first metric against the size of the training part, a line a model, runs as points."""
    metric = comparison.metrics[0]
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(comparison.rows):
        own = sorted((line for line in lines if line.row is row), key=lambda line: line.percent)
        colour = COLOURS[number % len(COLOURS)]
        means = [np.nan if (mean := line.mean(metric)) is None else mean for line in own]
        axes.plot([line.percent for line in own], means, marker="o", markersize=5, color=colour, label=row.name)
        for line in own:
            values = [value for value in line.scores[metric] if value is not None]
            axes.scatter([line.percent] * len(values), values, s=10, color=colour, alpha=0.45)
    axes.set(xlabel=f"training part, % of {'all images' if comparison.of_all else 'itself'}", ylabel=metric)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def history_figure(comparison: Comparison, runs: Sequence[Run]) -> Figure:
    """Training loss and validation score over the epochs, a thin line a run."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for number, row in enumerate(comparison.rows):
        for count, run in enumerate(runs_of(runs, row=row)):
            with (run.folder / HISTORY).open(newline="", encoding="utf-8") as file:
                epochs = list(csv.DictReader(file))
            columns = ("train_loss", next((name for name in epochs[0] if name.startswith("val_")), ""))
            for axes, column in zip(panels, columns, strict=True):
                points = [(float(e["epoch"]), float(e[column])) for e in epochs if e.get(column)]
                style = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.1, "alpha": 0.8}
                axes.plot(*zip(*points, strict=True), **style, label=row.name if count == 0 else None)
                axes.set(xlabel="epoch", ylabel=column)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:
        axes.grid(linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=9)
    return figure

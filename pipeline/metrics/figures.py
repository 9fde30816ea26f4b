"""Figures of classification: ROC, precision-recall, confusion and reliability, of one model or of several overlaid.

Each function takes a mapping from a model's name to ``(labels, probabilities)`` and gives a matplotlib ``Figure`` that
belongs to no window and no global state; :func:`save_figure` writes it. One model: a curve a class (with two classes
the positive one's). Several: a panel a class, a curve a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumonai.pipeline.metrics.calibration import reliability_bins
from pneumonai.pipeline.metrics.classification import positive_index
from pneumonai.pipeline.outputs.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Models = Mapping[str, tuple[Sequence[int] | np.ndarray, np.ndarray]]
"""Name of a model -> true class indices ``[N]`` and probabilities ``[N, C]``."""

Style = dict[str, Any]

# Okabe and Ito's palette, which colour-blind readers can tell apart; black and yellow left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", "-.", ":")
_GREY = "#999999"
_GUESSING: Style = {"linewidth": 0.8, "linestyle": (0, (2, 3)), "zorder": 0}
_LEGEND: Style = {"fontsize": 9, "frameon": False, "handlelength": 2.8, "borderaxespad": 0, "borderpad": 0}
_SIDE = 4.4
_LINE = 0.2
_DPI = 150


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        OutputError: the file system refused.
    """
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.1)


def roc_figure(
    models: Models,
    class_names: Sequence[str],
    *,
    positive: str | None = None,
    reports: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """ROC curves with the AUC, and its interval where a report is given, in the legend.

    Args:
        models: see :data:`Models`.
        class_names: C names in index order.
        positive: of two classes, the one that is drawn; the last when None.
        reports: name of a model -> its :func:`classification_report`.
    """

    def draw(
        axes: Axes, is_class: np.ndarray, scores: np.ndarray, entry: Mapping[str, Any] | None, style: Style
    ) -> None:
        from sklearn.metrics import roc_auc_score, roc_curve

        if is_class.all() or not is_class.any():
            _plot_nothing(axes, style)
            return
        false_positive, true_positive, _ = roc_curve(is_class, scores)
        area = _in_words("AUC", float(roc_auc_score(is_class, scores)), entry and entry["auc"])
        axes.plot(false_positive, true_positive, **(style | {"label": f"{style['label']}: {area}"}))

    figure, panels = _curves(models, class_names, positive, reports, draw)
    for axes in panels:
        axes.plot([0, 1], [0, 1], color=_GREY, **_GUESSING)
        axes.set(xlabel="1 - specificity (false positive rate)", ylabel="sensitivity (true positive rate)")
        _legend_below(axes)
    return figure


def pr_figure(
    models: Models,
    class_names: Sequence[str],
    *,
    positive: str | None = None,
    reports: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """Precision-recall curves with the average precision in the legend; arguments as :func:`roc_figure`.

    A dotted line is the precision of guessing: the share of the class.
    """

    def draw(
        axes: Axes, is_class: np.ndarray, scores: np.ndarray, entry: Mapping[str, Any] | None, style: Style
    ) -> None:
        from sklearn.metrics import average_precision_score, precision_recall_curve

        if not is_class.any():
            _plot_nothing(axes, style)
            return
        precision, recall, _ = precision_recall_curve(is_class, scores)
        # Once all are found, further thresholds only add a vertical line down to the share of the class.
        found = int(np.flatnonzero(recall == 1)[-1])
        area = float(average_precision_score(is_class, scores))
        mean = _in_words("AP", area, entry and entry["average_precision"])
        steps = style | {"label": f"{style['label']}: {mean}", "drawstyle": "steps-post"}
        axes.plot(recall[found:], precision[found:], **steps)
        share = float(is_class.mean())
        axes.axhline(share, color=style["color"] if len(models) == 1 else _GREY, **_GUESSING)

    figure, panels = _curves(models, class_names, positive, reports, draw)
    for axes in panels:
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
        _legend_below(axes)
    return figure


def confusion_figure(models: Models, class_names: Sequence[str]) -> Figure:
    """Confusion matrices, a panel a model: counts, and per cent of the row (of the true class), which is the shade."""
    from sklearn.metrics import confusion_matrix

    size = len(class_names)
    side = max(3.2, 0.95 * size + 1.4)
    figure, panels = _panels(list(models) if len(models) > 1 else [""], side, side - 0.2)
    for axes, (labels, probabilities) in zip(panels, models.values(), strict=True):
        cells = confusion_matrix(labels, np.argmax(probabilities, axis=1), labels=range(size))
        rows = cells.sum(axis=1, keepdims=True)
        shares = np.divide(cells, rows, out=np.zeros(cells.shape), where=rows > 0)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(cells):
            share = f"{100 * shares[row, column]:.1f} %" if rows[row, 0] else "–"
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count:,}\n{share}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(size), class_names, rotation=30 if size > 3 else 0)
        axes.set_yticks(range(size), [f"{name}\nn = {n:,}" for name, n in zip(class_names, rows[:, 0], strict=True)])
        axes.tick_params(length=0)
        axes.set(xlabel="answer", ylabel="truth")
        axes.spines[:].set_visible(False)
    return figure


def reliability_figure(models: Models, *, reports: Mapping[str, Mapping[str, Any]] | None = None) -> Figure:
    """Accuracy against mean confidence in 15 bins, and below it how many images fall into each.

    Points on the diagonal are calibrated; below it the model is too sure. A point's size grows with its images.

    Args:
        models: see :data:`Models`.
        reports: name of a model -> its :func:`classification_report`, for the calibration error in the legend.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(_SIDE + 0.6, _SIDE + 1.4 + _LINE * len(models))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color=_GREY, **_GUESSING)
    lowest = 1.0
    for n, (name, (labels, probabilities)) in enumerate(models.items()):
        bins = [b for b in reliability_bins(np.asarray(labels), np.asarray(probabilities)) if b["n"]]
        confidence, accuracy, count = (np.array([b[key] for b in bins]) for key in ("confidence", "accuracy", "n"))
        lowest = min(lowest, 1 / np.shape(probabilities)[1])
        error = float(np.abs(accuracy - confidence) @ count / count.sum())
        words = _in_words("ECE", error, reports[name]["ece"] if reports and name in reports else None)
        style = _style(n, f"{name}: {words}" if len(models) > 1 else words)
        axes.plot(confidence, accuracy, **style)
        axes.scatter(confidence, accuracy, s=15 + 90 * count / count.max(), color=style["color"], zorder=3)
        if len(models) == 1:
            edges, widths = [b["low"] for b in bins], [b["high"] - b["low"] for b in bins]
            below.bar(edges, count, width=widths, align="edge", color=style["color"], edgecolor="white")
        else:
            below.plot(confidence, count, **(style | {"label": None}))
    for panel in (axes, below):
        _dress(panel)
    axes.set(ylabel="accuracy", xlim=(lowest - 0.02, 1.02), ylim=(-0.03, 1.03))
    below.set(xlabel="confidence (highest probability)", ylabel="images", ylim=(0, None))
    below.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), **_LEGEND)
    return figure


def _curves(
    models: Models,
    class_names: Sequence[str],
    positive: str | None,
    reports: Mapping[str, Mapping[str, Any]] | None,
    draw: Callable[[Axes, np.ndarray, np.ndarray, Mapping[str, Any] | None, Style], None],
) -> tuple[Figure, list[Axes]]:
    """Square panels from 0 to 1 with a curve a class of one model, or a panel a class with a curve a model."""
    chosen = positive_index(class_names, positive)
    classes = list(range(len(class_names))) if chosen is None else [chosen]
    together = len(models) == 1
    titles = [class_names[c] if chosen is not None else f"{class_names[c]} against the rest" for c in classes]
    lines = len(classes) if together else len(models)
    figure, panels = _panels([""] if together else titles, _SIDE, _SIDE + 0.3 + _LINE * lines)
    for n, c in enumerate(classes):
        for m, (name, (labels, probabilities)) in enumerate(models.items()):
            report = (reports or {}).get(name)
            entry = None if report is None else report["classes"][class_names[c]]
            style = _style(n, class_names[c]) if together else _style(m, name)
            scores = np.asarray(probabilities)[:, c]
            draw(panels[0 if together else n], np.asarray(labels) == c, scores, entry, style)
    for axes in panels:
        _dress(axes)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, panels


def _panels(titles: Sequence[str], width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(len(titles), 4)
    rows = -(-len(titles) // columns)
    figure = _figure(width * columns, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(titles) :]:
        axes.remove()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, fontsize=10)
    return figure, panels[: len(titles)]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(n: int, label: str) -> Style:
    colour, dash = COLOURS[n % len(COLOURS)], _DASHES[(n + n // len(COLOURS)) % len(_DASHES)]
    return {"color": colour, "linestyle": dash, "linewidth": 1.6, "label": label}


def _plot_nothing(axes: Axes, style: Style) -> None:
    """A line in the legend for a curve that is not defined."""
    axes.plot([], [], **(style | {"label": f"{style['label']}: not defined (class absent, or nothing else)"}))


def _in_words(name: str, value: float, entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["interval"] is None:
        return f"{name} {value:.3f}"
    low, high = entry["interval"]
    return f"{name} {value:.3f} ({low:.3f} to {high:.3f})"


def _dress(axes: Axes) -> None:
    axes.grid(color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_below(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), **_LEGEND)

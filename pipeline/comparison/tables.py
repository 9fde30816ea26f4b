"""Tables as papers print them: Markdown, LaTeX and CSV from the same rows; everything else as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from pneumonai.data_manifests.datalist import read_datalist
from pneumonai.pipeline.comparison.plan import Comparison
from pneumonai.pipeline.comparison.results import Line, RowTest
from pneumonai.pipeline.outputs.files import write_bytes

# Scores that are no shares and are printed as they are.
PLAIN = ("kappa", "ece", "brier", "negative_log_likelihood", "surface_distance", "hausdorff", "volume", "_mm", "_ml")
NOTICE = "Research results, not for clinical use."


def write_tables(comparison: Comparison, lines: Sequence[Line], tests: Sequence[RowTest], output: Path) -> None:
    """Write ``table.md``, ``table.tex``, ``table.csv`` and ``results.json``.

    Args:
        comparison: what was compared.
        lines: a row of the table each.
        tests: against the first row.
        output: folder of the files.
    """
    texts = {
        "table.md": markdown(comparison, lines, tests),
        "table.tex": latex(comparison, lines),
        "table.csv": comma_separated(comparison, lines),
        "results.json": json.dumps(as_dict(comparison, lines, tests), indent=2) + "\n",
    }
    for name, text in texts.items():
        write_bytes(output / name, text.encode())


def score_cells(comparison: Comparison, line: Line, *, plus_minus: str) -> list[str]:
    """A line's scores, in per cent where they are shares, with the standard deviation over the runs."""
    cells = []
    for metric in comparison.metrics:
        mean, deviation = line.mean(metric), line.deviation(metric)
        scale = 1 if any(word in metric for word in PLAIN) else 100
        digits = 3 if scale == 1 else 2
        text = "-" if mean is None else f"{scale * mean:.{digits}f}"
        cells.append(text if deviation is None else f"{text} {plus_minus} {scale * deviation:.{digits}f}")
    return cells


def cost_cells(line: Line) -> list[str]:
    """Parameters, multiply-adds, epochs, seconds of training and of an epoch, peak memory."""

    def cell(value: float | None, unit: float, digits: int) -> str:
        return "-" if value is None else f"{value / unit:,.{digits}f}"

    return [
        cell(line.parameters, 1e6, 2),
        cell(line.multiply_adds, 1e9, 2),
        cell(line.epochs, 1, 0),
        cell(line.seconds, 1, 0),
        cell(line.epoch_seconds, 1, 1),
        cell(line.peak_memory_bytes, 2**30, 2),
    ]


COSTS = ("parameters (M)", "multiply-adds (G)", "epochs", "training (s)", "median epoch (s)", "peak memory (GiB)")


def _columns(comparison: Comparison) -> tuple[list[str], list[str]]:
    size = "% of all images" if comparison.of_all else "% of training"
    return ["model", *([size] if _sizes_matter(comparison) else [])], list(comparison.metrics)


def _sizes_matter(comparison: Comparison) -> bool:
    return comparison.percents != (100.0,)


def _names(comparison: Comparison, line: Line) -> list[str]:
    return [line.row.name, *([f"{line.percent:g}"] if _sizes_matter(comparison) else [])]


def markdown(comparison: Comparison, lines: Sequence[Line], tests: Sequence[RowTest]) -> str:
    """Scores, published figures beside them, tests, costs and what was done, as Markdown."""
    names, metrics = _columns(comparison)
    rows = []
    for line in lines:
        failed = [f"{line.failed} failed"] if line.failed else []
        rows.append([*_names(comparison, line), *score_cells(comparison, line, plus_minus="±"), *failed])
        published = line.row.published_at(line.percent)
        if published:
            printed = [f"{published[m]:g}" if m in published else "" for m in metrics]
            filler = [f"{line.percent:g}"] * (len(names) - 1)
            rows.append([f"{line.row.name}, as published", *filler, *(f"*{p}*" if p else "" for p in printed)])
    parts = [f"# {comparison.title}", *_words(comparison), _pipe_table([*names, *metrics], rows)]
    if any(line.row.published_at(line.percent) for line in lines):
        parts.append("*In italics: figures published by the papers' authors, on their own data; not measured here.*")
    if tests:
        parts += [f"## Against {comparison.rows[0].name}", _test_table(comparison, tests), _test_words(comparison)]
    costs = [[*_names(comparison, line), *cost_cells(line)] for line in lines]
    parts += ["## Cost of a run", _pipe_table([*names, *COSTS], costs)]
    parts.append(
        "Multiply-adds are those of one input. Training includes preparing the images where no earlier run had."
    )
    return "\n\n".join([*parts, NOTICE]) + "\n"


def _words(comparison: Comparison) -> list[str]:
    content = read_datalist(comparison.datalist)
    counts = {part: len(content.get(part) or []) for part in ("training", "validation", "test")}
    made = [f"{len(comparison.seeds)} seed{'s' if len(comparison.seeds) > 1 else ''}"]
    if comparison.folds != (None,):
        made.append(f"{len(comparison.folds)} folds")
    spread = " Mean ± standard deviation over the runs." if len(comparison.seeds) * len(comparison.folds) > 1 else ""
    images = ", ".join(f"{part} {count}" for part, count in counts.items() if count)
    name = content.get("name") or comparison.datalist.name
    first = f"Data: {name} (images: {images}). {' x '.join(made)}.{spread} Shares in per cent."
    warnings = content.get("pneumonai", {}).get("warnings", [])
    return [first, *(f"Warning of the datalist: {warning}" for warning in warnings)]


def _pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    left = "| --- " + "| ---: " * (len(header) - 1) + "|"
    return "\n".join(["| " + " | ".join(header) + " |", left, *("| " + " | ".join(row) + " |" for row in rows)])


def _test_table(comparison: Comparison, tests: Sequence[RowTest]) -> str:
    names, _ = _columns(comparison)
    rows = []
    for test in tests:
        found = test.found
        size = [f"{test.percent:g}"] if _sizes_matter(comparison) else []
        difference = "-" if found.difference is None else f"{100 * found.difference:+.2f}"
        interval = (
            "-" if found.interval is None else f"{100 * found.interval[0]:+.2f} to {100 * found.interval[1]:+.2f}"
        )
        p_value = "-" if found.p_value is None else "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
        rows.append([test.row.name, *size, test.of, found.method, found.metric, difference, interval, p_value])
    return _pipe_table([*names, "runs", "test", "score", "difference", "95 % interval", "p"], rows)


def _test_words(comparison: Comparison) -> str:
    number = len(comparison.rows) - 1
    several = f" {number} models are tested, without a correction for that." if number > 1 else ""
    return f"Differences in percentage points; positive: better than {comparison.rows[0].name}.{several}"


def latex(comparison: Comparison, lines: Sequence[Line]) -> str:
    """The scores as a LaTeX ``tabular`` (package booktabs)."""
    names, metrics = _columns(comparison)

    def escaped(text: str) -> str:
        return "".join(f"\\{character}" if character in "%_&#$" else character for character in text)

    rows = [[*_names(comparison, line), *score_cells(comparison, line, plus_minus="$\\pm$")] for line in lines]
    body = [" & ".join([*map(escaped, row[: len(names)]), *row[len(names) :]]) + " \\\\" for row in rows]
    header = " & ".join(map(escaped, [*names, *metrics])) + " \\\\"
    start = f"\\begin{{tabular}}{{{'l' * len(names)}{'r' * len(metrics)}}}"
    return "\n".join([start, "\\toprule", header, "\\midrule", *body, "\\bottomrule", "\\end{tabular}"]) + "\n"


def comma_separated(comparison: Comparison, lines: Sequence[Line]) -> str:
    """A line a model and training size: means and standard deviations as numbers (0..1 for shares), and costs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    scores = [f"{metric}_{what}" for metric in comparison.metrics for what in ("mean", "std", "published_percent")]
    costs = ["parameters", "multiply_adds", "epochs", "seconds", "epoch_seconds", "peak_memory_bytes"]
    writer.writerow(["model", "percent", "runs", "failed", *scores, *costs])
    for line in lines:
        numbers = [
            value
            for metric in comparison.metrics
            for value in (line.mean(metric), line.deviation(metric), line.row.published_at(line.percent).get(metric))
        ]
        runs = len(next(iter(line.scores.values())))
        writer.writerow([line.row.name, line.percent, runs, line.failed, *numbers, *(getattr(line, c) for c in costs)])
    return buffer.getvalue()


def as_dict(comparison: Comparison, lines: Sequence[Line], tests: Sequence[RowTest]) -> dict[str, object]:
    """Everything, ready for JSON."""
    return {
        "title": comparison.title,
        "seeds": list(comparison.seeds),
        "folds": [fold for fold in comparison.folds if fold is not None],
        "lines": [
            {
                "model": line.row.name,
                "bundle": line.row.bundle.name,
                "percent": line.percent,
                "scores": {
                    metric: {"mean": line.mean(metric), "std": line.deviation(metric), "runs": values}
                    for metric, values in line.scores.items()
                },
                "published_percent": dict(line.row.published_at(line.percent)),
                "failed": line.failed,
                "seconds": line.seconds,
                "epoch_seconds": line.epoch_seconds,
                "epochs": line.epochs,
                "parameters": line.parameters,
                "multiply_adds": line.multiply_adds,
                "peak_memory_bytes": line.peak_memory_bytes,
            }
            for line in lines
        ],
        "tests": [
            {"model": test.row.name, "percent": test.percent, "of": test.of} | test.found.as_dict() for test in tests
        ],
        "notice": NOTICE,
    }

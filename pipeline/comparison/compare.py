"""A whole comparison: plan, run what is not done, write tables and figures over what is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumonai.pipeline.comparison.plan import Run, plan_runs, read_comparison
from pneumonai.pipeline.comparison.results import Line, read_line, run_tests
from pneumonai.pipeline.comparison.schedule import do_runs
from pneumonai.pipeline.comparison.tables import write_tables


@dataclass(frozen=True)
class Outcome:
    """What came of a comparison.

    Attributes:
        lines: a row of the table each.
        failed: runs without an answer, with the last line of their log.
        table: path of ``table.md``.
    """

    lines: list[Line]
    failed: dict[Run, str]
    table: Path


def compare(
    config: str | Path,
    output: str | Path,
    *,
    datalist: str | Path | None = None,
    dataset_dir: str | Path | None = None,
    overlays: Sequence[str | Path] = (),
    jobs: int = 1,
    gpus: Sequence[str] = (),
    quiet: bool = False,
    run: bool = True,
) -> Outcome:
    """Do a comparison; started again with the same output, it goes on where it was.

    Args:
        config: the comparison's config.
        output: folder of the runs, tables and figures.
        datalist, dataset_dir: instead of the config's.
        overlays: see :func:`~pneumonai.pipeline.comparison.plan.read_comparison`.
        jobs: runs at a time.
        gpus: ids for the jobs in turn.
        quiet: no progress.
        run: False to write tables and figures of the runs that are done.

    Raises:
        ManifestError: of the config or the datalist.
        BundleError: an unknown bundle, overlay or metric.
    """
    from pneumonai.pipeline.comparison.figures import write_figures

    output = Path(output).resolve()
    comparison = read_comparison(config, datalist=datalist, dataset_dir=dataset_dir, overlays=overlays)
    runs = plan_runs(comparison, output)
    failed = do_runs(runs, jobs=jobs, gpus=gpus, quiet=quiet) if run else {}
    lines = [read_line(comparison, runs, row, percent) for row in comparison.rows for percent in comparison.percents]
    write_tables(comparison, lines, run_tests(comparison, runs), output)
    write_figures(comparison, runs, lines, output)
    return Outcome(lines, failed, output / "table.md")

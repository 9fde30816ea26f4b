"""``pneumonai manifest``: datalists for MONAI, built, checked, converted, thinned out; each command a thin function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

manifest_app = typer.Typer(help="Datalists for MONAI: build, check, convert, subset.", no_args_is_help=True)


@manifest_app.command()
def check(
    datalist: Annotated[Path, typer.Argument(metavar="DATALIST", help="The datalist.json.")],
    data_dir: Annotated[
        Path | None, typer.Argument(metavar="[DATA_DIR]", help="Where its paths start; default: the datalist's folder.")
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="All findings as JSON; - is stdout, without the table.")
    ] = None,
    description: Annotated[
        str | None, typer.Option(help="The dataset's description; default: the one that the datalist names.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Check a datalist and its files: exit code 1 where there are errors, 0 with warnings alone."""
    from rich.console import Console

    from pneumonai.data_manifests.check import check_datalist
    from pneumonai.pipeline.outputs.files import write_bytes

    with _bar("reading", hidden=quiet) as progress:
        report = check_datalist(datalist, data_dir, description=description, workers=workers, progress=progress)
    if as_json is not None:
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if as_json == "-":
            typer.echo(text, nl=False)
        else:
            write_bytes(as_json, text.encode())
    if as_json != "-":
        report.render(Console())
    if report.errors:
        raise typer.Exit(1)


@contextmanager
def _bar(what: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; gives the function that is told how many of how many are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

"""``pneumonai manifest``: datalists for MONAI, built, checked, converted, thinned out; each command a thin function."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pneumonai.pipeline.progress import step_progress

manifest_app = typer.Typer(help="Datalists for MONAI: build, check, convert, subset.", no_args_is_help=True)


class Modality(StrEnum):
    """What images show."""

    CT = "CT"
    CXR = "CXR"


class Of(StrEnum):
    """What the percentages of subsets are of."""

    TRAINING = "training"
    ALL = "all"


class VolumeForm(StrEnum):
    """How converted volumes are written."""

    NIFTI = "nifti"
    DICOM = "dicom"


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

    with step_progress(hidden=quiet) as tell:
        progress = partial(tell, "reading")
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


@manifest_app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE_DIR", help="CLASS/PATIENT/SCAN/NNNN.png, as downloaded.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the volumes.")],
    dataset: Annotated[str, typer.Option(help="Whose description says what is assumed.")] = "cc_ccii",
    form: Annotated[VolumeForm, typer.Option("--format", help="How volumes are written.")] = VolumeForm.NIFTI,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    min_slices: Annotated[int, typer.Option(min=1, help="A scan with fewer is skipped.")] = 10,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no line a skipped scan.")] = False,
) -> None:
    """Picture stacks into one volume a scan, Hounsfield units and spacing assumed; exit code 1 where some are skipped.

    Finished scans are kept: after an interruption, or with repaired scans, run it again.
    """
    from pneumonai.data_manifests.convert import convert_scans
    from pneumonai.pipeline.outputs.files import output_error

    try:
        with step_progress(hidden=quiet) as tell:
            done = convert_scans(
                source,
                output,
                dataset=dataset,
                form=form.value,
                workers=workers,
                min_slices=min_slices,
                progress=partial(tell, "scans"),
            )
    except OSError as error:
        raise output_error(error.filename or output, error) from error
    except KeyboardInterrupt:
        typer.echo("interrupted: finished scans are whole; run it again to go on", err=True)
        raise typer.Exit(130) from None
    for outcome in [] if quiet else done.skipped:
        typer.echo(f"warning: {outcome.scan.folder}: {outcome.reason}; skipped", err=True)
    resumed = sum(outcome.resumed for outcome in done.outcomes)
    there = len(done.outcomes) - len(done.skipped)
    typer.echo(
        f"{there} of {len(done.outcomes)} scans are volumes ({resumed} from an earlier run); {done.table}"
        + (f", {done.datalist}" if done.datalist else "")
        + (f"; {len(done.skipped)} skipped, {done.skipped_table}" if done.skipped else "")
    )
    if done.skipped:
        raise typer.Exit(1)


@manifest_app.command()
def build(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME] DATA_DIR",
            help="A described dataset (see list) and the folder of its download; with --from-csv DATA_DIR alone.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The datalist.json to write.")],
    split: Annotated[
        str | None,
        typer.Option(help="official, 8:1:1 or folds=5; default: official where there is one, else 8:1:1."),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of an official training part that becomes validation.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Draws the split.")] = 0,
    from_csv: Annotated[Path | None, typer.Option("--from-csv", help="Your own table, one row an image.")] = None,
    image_column: Annotated[str, typer.Option(help="Paths from DATA_DIR: files, or folders of a DICOM series.")] = (
        "image"
    ),
    label_column: Annotated[str | None, typer.Option(help="Default: label, where there is one.")] = None,
    patient_column: Annotated[str | None, typer.Option(help="Default: patient_id, where there is one.")] = None,
    mask_column: Annotated[str | None, typer.Option(help="Default: mask, where there is one.")] = None,
    group_column: Annotated[str | None, typer.Option(help="Near duplicates. Default: group.")] = None,
    split_column: Annotated[str | None, typer.Option(help="train, val, test. Default: split.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Use these rows only; may be repeated.")
    ] = None,
    class_name: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="Classes in label order; one each time.")
    ] = None,
    modality: Annotated[Modality | None, typer.Option(help="Of your own table; written into the datalist.")] = None,
    alike_together: Annotated[
        bool, typer.Option("--alike-together", help="With --from-csv: pictures that look alike on one side.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUTPUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Write a MONAI datalist of a described download, or of your own CSV; split by patient."""
    from pneumonai.data_manifests.assemble import parse_split
    from pneumonai.data_manifests.errors import ManifestError
    from pneumonai.pipeline.manifest_show import tell_built

    wanted = 1 if from_csv else 2
    if len(arguments) != wanted:
        what = "--from-csv takes DATA_DIR alone" if from_csv else "NAME and DATA_DIR are needed"
        raise ManifestError("manifest build", f"{what}, got {' '.join(arguments)}", "see manifest build --help")
    if alike_together and from_csv is None:
        raise ManifestError("--alike-together", "needs --from-csv", "leave it away: a description knows its groups")
    _refuse_overwriting(output, force)
    spelled = split or ("official" if validation else None)
    chosen = parse_split(spelled, seed, validation=validation) if spelled else None
    with step_progress(hidden=quiet) as tell:
        if from_csv is not None:
            from pneumonai.data_manifests.from_csv import Columns, Selection, build_from_csv

            columns = Columns(image_column, label_column, mask_column, patient_column, group_column, split_column)
            selection = Selection(_conditions(where or []), class_name or [])
            datalist = build_from_csv(
                from_csv,
                arguments[0],
                columns,
                selection,
                chosen,
                seed=seed,
                name=from_csv.stem if output.stem == "datalist" else output.stem,
                modality=modality.value if modality else None,
                alike_together=alike_together,
                progress=tell,
            )
        else:
            from pneumonai.data_manifests.build import build_datalist
            from pneumonai.data_manifests.description import load_description

            datalist = build_datalist(load_description(arguments[0]), arguments[1], chosen, seed=seed, progress=tell)
    _write_datalist(output, datalist)
    tell_built(datalist, output)


def _conditions(where: list[str]) -> list[tuple[str, list[str]]]:
    """COLUMN=VALUE pairs by column: values of one column are alternatives, columns must all be met."""
    from pneumonai.data_manifests.errors import ManifestError

    found: dict[str, list[str]] = {}
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals or not column.strip():
            raise ManifestError("--where", f"'{condition}' is no COLUMN=VALUE", "write it so")
        found.setdefault(column.strip(), []).append(value)
    return list(found.items())


def _refuse_overwriting(path: Path, force: bool) -> None:
    from pneumonai.data_manifests.errors import ManifestError

    if path.exists() and not force:
        raise ManifestError(path, "is there already", "choose another name, or --force")


def _write_datalist(path: Path, datalist: object) -> None:
    from pneumonai.pipeline.outputs.files import write_bytes

    write_bytes(path, (json.dumps(datalist, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


@manifest_app.command()
def subset(
    datalist: Annotated[Path, typer.Argument(metavar="DATALIST", help="The datalist.json.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Gets DATALIST_80.json and so on.")],
    percent: Annotated[
        list[float] | None, typer.Option(metavar="P", help="Sizes of the training part; default 80 70 60 50 40.")
    ] = None,
    more: Annotated[list[float] | None, typer.Argument(metavar="P", help="More of --percent.")] = None,
    of: Annotated[Of, typer.Option(help="What 100 % is: the training part, or all images.")] = Of.TRAINING,
    seed: Annotated[int, typer.Option(min=0, help="Draws who stays.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Thin out the training part, each size inside the next larger; validation and test stay as they are."""
    from pneumonai.data_manifests.datalist import read_datalist
    from pneumonai.data_manifests.subset import subset_datalists
    from pneumonai.pipeline.manifest_show import tell_subsets

    percents = [*(percent or []), *(more or [])] or [80.0, 70.0, 60.0, 50.0, 40.0]
    found = subset_datalists(read_datalist(datalist), percents, seed, of_all=of is Of.ALL)
    paths = {size: output_dir / f"{datalist.stem}_{size:g}.json" for size in found}
    for path in paths.values():
        _refuse_overwriting(path, force)
    for size, thinned in found.items():
        _write_datalist(paths[size], thinned)
    tell_subsets(found, paths)


@manifest_app.command("list")
def list_descriptions(
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of the docs.")] = False,
) -> None:
    """The datasets that build knows."""
    from pneumonai.data_manifests.description import description_names, load_description
    from pneumonai.pipeline.manifest_show import descriptions_markdown

    descriptions = [load_description(name) for name in description_names()]
    if markdown:
        typer.echo(descriptions_markdown(descriptions))
        return
    width = max(len(description.name) for description in descriptions)
    for description in descriptions:
        typer.echo(f"{description.name:{width}}  {description.modality:3}  {description.title.value}")


@manifest_app.command()
def show(name: Annotated[str, typer.Argument(help="Name of a described dataset.")]) -> None:
    """What is known of a dataset: source, licence, folders, counts, flaws, and what could not be verified."""
    from pneumonai.data_manifests.description import load_description
    from pneumonai.pipeline.manifest_show import description_text

    typer.echo(description_text(load_description(name)))

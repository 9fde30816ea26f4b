"""The command line: each command a thin function; what it needs is imported inside, so that ``--help`` is instant."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pneumonai.pipeline.bundle_cli import DEFAULT_BUNDLE, bundle_app
from pneumonai.pipeline.errors import OutputConflictError, OutputError, PneumonaiError, our_error
from pneumonai.pipeline.manifest_cli import manifest_app

app = typer.Typer(
    name="pneumonai",
    help="Reads chest CT and chest X-ray studies for pneumonia: a class, maps and a report that a reader can check. "
    "Research software, not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bundle_app, name="bundle")
app.add_typer(manifest_app, name="manifest")


class Precision(StrEnum):
    """What the network computes in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class Explanation(StrEnum):
    """Heat maps by method."""

    ATTENTION = "attention"
    CAM = "cam"
    GRADCAM = "gradcam"
    GRADCAM_PLUS_PLUS = "gradcam++"
    GRADCAM_BACKBONE = "gradcam-backbone"
    CID = "cid"
    LOCALISATION = "localisation"
    TEACHER_ATTENTION = "teacher-attention"
    OFFSETS = "offsets"
    LRP = "lrp"
    SALIENCY = "saliency"
    ALL = "all"


class PictureModality(StrEnum):
    """What a picture file shows."""

    CT = "CT"
    CXR = "CXR"


class Form(StrEnum):
    """How a phantom is written."""

    DICOM = "dicom"
    NIFTI = "nifti"
    XRAY = "xray"
    LATERAL = "lateral"
    SLICES = "slices"


class PhantomKind(StrEnum):
    """What a phantom shows."""

    NORMAL = "normal"
    NCP = "ncp"
    CP = "cp"
    ALL = "all"


class PhantomDifficulty(StrEnum):
    """How plainly a phantom shows it."""

    USUAL = "usual"
    HARD = "hard"
    MIXED = "mixed"


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["PNEUMONAI_DEBUG"] = "1"


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="DICOM folder, zip, NIfTI, picture, or a folder of studies."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the answers.")],
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FOLDER|all",
            help="Which bundle answers; repeat it for several, all for every shipped one that reads the study. "
            "Only trusted bundles: they can run code.",
            show_default=DEFAULT_BUNDLE,
        ),
    ] = None,
    modality: Annotated[
        PictureModality | None,
        typer.Option(
            help="What PNG and JPEG files show; by default what the bundle reads, with several what they look like."
        ),
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Answer this DICOM series.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU where there is one.")] = None,
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where safe and fast.")] = Precision.AUTO,
    report: Annotated[bool, typer.Option(help="Write report.html and pictures.")] = True,
    explain: Annotated[
        list[Explanation] | None,
        typer.Option(help="A heat map by this method too; repeat it, or all. Of several bundles, where one allows it."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="MASK|FOLDER|CSV",
            help="Compare the infection or the boxes with this mask, or those of this folder, by name; boxes also with "
            "a CSV file of study,x,y,width,height.",
        ),
    ] = None,
    lungs: Annotated[
        str | None,
        typer.Option(
            metavar="MASK|FOLDER|BUNDLE", help="Lungs of X-rays: a mask (1 right, 2 left), masks by name, or a bundle."
        ),
    ] = None,
    refer_below: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Refer to a reader below this confidence, instead of the bundle's threshold."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip studies that are answered already.")] = False,
    with_identifiers: Annotated[
        bool, typer.Option("--with-identifiers", help="Copy patient identifiers from headers into result.json.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no line a study.")] = False,
) -> None:
    """Answer studies: class, heat map, lung masks, report; summary.csv over all of them.

    One bundle writes OUTPUT/STUDY/; several, or all, write OUTPUT/STUDY/BUNDLE/ each, joint.json and one joint report.
    """
    from pneumonai.pipeline.predict import Options
    from pneumonai.pipeline.predict_cli import Call, predict_many
    from pneumonai.pipeline.study import Modality

    options = Options(
        series=series,
        report=report,
        with_identifiers=with_identifiers,
        explain=tuple(method.value for method in explain or ()),
        truth=None if truth is None else str(truth),
        lungs=lungs,
        refer_below=refer_below,
        modality=None if modality is None else Modality(modality.value),
    )
    predict_many(inputs, bundle or [DEFAULT_BUNDLE], options, Call(output, device, precision.value, resume, quiet))


@app.command()
def inspect(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="What predict would be given.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Say what is there: series, slices, spacing, what would be chosen or refused, and why."""
    from rich.console import Console

    from pneumonai.pipeline.inspection import inspect_input

    inspections = [inspect_input(path) for path in inputs]
    if as_json:
        typer.echo(json.dumps([inspection.as_dict() for inspection in inspections], indent=2))
        return
    for inspection in inspections:
        inspection.render(Console())


@app.command()
def phantom(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    kind: Annotated[PhantomKind, typer.Option(help="What it shows.")] = PhantomKind.NCP,
    seed: Annotated[int, typer.Option(min=0, help="Which patient; with --count the first one.")] = 0,
    form: Annotated[Form, typer.Option("--format", help="How it is written.")] = Form.DICOM,
    shape: Annotated[tuple[int, int, int], typer.Option(help="Columns, rows, slices.")] = (256, 256, 96),
    count: Annotated[int, typer.Option(min=0, help="A data set: training phantoms of each kind.")] = 0,
    validation: Annotated[int, typer.Option(min=0, help="... and validation phantoms of each kind.")] = 0,
    test: Annotated[int, typer.Option(min=0, help="... and test phantoms of each kind.")] = 0,
    difficulty: Annotated[
        PhantomDifficulty,
        typer.Option(help="hard: small, faint lesions beside what only looks like them; mixed: odd seeds hard."),
    ] = PhantomDifficulty.USUAL,
) -> None:
    """Make a synthetic study with known truth, OUTPUT/sample_KIND; or a data set with its datalist.json."""
    from pneumonai.pipeline.phantom.phantom import SMALLEST_SIDE

    if min(shape) < SMALLEST_SIDE:
        raise typer.BadParameter(f"each side must be {SMALLEST_SIDE} or more", param_hint="--shape")
    kinds = ["normal", "ncp", "cp"] if kind is PhantomKind.ALL else [kind.value]
    if count + validation + test:
        from pneumonai.pipeline.phantom.dataset import write_dataset

        parts = {"training": count, "validation": validation, "test": test}
        made = write_dataset(
            output,
            kinds=kinds,
            counts=parts,
            first_seed=seed,
            shape=shape,
            form=form.value,
            difficulty=difficulty.value,
        )
        typer.echo(made)
        return
    from pneumonai.pipeline.phantom import make_phantom, write

    writers: dict[Form, Callable[..., list[Path]]] = {
        Form.DICOM: write.write_dicom,
        Form.NIFTI: write.write_nifti,
        Form.XRAY: write.write_xray,
        Form.LATERAL: write.write_lateral,
        Form.SLICES: write.write_slices,
    }
    for one in kinds:
        folder = output / f"sample_{one}"
        writers[form](make_phantom(one, seed, shape=shape, difficulty=difficulty.value), folder)
        typer.echo(folder)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML or JSON; see docs/compare.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of runs, table and figures.")],
    datalist: Annotated[Path | None, typer.Option(help="Instead of the config's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that the datalist's paths start from.")] = None,
    overlay: Annotated[
        list[Path] | None,
        typer.Option(help="Keys and settings instead of the config's, such as a slim recipe; repeat it."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; they share the cores.")] = 1,
    gpu: Annotated[list[str] | None, typer.Option(metavar="ID", help="GPU for the jobs in turn; repeat it.")] = None,
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing; tables of what is done.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train and score models x seeds x training sizes: one table, figures, tests; go on where it was interrupted."""
    from pneumonai.pipeline.comparison.compare import compare as run_comparison

    try:
        outcome = run_comparison(
            config,
            output,
            datalist=datalist,
            dataset_dir=data,
            overlays=overlay or (),
            jobs=jobs,
            gpus=gpu or (),
            quiet=quiet,
            run=not table_only,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command goes on from the last whole epochs", err=True)
        raise typer.Exit(130) from None
    for run, problem in outcome.failed.items():
        typer.echo(f"error: {run.name}: {problem}; see {run.folder / 'log.txt'}", err=True)
    if not quiet:
        typer.echo(f"{outcome.table}: not for clinical use")
    if outcome.failed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors that a user can cause are one line and exit code 1, or 2 where the call is wrong."""
    try:
        app()
    except Exception as error:
        if os.environ.get("PNEUMONAI_DEBUG"):
            traceback.print_exc()
        ours: PneumonaiError | None = our_error(error)
        if ours is None:
            name = type(error).__name__
            typer.echo(
                f"error: pneumonai: unexpected {name}: {' '.join(str(error).split())}; run with --debug", err=True
            )
            sys.exit(1)
        typer.echo(f"error: {ours.line()}", err=True)
        # What reaches this place stopped the whole call; a study that failed among others has ended with 1 before.
        wrong_call = isinstance(ours, OutputConflictError) or not isinstance(ours, OutputError)
        sys.exit(2 if wrong_call else 1)

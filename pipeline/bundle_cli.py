"""``pneumonai bundle``: list, check, make, export and package models; each command a thin function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BUNDLE = "nl_ran_ct_classification"

bundle_app = typer.Typer(help="List, check, make, export and package models (MONAI bundles).", no_args_is_help=True)


@bundle_app.command("list")
def bundle_list(as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False) -> None:
    """The bundles that came with the package."""
    from pneumonai.pipeline.bundle import shipped_bundles

    bundles = shipped_bundles()
    if as_json:
        rows = [
            {"name": b.name, "version": b.metadata["version"], "classes": b.class_names, "modality": b.modality}
            for b in bundles
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for b in bundles:
        typer.echo(f"{b.name} {b.metadata['version']}: {b.metadata['task']} [{b.settings['notice']}]")


@bundle_app.command("path")
def bundle_path(name: Annotated[str, typer.Argument(help="Name of a bundle.")] = DEFAULT_BUNDLE) -> None:
    """Where a bundle lies, for `monai.bundle run --bundle_root`."""
    from pneumonai.pipeline.bundle import find_bundle

    typer.echo(find_bundle(name).root)


@bundle_app.command("verify")
def bundle_verify(
    name: Annotated[str | None, typer.Argument(help="Name of a bundle, or its folder.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every shipped bundle.")] = False,
    schema: Annotated[Path | None, typer.Option(help="MONAI's metadata schema, to validate against.")] = None,
) -> None:
    """Check everything that a model zoo asks of a bundle; exit code 1 where a check fails."""
    from pneumonai.pipeline.bundle import find_bundle, shipped_bundles
    from pneumonai.pipeline.bundle_checks import verify

    if (name is None) == (not all_):
        raise typer.BadParameter("name one bundle, or --all")
    bundles = shipped_bundles() if all_ else [find_bundle(str(name))]
    failed = 0
    for bundle in bundles:
        for check in verify(bundle, schema=schema):
            failed += check.problem is not None
            mark = "ok  " if check.problem is None else "FAIL"
            typer.echo(f"{mark} {bundle.name}: {check.name}" + (f": {check.problem}" if check.problem else ""))
    if failed:
        raise typer.Exit(1)


@bundle_app.command("derive")
def bundle_derive(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="output_dir of a training by a bundle's train.json.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    trained_on: Annotated[str | None, typer.Option(help="What the data is, in words.")] = None,
    overlay: Annotated[
        list[Path] | None, typer.Option(help="A config that lay over train.json and named another network; repeat it.")
    ] = None,
) -> None:
    """Make a bundle of your own training, for `pneumonai predict --bundle FOLDER`."""
    from pneumonai.pipeline.derive import derive_bundle

    bundle = derive_bundle(run_dir, output, trained_on=trained_on, overlays=overlay or ())
    typer.echo(f"{bundle.root}: {', '.join(bundle.class_names)} [{bundle.settings['notice']}]")


@bundle_app.command("calibrate")
def bundle_calibrate(
    name: Annotated[str, typer.Argument(help="Folder of a bundle of your own (or its name).")],
    predictions: Annotated[Path, typer.Argument(help="predictions.csv of its evaluate.json on validation data.")],
    target_accuracy: Annotated[float, typer.Option(min=0.5, max=1.0, help="Of the answers not referred.")] = 0.95,
) -> None:
    """Set a bundle's temperature, and the confidence below which it refers to a reader, on validation data."""
    from pneumonai.pipeline.bundle import find_bundle
    from pneumonai.pipeline.derive import calibrate_bundle

    found = calibrate_bundle(find_bundle(name), predictions, target_accuracy=target_accuracy)
    below = found["refer_below"] if found["reached"] else "the usual threshold, since none reaches the target"
    typer.echo(
        f"temperature {found['temperature']}, refer below {below} "
        f"({found['n']} validation answers, {100 * found['kept']:.0f} % not referred)"
    )


@bundle_app.command("export")
def bundle_export(
    name: Annotated[str, typer.Argument(help="Name of a bundle, or its folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The TorchScript file, as model.ts.")],
) -> None:
    """Export a bundle's network with its weights as TorchScript."""
    from pneumonai.pipeline.bundle import find_bundle
    from pneumonai.pipeline.bundle_files import export_torchscript

    typer.echo(export_torchscript(find_bundle(name), output))


@bundle_app.command("package")
def bundle_package(
    name: Annotated[str, typer.Argument(help="Name of a bundle, or its folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The zip file, or the folder to put it in.")],
) -> None:
    """Pack a bundle as the zip that model zoos take."""
    from pneumonai.pipeline.bundle import find_bundle
    from pneumonai.pipeline.bundle_files import package

    typer.echo(package(find_bundle(name), output))

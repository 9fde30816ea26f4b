"""``pneumonai manifest``: datalists for MONAI, built, checked, converted, thinned out; each command a thin function."""

from __future__ import annotations

import typer

manifest_app = typer.Typer(help="Datalists for MONAI: build, check, convert, subset.", no_args_is_help=True)

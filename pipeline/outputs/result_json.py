"""``result.json``: the answer for one study as data; its schema ``result.schema.json`` is shipped beside this file."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.result import Result
from pneumonai.pipeline.study import Study


def describe_study(study: Study, *, with_identifiers: bool = False) -> dict[str, Any]:
    """The ``study`` part of a result.

    Args:
        study: the opened study.
        with_identifiers: also copy patient identifiers of the headers (``--with-identifiers``).

    Returns:
        id, path, modality, kind, series_uid, study_uid, shape (voxels or pixels), spacing (mm; None where it is
        unknown), converted, fingerprint, synthetic (whether it is a phantom), and identifiers where asked for.
    """
    is_picture = study.image.ndim == 2
    described: dict[str, Any] = {
        "id": study.id,
        "path": study.path,
        "modality": str(study.modality),
        "kind": str(study.kind),
        "series_uid": study.series_uid,
        "study_uid": study.study_uid,
        "shape": list(study.image.shape),
        "spacing": None if is_picture or study.assumed_geometry else [round(mm, 6) for mm in study.spacing],
        "converted": list(study.converted),
        "fingerprint": study.fingerprint,
        "synthetic": study.synthetic,
    }
    if with_identifiers:
        described["identifiers"] = dict(study.identifiers)
    return described


def write_json(result: Result, path: str | Path) -> None:
    """Write a result as ``result.json`` (UTF-8, indented, the fields in the order of :class:`Result`).

    Raises:
        OutputError: the file cannot be written.
        ValueError: the result holds NaN or infinity, which JSON has not.
    """
    text = json.dumps(result.as_dict(), indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_bytes(path, (text + "\n").encode())


def read_json(path: str | Path) -> Result:
    """Read a ``result.json`` back.

    Raises:
        OutputError: the file is missing, unreadable, or no result of this version.
    """
    path = Path(path)
    remedy = "remove it and run predict again"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(str(path), f"cannot be read: {reason}", remedy) from error
    except ValueError as error:
        raise OutputError(str(path), f"is no JSON ({error})", remedy) from error
    names = {field.name for field in fields(Result)}
    if not isinstance(document, dict) or not {"study", "bundle"} <= document.keys() <= names:
        raise OutputError(str(path), "is no result of this version of pneumonai", remedy)
    return Result(**document)


def result_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``result.json``."""
    text = resources.files("pneumonai.pipeline.outputs").joinpath("result.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _plain(value: object) -> Any:
    """Numpy scalars and arrays, and paths, as JSON's own types."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a result holds plain data only, got {type(value).__name__}")

"""Volumes made of pictures by ``manifest convert``: their Hounsfield units and spacing are assumed, and that shows."""

from __future__ import annotations

import json
from pathlib import Path

from pneumonai.data_manifests.assumed_volume import MARK
from pneumonai.pipeline.study import Study

_NAMES = {"hounsfield": "Hounsfield units", "spacing": "spacing"}


def assumed_in(text: str) -> str | None:
    """What a header's text says is assumed, or None: ``MARK; HU = ...``."""
    text = text.replace("\0", "").strip()
    return text.removeprefix("assumed: ") if text.startswith(MARK) else None


def assumed_beside(path: str | Path) -> str | None:
    """What the JSON file beside a NIfTI file (``NAME.json``) says is assumed, or None where there is none.

    Its entry ``assumed`` is a list of words, ``hounsfield`` and ``spacing``; ``hounsfield`` may hold the formula.
    """
    name = Path(path).name.removesuffix(".gz").removesuffix(".nii")
    try:
        content = json.loads(Path(path).with_name(f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    assumed = content.get("assumed") if isinstance(content, dict) else None
    if not isinstance(assumed, list) or not assumed:
        return None
    formula = content.get("hounsfield")
    return ", ".join(map(str, assumed)) + (f"; {formula}" if isinstance(formula, str) else "")


def mark_assumed(study: Study, assumed: str | None) -> Study:
    """The study, marked where something of it is assumed: then no volume in ml is reported, and a warning says so."""
    if assumed is not None:
        study.assumed_geometry = True
        study.converted.append(f"converted from pictures before; assumed: {assumed}")
        words = assumed.partition(";")[0].split(", ")
        what = " and ".join(_NAMES.get(word, word) for word in words) + (" is" if words == ["spacing"] else " are")
        study.warnings.append(f"its {what} assumed, not measured: no volume in ml is reported")
    return study

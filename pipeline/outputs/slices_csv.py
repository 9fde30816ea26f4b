"""``slices.csv``: the answers slice by slice as a table, for spreadsheets and statistics."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.result import Result


def write_slices(result: Result, path: str | Path) -> None:
    """Write ``Result.slices``, one row a slice, from the feet to the head.

    Columns: ``index`` (the first slice of the volume 0), ``position_mm`` (DICOM z, empty where unknown), then, where
    any slice has them, ``p_CLASS`` for each class and ``infection_percent``.

    Args:
        result: a result whose ``slices`` are not None.
        path: the file, usually ``OUTPUT/STUDY/slices.csv``.

    Raises:
        OutputError: the file cannot be written.
        ValueError: the result has no slices, or slices with different classes.
    """
    if result.slices is None:
        raise ValueError(
            f"{result.study.get('id')}: slices are needed, the result has none; give them or write no table"
        )
    classes: list[dict[str, Any]] = next((one["classes"] for one in result.slices if one["classes"]), [])
    columns = ["index", "position_mm", *(f"p_{item['name']}" for item in classes)]
    measured = any(one.get("infection_percent") is not None for one in result.slices)
    columns += ["infection_percent"] if measured else []
    rows: list[dict[str, Any]] = []
    for one in result.slices:
        row = {"index": one["index"], "position_mm": _number(one.get("position_mm"), 3)}
        row |= {f"p_{item['name']}": _number(item["probability"], 6) for item in one["classes"] or []}
        rows.append(row | ({"infection_percent": _number(one.get("infection_percent"), 4)} if measured else {}))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

"""Boxes of findings in pictures, ``[{"x", "y", "width", "height"}, ...]``: pixels as displayed, origin top left.

A datalist's item may carry them under ``boxes``, and a table with the columns ``study, x, y, width, height`` may hold
those of many pictures. An empty list says that a reader looked and found nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.tables import read_table

BOX_KEYS = ("x", "y", "width", "height")

Box = dict[str, float]


def read_boxes(value: Any, where: str | Path) -> list[Box]:
    """The boxes of one item, checked.

    Args:
        value: a list of objects with ``x, y`` (at least 0) and ``width, height`` (above 0).
        where: the item's place, for errors.

    Raises:
        ManifestError: it is anything else.
    """
    if not isinstance(value, list):
        raise ManifestError(where, f"boxes {value!r} are no list", f"give a list of {', '.join(BOX_KEYS)}")
    return [_read_box(box, where) for box in value]


def _read_box(box: Any, where: str | Path) -> Box:
    remedy = "give x and y of at least 0, width and height above 0, in pixels"
    if not isinstance(box, Mapping) or not {*BOX_KEYS} <= {*box}:
        raise ManifestError(where, f"{box!r} is no box with {', '.join(BOX_KEYS)}", remedy)
    try:
        read = {key: float(box[key]) for key in BOX_KEYS}
    except (TypeError, ValueError):
        raise ManifestError(where, f"{box!r} has a side that is no number", remedy) from None
    if not all(map(math.isfinite, read.values())) or min(read["x"], read["y"]) < 0:
        raise ManifestError(where, f"{box!r} begins outside the picture", remedy)
    if min(read["width"], read["height"]) <= 0:
        raise ManifestError(where, f"{box!r} has no area", remedy)
    return read


def read_box_table(path: str | Path) -> dict[str, list[Box]]:
    """Boxes by study from a CSV file with the columns ``study, x, y, width, height``, a row a box.

    A row with a study alone says that nothing is to be found in it.

    Raises:
        ManifestError: the file cannot be read, lacks a column, or a row holds no box; it names the row.
    """
    table = read_table(path)
    study, columns = table.column("study"), {key: table.column(key) for key in BOX_KEYS}
    found: dict[str, list[Box]] = {}
    for row in table.rows:
        where = f"{path}, row {row.line}"
        if not row.values[study]:
            raise ManifestError(where, "names no study", "fill in its column 'study'")
        boxes = found.setdefault(row.values[study], [])
        sides = {key: row.values[column] for key, column in columns.items()}
        if any(sides.values()):
            boxes.append(_read_box(sides, where))
    return found

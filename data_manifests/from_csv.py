"""A user's own table of images into a datalist: one row an image, columns named by the user."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.alike import group_alike
from pneumonai.data_manifests.assemble import SplitChoice, default_split, make_datalist
from pneumonai.data_manifests.build import Progress, refuse_unreadable, tell_each
from pneumonai.data_manifests.datalist import PARTS
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.tables import Row, Table, read_table

#: What the values of a split column may be called.
PART_NAMES = {
    **dict.fromkeys(("training", "train"), "training"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
#: The order of labels where the user gives none: the project's classes, then others by name.
KNOWN_ORDER = ("normal", "noncovid", "ncp", "covid", "cp", "cap")


@dataclass(frozen=True)
class Columns:
    """Names of the columns; one that is None is taken by its usual name where the table has it.

    The usual names: ``label``, ``mask``, ``patient_id``, ``group``, ``split``.
    """

    image: str = "image"
    label: str | None = None
    mask: str | None = None
    patient: str | None = None
    group: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which rows, and which classes: ``where`` holds (column, values) that must all be met."""

    where: Sequence[tuple[str, Sequence[str]]] = ()
    class_names: Sequence[str] = field(default_factory=tuple)


def build_from_csv(
    table_path: str | Path,
    data_dir: str | Path,
    columns: Columns | None = None,
    selection: Selection | None = None,
    split: SplitChoice | None = None,
    *,
    seed: int = 0,
    name: str | None = None,
    modality: str | None = None,
    alike_together: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The datalist of a CSV file.

    Args:
        table_path: comma, semicolon or tab separated, with a header; images are files, or folders of one DICOM
            series, relative to ``data_dir`` or absolute inside it.
        data_dir: what the datalist's paths are relative to.
        columns: their names; labels are matched whatever their letter case and written in lower case.
        selection: rows and classes; without classes, those that occur, in the project's order.
        split: the split column's where there is one, else 8:1:1, when None.
        seed: of that 8:1:1.
        name: of the datalist; the CSV file's name when None.
        modality: ``CT`` or ``CXR``, written into the datalist.
        alike_together: keep pictures that look alike on one side, where no patient is named
            (:func:`pneumonai.data_manifests.alike.group_alike`).
        progress: told how far it is.

    Returns:
        The datalist (see ``docs/data.md``).

    Raises:
        ManifestError: a column, a file or a label is wrong; names the row (the header is row 1).
    """
    selection, root = selection or Selection(), Path(data_dir)
    if not root.is_dir():
        raise ManifestError(data_dir, "no such folder", "give the folder that the CSV's paths start from")
    table = read_table(table_path)
    used = _columns(table, columns or Columns())
    rows = table.where(selection.where)
    items = [_item(row, table, used, root) for row in rows]
    _refuse_twice(items, rows, table)
    class_names = _labels(items, rows, table, selection.class_names) if "label" in used else []
    tell = progress or (lambda step, done, total: None)
    files = zip(tell_each(items, tell), rows, strict=True)
    refuse_unreadable((root, item["image"], _where(table, row, item["image"])) for item, row in files)
    masked = [(item, row) for item, row in zip(items, rows, strict=True) if item.get("mask")]
    refuse_unreadable((root, item["mask"], _where(table, row, item["mask"])) for item, row in masked)
    notes = [] if not masked or len(masked) == len(items) else [f"{len(items) - len(masked)} images have no mask"]
    if alike_together:
        groups = group_alike(items, root, progress)
        notes.append(f"pictures that look alike are kept together: {groups} groups of several")
    return make_datalist(
        items,
        split or default_split(items, seed),
        name=name or Path(table_path).stem,
        description=f"built from {Path(table_path).name}",
        modality=modality,
        dataset=None,
        class_names=class_names,
        official_method="column",
        warnings=notes,
        assumed=_assumed(rows, table),
    )


def _assumed(rows: Sequence[Row], table: Table) -> dict[str, Any] | None:
    """What the column ``assumed``, which ``convert`` writes, says of the images; None without one."""
    column = next((name for name in table.columns if name.casefold() == "assumed"), None)
    said = sorted({row.values[column] for row in rows if row.values[column]}) if column is not None else []
    return {"column": said} if said else None


def _columns(table: Table, columns: Columns) -> dict[str, str]:
    """The table's own names of the columns that are used, by our keys."""
    used = {"image": table.column(columns.image)}
    usual = {"label": "label", "mask": "mask", "patient_id": "patient_id", "group": "group", "part": "split"}
    wanted = {
        "label": columns.label,
        "mask": columns.mask,
        "patient_id": columns.patient,
        "group": columns.group,
        "part": columns.split,
    }
    there = {column.casefold() for column in table.columns}
    for key, name in wanted.items():
        if name is not None:
            used[key] = table.column(name)
        elif usual[key] in there:
            used[key] = table.column(usual[key])
    if "label" not in used and "mask" not in used:
        # Neither a class nor a mask to learn: the error lists the columns.
        table.column(usual["label"])
    return used


def _where(table: Table, row: Row, path: str) -> str:
    return f"{table.path.name}, row {row.line} ({path})"


def _item(row: Row, table: Table, used: dict[str, str], root: Path) -> dict[str, Any]:
    item: dict[str, Any] = {key: row.values[column] for key, column in used.items()}
    if not item["image"]:
        raise ManifestError(f"{table.path.name}, row {row.line}", f"column '{used['image']}' is empty", "fill it in")
    for key in ("image", "mask"):
        if item.get(key):
            item[key] = _relative(item[key], root, f"{table.path.name}, row {row.line}")
    if item.get("part"):
        part = PART_NAMES.get(item["part"].casefold())
        if part is None:
            where = f"{table.path.name}, row {row.line}"
            raise ManifestError(where, f"unknown part {item['part']!r}", f"known are {', '.join(PARTS)}")
        item["part"] = part
    if item.get("label"):
        item["label"] = " ".join(item["label"].split()).lower()
    return item


def _relative(path: str, root: Path, where: str) -> str:
    """The path below ``root``, with forward slashes."""
    if "\\" in path and not (root / path).exists():
        path = path.replace("\\", "/")
    given = Path(path)
    plain = Path(os.path.normpath(given))
    if given.is_absolute():
        for base in (root.absolute(), root.resolve()):
            if plain.is_relative_to(base):
                return plain.relative_to(base).as_posix()
    if given.is_absolute() or ".." in plain.parts:
        raise ManifestError(where, f"{path} is not inside {root}", "give a DATA_DIR that holds all files")
    return plain.as_posix()


def _refuse_twice(items: Sequence[dict[str, Any]], rows: Sequence[Row], table: Table) -> None:
    first: dict[str, int] = {}
    for item, row in zip(items, rows, strict=True):
        line = first.setdefault(item["image"], row.line)
        if line != row.line:
            raise ManifestError(
                f"{table.path.name}, row {row.line}", f"{item['image']} is listed in row {line} too", "keep one"
            )


def _labels(items: Sequence[dict[str, Any]], rows: Sequence[Row], table: Table, wanted: Sequence[str]) -> list[str]:
    """The classes in label order; every item has one of them."""
    named = [" ".join(name.split()).lower() for name in wanted]
    for item, row in zip(items, rows, strict=True):
        where = _where(table, row, item["image"])
        if not item.get("label"):
            known = f"known are {', '.join(named)}" if named else "fill it in"
            raise ManifestError(where, "no label", known)
        if named and item["label"] not in named:
            raise ManifestError(where, f"unknown label {item['label']!r}", f"known are {', '.join(named)}")
    if named:
        return named
    found = {item["label"] for item in items}
    return [name for name in KNOWN_ORDER if name in found] + sorted(found - set(KNOWN_ORDER))

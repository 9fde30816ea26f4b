"""The small language in which a dataset's description says where an item's values come from.

A value rule is one of

- ``{"constant": VALUE}``;
- ``{"path": REGEX}``: searched in the item's relative path; its first group is the value;
- ``{"table": NAME, "column": COLUMN}``: of the table's row that names the file;
- ``{"sidecar": {"path": REGEX, "to": TEMPLATE}, "search": {REGEX: VALUE}}``: the first expression found in the text of
  another file, whose path is the item's, rewritten.

The first three may carry ``"map": {REGEX: VALUE}``: the first expression that the whole value matches, letter case
ignored, gives the value; ``null`` leaves the item out. The schema, ``description.schema.json``, holds all of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.tables import Row, Table, read_table
from pneumonai.data_manifests.tree import FileTree


class LeftOutError(Exception):
    """An item that its description leaves out, on purpose."""


@dataclass
class Source:
    """A folder with the tables that a description names."""

    tree: FileTree
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _all_rows: dict[str, dict[str, list[Row]]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def _read(self) -> dict[str, tuple[Table, dict[str, Row]] | None]:
        return {name: self._read_table(rule) for name, rule in self.tables.items()}

    def _read_table(self, rule: Mapping[str, Any]) -> tuple[Table, dict[str, Row]] | None:
        found = self.tree.matching(rule["files"])
        if not found:
            if rule.get("optional"):
                return None
            raise ManifestError(
                self.tree.folder, f"no {' or '.join(rule['files'])}", f"found there: {self.tree.summary()}"
            )
        table = read_table(self.tree.folder / found[0])
        key = table.column(rule["key"])
        return table, {_base(row.values[key]): row for row in table.rows if row.values[key]}

    def table(self, name: str) -> Table | None:
        """The table, or None where an optional one is missing."""
        read = self._read[name]
        return read[0] if read else None

    def rows(self, name: str, path: str) -> list[Row]:
        """All rows of a table that name the file, by its base name; none where an optional table is missing."""
        if name not in self._all_rows:
            table, grouped = self.table(name), defaultdict(list)
            if table is not None:
                key = table.column(self.tables[name]["key"])
                for row in table.rows:
                    grouped[_base(row.values[key])].append(row)
            self._all_rows[name] = grouped
        return self._all_rows[name].get(_base(path), [])

    def row(self, name: str, path: str) -> Row | None:
        """The row of a table that names the file, by its base name."""
        read = self._read[name]
        return read[1].get(_base(path)) if read else None

    def missing_files(self) -> list[str]:
        """What to say of rows that name files which are not in the folder; tables of extras do not count."""
        names = {_base(path) for path in self.tree.files}
        notes = []
        for name, read in self._read.items():
            if read is None or self.tables[name].get("optional"):
                continue
            table, rows = read
            gone = [(row.line, base) for base, row in rows.items() if base not in names]
            if gone:
                line, base = gone[0]
                notes.append(
                    f"{len(gone)} rows of {table.path.name} name files that are not there (row {line}: {base})"
                )
        return notes


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def evaluate(rule: Mapping[str, Any], path: str, source: Source) -> tuple[str | None, str]:
    """The value of a rule for the item at ``path``, and where it stands, for errors.

    Returns:
        The value, None where the item has none (the expression does not match, the cell is empty, the file is not
        listed), and words such as ``metadata.csv, row 12``.

    Raises:
        LeftOutError: the rule's map says so.
        ManifestError: a column or table is missing, or a value is not in the map.
    """
    value: str | None
    where = path
    if "constant" in rule:
        value = rule["constant"]
    elif "sidecar" in rule:
        return _searched(rule, path, source)
    elif "table" in rule:
        value, where = _looked_up(rule, path, source)
    else:
        match = re.search(rule["path"], path, re.IGNORECASE)
        value = match.group(1) if match else None
    if value is None or "map" not in rule:
        return value, where
    return _mapped(rule["map"], value, where), where


def _looked_up(rule: Mapping[str, Any], path: str, source: Source) -> tuple[str | None, str]:
    table, row = source.table(rule["table"]), source.row(rule["table"], path)
    if table is None:
        return None, path
    column = table.column(rule["column"])
    if row is None:
        return None, f"{path}, which {table.path.name} does not list"
    return row.values[column] or None, f"{table.path.name}, row {row.line}"


def _mapped(mapping: Mapping[str, str | None], value: str, where: str) -> str:
    for expression, mapped in mapping.items():
        if re.fullmatch(expression, value.strip(), re.IGNORECASE):
            if mapped is None:
                raise LeftOutError(value)
            return mapped
    known = ", ".join(sorted({mapped for mapped in mapping.values() if mapped is not None}))
    raise ManifestError(where, f"unknown value {value!r}", f"known are {known}")


def rewritten(rule: Mapping[str, Any], path: str) -> str | None:
    """Another file's path made from the item's: ``path`` is searched and the whole is replaced by ``to``."""
    match = re.search(rule["path"], path, re.IGNORECASE)
    return match.expand(rule["to"]) if match else None


def _searched(rule: Mapping[str, Any], path: str, source: Source) -> tuple[str | None, str]:
    other = rewritten(rule["sidecar"], path)
    if other is None or other not in source.tree.paths:
        raise ManifestError(path, f"its file {other} is missing", "see the description's layout")
    text = (source.tree.folder / other).read_text(encoding="utf-8", errors="replace")
    for expression, value in rule["search"].items():
        if re.search(expression, text, re.IGNORECASE):
            if value is None:
                raise LeftOutError(expression or "without a known label")
            return value, other
    return None, other

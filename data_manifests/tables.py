"""CSV files whose errors name the row: the line of the file, its header being line 1."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumonai.data_manifests.errors import ManifestError


@dataclass(frozen=True)
class Row:
    """One row: the line it ends on, and its values, stripped."""

    line: int
    values: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A CSV file; columns are found whatever their letter case."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def column(self, name: str) -> str:
        """The column's name as it is written.

        Raises:
            ManifestError: there is none; names those that are there.
        """
        if name in self.columns:
            return name
        for column in self.columns:
            if column.casefold() == name.strip().casefold():
                return column
        raise ManifestError(self.path, f"no column '{name}'", f"the columns are {', '.join(self.columns)}")

    def where(self, conditions: Iterable[tuple[str, Sequence[str]]]) -> tuple[Row, ...]:
        """The rows whose columns hold one of the wanted values each, letter case ignored.

        Raises:
            ManifestError: a column is missing, or no row is left; names the values that are there.
        """
        rows = self.rows
        for name, wanted in conditions:
            column, folded = self.column(name), {value.strip().casefold() for value in wanted}
            left = tuple(row for row in rows if row.values[column].casefold() in folded)
            if not left:
                there = sorted({row.values[column] for row in rows})
                named = ", ".join(repr(value) for value in there[:10]) + (", ..." if len(there) > 10 else "")
                raise ManifestError(
                    self.path, f"no row with {column} = {' or '.join(wanted)}", f"values there are {named}"
                )
            rows = left
        return rows


def read_table(path: str | Path) -> Table:
    """Read a CSV file (comma, semicolon or tab; UTF-8, with or without a byte order mark, else Latin-1).

    Raises:
        ManifestError: the file is missing, empty, has two columns of one name, or a row of another length.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ManifestError(path, reason, "give the path of a CSV file") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = text.splitlines(keepends=True)
    # Some published tables say what they are in comment lines above their header.
    above = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    lines = lines[above:]
    if not lines or "\0" in text:
        raise ManifestError(path, "no CSV file" if lines else "an empty file", "its first line names the columns")
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.reader(lines, delimiter=delimiter)
    columns = tuple(name.strip() for name in next(reader))
    # pandas and R write the row's number under a name that is empty.
    named = [name for name in columns if name]
    if len(set(named)) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise ManifestError(path, f"two columns are called '{twice}'", "rename one")
    rows = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) > len(columns) and any(value.strip() for value in values[len(columns) :]):
            raise ManifestError(
                path,
                f"row {above + reader.line_num} has {len(values)} values for {len(columns)} columns",
                "quote values that hold the separator",
            )
        padded = [*values, *[""] * (len(columns) - len(values))]
        rows.append(
            Row(above + reader.line_num, {name: value.strip() for name, value in zip(columns, padded, strict=False)})
        )
    if not rows:
        raise ManifestError(path, "no rows under its header", "add some")
    return Table(path, columns, tuple(rows))

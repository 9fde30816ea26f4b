"""``summary.csv`` of a run: one row a study, or a study and bundle, done or failed, always whole on disk."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pneumonai.pipeline.agreement import DONE, FAILED, Row
from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.outputs.joint_json import Joint
from pneumonai.pipeline.result import Result

_BEFORE = ("study", "path", "status", "verdict", "confidence", "refer")
_JOINT_BEFORE = ("study", "path", "bundle", "status", "verdict", "confidence", "refer", "refer_reason")
_AFTER = ("infection_ml", "infection_percent", "error", "seconds")


class Summary:
    """The table of a run; each row added rewrites the file at once, by a rename.

    Columns: ``study, path, status`` (done, failed), ``verdict, confidence, refer`` (true, false), ``p_CLASS`` for each
    class, ``infection_ml, infection_percent, error, seconds``. What is unknown is empty. A study's second row
    replaces its first.

    Args:
        path: the file, ``OUTPUT/summary.csv``.
        class_names: the bundle's classes, in the network's order; none for a segmentation.
        keep: keep the rows of an earlier run that stand in ``path`` (``--resume``); rows of other columns are
            dropped.
    """

    def __init__(self, path: str | Path, class_names: Sequence[str] = (), *, keep: bool = False) -> None:
        self.path = Path(path)
        self.columns = (*_BEFORE, *(f"p_{name}" for name in class_names), *_AFTER)
        self._rows: dict[str, dict[str, str]] = {}
        if keep and self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as stream:
                earlier = csv.DictReader(stream)
                if tuple(earlier.fieldnames or ()) == self.columns:
                    self._rows = {row["study"]: row for row in earlier}

    def add_done(self, result: Result, seconds: float | None = None) -> None:
        """Add the row of an answered study; ``seconds``: wall time of the whole study.

        Raises:
            OutputError: the file cannot be written.
        """
        infection = result.infection or {}
        percent = infection.get("total_percent", infection.get("percent_of_picture"))
        row = {
            "study": str(result.study["id"]),
            "path": str(result.study["path"]),
            "status": DONE,
            "verdict": result.verdict or "",
            "confidence": _number(result.confidence, 4),
            "refer": "" if result.refer is None else str(result.refer).lower(),
            "infection_ml": _number(infection.get("total_ml"), 1),
            "infection_percent": _number(percent, 2),
            "seconds": _number(seconds, 2),
        }
        row |= {f"p_{item['name']}": _number(item["probability"], 4) for item in result.classes or []}
        self._add(row)

    def add_failed(self, study: str, path: str, error: str, seconds: float | None = None) -> None:
        """Add the row of a study that failed: its name, its path as given, and why, on one line.

        Raises:
            OutputError: the file cannot be written.
        """
        self._add(
            {
                "study": study,
                "path": path,
                "status": FAILED,
                "error": " ".join(error.split()),
                "seconds": _number(seconds, 2),
            }
        )

    def _add(self, row: dict[str, str]) -> None:
        unknown = sorted(row.keys() - set(self.columns))
        if unknown:
            raise ValueError(
                f"{row['study']}: summary has no column {', '.join(unknown)}, only {', '.join(self.columns)}"
            )
        self._rows[row["study"]] = row
        _write(self.path, self.columns, self._rows.values())


class JointSummary:
    """The table of a run of several bundles: a row a study and bundle, rewritten whole with each study.

    Columns: those of :class:`Summary`, with ``bundle`` after ``path`` (empty where no bundle could be asked), and
    ``refer, refer_reason`` of the study's joint answer in each of its rows.

    Args:
        path: the file, ``OUTPUT/summary.csv``.
        class_names: every class that a bundle gives a probability for.
        keep: keep the rows of an earlier run that stand in ``path`` (``--resume``), and their classes; rows of one
            bundle alone are dropped.
    """

    def __init__(self, path: str | Path, class_names: Sequence[str], *, keep: bool = False) -> None:
        self.path = Path(path)
        self._studies: dict[str, list[dict[str, str]]] = {}
        names = list(class_names)
        if keep and self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as stream:
                earlier = csv.DictReader(stream)
                found = earlier.fieldnames or ()
                if "bundle" in found:
                    names += [name[2:] for name in found if name.startswith("p_") and name[2:] not in names]
                    for row in earlier:
                        self._studies.setdefault(row["study"], []).append(row)
        self.columns = (*_JOINT_BEFORE, *(f"p_{name}" for name in names), *_AFTER)

    def set_study(self, study: str, path: str, rows: Sequence[Row], joint: Joint | None) -> None:
        """Put the rows of a study in the place of those that it had.

        Raises:
            OutputError: the file cannot be written.
        """
        said = {"study": study, "path": path}
        if joint is not None:
            said["refer"] = "" if joint.refer is None else str(joint.refer).lower()
            said["refer_reason"] = joint.refer_reason or ""
        self._studies[study] = [said | _joint_row(row) for row in rows]
        written = [
            {name: value for name, value in row.items() if name in self.columns}
            for rows_of_one in self._studies.values()
            for row in rows_of_one
        ]
        _write(self.path, self.columns, written)


def _joint_row(row: Row) -> dict[str, str]:
    percent = row.infection_percent_of_picture if row.infection_percent is None else row.infection_percent
    return {
        "bundle": row.bundle,
        "status": row.status,
        "verdict": row.verdict or "",
        "confidence": _number(row.confidence, 4),
        "infection_ml": _number(row.infection_ml, 1),
        "infection_percent": _number(percent, 2),
        "error": " ".join((row.error or "").split()),
        "seconds": _number(row.seconds, 2),
    } | {f"p_{item['name']}": _number(item["probability"], 4) for item in row.classes or []}


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

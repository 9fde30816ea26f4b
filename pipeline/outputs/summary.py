"""``summary.csv`` of a run: one row a study, done or failed, always whole on disk."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.result import Result

DONE = "done"
FAILED = "failed"

_BEFORE = ("study", "path", "status", "verdict", "confidence", "refer")
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
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows.values())
        write_bytes(self.path, text.getvalue().encode())


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

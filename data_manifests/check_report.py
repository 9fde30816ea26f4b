"""What a check of a datalist found: rows with findings, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"ok": "green", "warning": "yellow", "error": "red", "left out": "dim"}
_EXAMPLES = 3


class Severity(StrEnum):
    """How bad a finding is: an error makes the command end with 1."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        severity: error or warning.
        message: in words, with the item's place and file.
        items: places in the datalist, such as ``training[3]``.
        figures: further numbers, for JSON.
    """

    severity: Severity
    message: str
    items: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """One check.

    Attributes:
        name: short, for programs.
        title: what was checked, in words.
        findings: errors first.
        summary: one line when there is something to say beside the findings.
        left_out: why the check could not be made, or None.
        figures: numbers of the whole check, for JSON.
    """

    name: str
    title: str
    findings: Sequence[Finding] = ()
    summary: str = ""
    left_out: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.findings = sorted(self.findings, key=lambda finding: finding.severity is not Severity.ERROR)

    @property
    def status(self) -> str:
        """``error``, ``warning``, ``ok`` or ``left out``."""
        if self.findings:
            return self.findings[0].severity.value
        return "left out" if self.left_out else "ok"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all findings."""
        return {
            "name": self.name,
            "title": self.title,
            "status": self.status,
            "count": len(self.findings),
            "summary": self.summary or self.left_out or "",
            "figures": dict(self.figures),
            "findings": [
                {
                    "severity": finding.severity.value,
                    "message": finding.message,
                    "items": list(finding.items),
                    **finding.figures,
                }
                for finding in self.findings
            ],
        }


@dataclass
class Report:
    """All checks of a datalist.

    Attributes:
        datalist, data_dir: as given.
        parts: items by part and class.
        rows: the checks, in the order in which they are shown.
        seconds: it took.
    """

    datalist: str
    data_dir: str
    parts: dict[str, dict[str, int]]
    rows: list[Row]
    seconds: float = 0.0

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(f.severity is Severity.ERROR for row in self.rows for f in row.findings)

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return sum(f.severity is Severity.WARNING for row in self.rows for f in row.findings)

    def row(self, name: str) -> Row:
        """The row of a check."""
        return next(row for row in self.rows if row.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "datalist": self.datalist,
            "data_dir": self.data_dir,
            "parts": self.parts,
            "errors": self.errors,
            "warnings": self.warnings,
            "seconds": round(self.seconds, 2),
            "checks": [row.as_dict() for row in self.rows],
        }

    def render(self, console: Console) -> None:
        """Draw the table: one row a check, with the first examples."""
        from rich.markup import escape
        from rich.table import Table

        counted = "; ".join(
            f"{part}: {', '.join(f'{n} {name}' for name, n in classes.items())}"
            for part, classes in self.parts.items()
            if classes
        )
        table = Table(title=escape(f"{self.datalist} ({counted})"), title_justify="left", show_lines=True)
        table.add_column("check", min_width=20, ratio=2)
        table.add_column("", no_wrap=True)
        table.add_column("found", justify="right", no_wrap=True)
        table.add_column("what", ratio=5, overflow="fold")
        for row in self.rows:
            lines = [row.summary or row.left_out or ""]
            lines += [f"{f.severity.value}: {f.message}" for f in row.findings[:_EXAMPLES]]
            if len(row.findings) > _EXAMPLES:
                lines.append(f"... and {len(row.findings) - _EXAMPLES} more (--json lists all)")
            status = f"[{_STYLES[row.status]}]{row.status}[/]"
            found = str(len(row.findings)) if row.findings else ""
            table.add_row(escape(row.title), status, found, escape("\n".join(line for line in lines if line)))
        console.print(table)
        console.print(f"{self.errors} errors, {self.warnings} warnings, {self.seconds:.1f} s")

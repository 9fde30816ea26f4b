"""What ``pneumonai inspect`` says: the studies under an input, their series, what would be read or refused, and why.

Nothing here carries a patient's name, id or birth date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import StudySource, as_source, dicom_candidates, files_of, find_studies
from pneumonai.pipeline.study import InputKind, Modality, Study, open_study

if TYPE_CHECKING:
    from rich.console import Console

    from pneumonai.pipeline.dicom_series import SeriesGroup


@dataclass
class SeriesRow:
    """One series (or part of one with its own orientation or shape).

    Attributes:
        uid: SeriesInstanceUID.
        modality, description, kernel: as the header says.
        slices: how many; ``shape`` is columns x rows.
        spacing_mm: between columns, rows and slices; None where the geometry is refused.
        orientation: axial, coronal, sagittal, or "".
        problems: what is wrong with the geometry.
        chosen: whether it would be read.
        why: why it would, or would not.
    """

    uid: str
    modality: str
    description: str
    kernel: str
    slices: int
    shape: tuple[int, int]
    spacing_mm: tuple[float, float, float] | None
    orientation: str
    problems: list[str]
    chosen: bool
    why: str


@dataclass
class StudyRow:
    """One study of an input.

    Attributes:
        path: its token: a path, or ``path#StudyInstanceUID``.
        id: the folder of its results.
        form: DICOM, NIfTI, picture, zip.
        modality, shape, spacing_mm: of the image that would be read; None where it is refused.
        converted, warnings: as in ``result.json``.
        refused: why it would be refused, with what to do, or None.
        series: of DICOM studies.
    """

    path: str
    id: str
    form: str
    study_uid: str | None = None
    modality: str | None = None
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    converted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: str | None = None
    series: list[SeriesRow] = field(default_factory=list)


@dataclass
class Inspection:
    """What lies under one input."""

    path: str
    studies: list[StudyRow]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    def render(self, console: Console) -> None:
        """Print a block a study, with a table of its series."""
        from rich.markup import escape

        for study in self.studies:
            console.print(f"[bold]{escape(study.path)}[/bold] ({study.form})", highlight=False, soft_wrap=True)
            if study.series:
                console.print(_table(study.series))
            if study.refused:
                console.print(f"  [red]refused[/red]: {escape(study.refused)}", highlight=False, soft_wrap=True)
            else:
                console.print(f"  [green]would be read[/green]: {_summary(study)}", highlight=False, soft_wrap=True)
            for text in study.converted:
                console.print(f"  - {escape(text)}", highlight=False, soft_wrap=True)
            for text in study.warnings:
                console.print(f"  [yellow]warning[/yellow]: {escape(text)}", highlight=False, soft_wrap=True)


def inspect_input(path: str | Path, *, modality: Modality | str | None = None) -> Inspection:
    """Look at every study under an input: read it, check it, and say what was found instead of raising.

    Args:
        path: file or folder.
        modality: what to prefer in studies that hold CT and X-rays.

    Raises:
        StudyError: the input itself is missing or holds nothing.
    """
    wanted = None if modality is None else Modality(modality)
    return Inspection(str(path), [_inspect_study(source, wanted) for source in find_studies([path])])


def _inspect_study(source: StudySource, modality: Modality | None) -> StudyRow:
    from pneumonai.pipeline.checks import check

    row = StudyRow(source.token, source.id, _form(source), source.study_uid)
    study: Study | None = None
    try:
        study = open_study(source, modality=modality)
        row.warnings = study.warnings + check(study, modality=study.modality, input_kind=_kind_wanted(study))
    except StudyError as error:
        row.refused = error.reason + (f"; {error.remedy}" if error.remedy else "")
    if study is not None:
        row.modality, row.shape = str(study.modality), tuple(study.image.shape)
        row.spacing_mm = None if study.assumed_geometry else tuple(round(s, 4) for s in study.spacing)
        row.converted, row.study_uid = study.converted, study.study_uid
    if row.form == "DICOM":
        row.series = _series_rows(source, study)
    return row


def _kind_wanted(study: Study) -> InputKind:
    return InputKind.VOLUME if study.modality is Modality.CT else InputKind.PICTURE


def _form(source: StudySource) -> str:
    from pneumonai.pipeline.sources import NIFTI_ENDINGS, PICTURE_ENDINGS

    name = source.path.lower()
    for endings, form in ((NIFTI_ENDINGS, "NIfTI"), (PICTURE_ENDINGS, "picture"), ((".zip",), "zip")):
        if name.endswith(endings) and not Path(source.path).is_dir():
            return form
    return "DICOM"


def _series_rows(source: StudySource, study: Study | None) -> list[SeriesRow]:
    from pneumonai.pipeline.dicom_headers import read_all_headers
    from pneumonai.pipeline.dicom_series import group_series

    try:
        files = files_of(as_source(source)) if Path(source.path).is_dir() else dicom_candidates([source.path])
    except StudyError:
        return []
    headers, _ = read_all_headers(files)
    mine = [h for h in headers if h.rows and (not source.shared or h.study_uid == source.study_uid)]
    groups = group_series(mine)
    uid = study.series_uid if study is not None else None
    same = [g for g in groups if g.head.series_uid == uid]
    chosen = max(same, key=lambda g: (not g.excluded, not g.problems, len(g.slices))) if same else None
    return [_series_row(group, chosen, study) for group in groups]


def _series_row(group: SeriesGroup, chosen: SeriesGroup | None, study: Study | None) -> SeriesRow:
    from pneumonai.pipeline.dicom_series import why_not

    head = group.head
    why = study.converted[0].removeprefix("series chosen: ") if group is chosen and study else why_not(group, chosen)
    return SeriesRow(
        uid=head.series_uid,
        modality=head.modality,
        description=head.description,
        kernel=head.kernel,
        slices=len(group.slices),
        shape=(head.columns, head.rows),
        spacing_mm=None if group.spacing is None else tuple(round(s, 4) for s in group.spacing),  # type: ignore[arg-type]
        orientation=group.axis,
        problems=[reason for reason, _ in group.problems],
        chosen=group is chosen,
        why=why,
    )


def _table(series: Sequence[SeriesRow]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), show_edge=False)
    for name in ("", "type", "description", "slices", "size", "spacing in mm", "plane", "why"):
        wraps = name in ("description", "why")
        table.add_column(name, justify="right" if name == "slices" else "left", no_wrap=not wraps, overflow="fold")
    for row in series:
        spacing = "x".join(f"{s:.3g}" for s in row.spacing_mm) if row.spacing_mm else "-"
        size = f"{row.shape[0]}x{row.shape[1]}"
        cells = (row.modality, escape(row.description), str(row.slices), size, spacing, row.orientation or "-")
        table.add_row("->" if row.chosen else "", *cells, escape(row.why))
    return table


def _summary(study: StudyRow) -> str:
    parts = [study.modality or "", " x ".join(str(n) for n in study.shape or ())]
    if study.spacing_mm:
        parts.append(" x ".join(f"{s:.3g}" for s in study.spacing_mm) + " mm")
    return ", ".join(part for part in parts if part)

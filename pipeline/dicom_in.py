"""A DICOM study into a :class:`~pneumonai.pipeline.study.Study`: headers, choice of the series, pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pneumonai.pipeline.dicom_headers import SliceHeader, read_all_headers, read_identifiers
from pneumonai.pipeline.dicom_pixels import check_rescale, decode_series
from pneumonai.pipeline.dicom_series import XRAY_MODALITIES, Choice, choose_series, group_series
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import StudySource
from pneumonai.pipeline.study import InputKind, Modality, Study


def open_dicom(
    files: Sequence[str], source: StudySource, *, series: str | None = None, modality: Modality | None = None
) -> Study:
    """Read the CT series, or the chest X-ray, of one study.

    Args:
        files: its DICOM files.
        source: where they lie, and which study of the place is meant.
        series: SeriesInstanceUID to read.
        modality: what to prefer where the study holds CT and X-rays; CT when not given.

    Raises:
        StudyError: see :func:`pneumonai.pipeline.study.open_study`.
    """
    headers = study_headers(files, source)
    xrays = [h for h in headers if h.modality in XRAY_MODALITIES]
    if series is not None:
        xrays = [h for h in xrays if h.series_uid == series]
    wants_ct = modality is not Modality.CXR and (series is None or not xrays)
    if xrays and (not wants_ct or not any(h.modality == "CT" for h in headers)):
        from pneumonai.pipeline.xray_in import open_xray

        return open_xray(xrays, source)
    choice = choose_series(group_series(headers), source.path, series)
    return _read_ct(choice, files, source)


def study_headers(files: Sequence[str], source: StudySource) -> list[SliceHeader]:
    """Headers of a study's files.

    Raises:
        StudyError: a file is damaged, two patients' files or several studies are mixed, or no image is there.
    """
    headers, errors = read_all_headers(files)
    if source.shared:
        headers = [header for header in headers if header.study_uid == source.study_uid]
        if not headers and not errors:
            raise StudyError(source.path, f"holds no study {source.study_uid}", "check the StudyInstanceUID")
    if errors:
        more = f" ({len(errors)} such files)" if len(errors) > 1 else ""
        raise StudyError(source.path, errors[0].reason + more, errors[0].remedy)
    images = [header for header in headers if header.rows and header.columns]
    patients = {header.patient for header in headers if header.patient}
    if len(patients) > 1:
        raise StudyError(
            source.path, f"files of {len(patients)} patients lie in one folder", "put each patient in a folder"
        )
    studies = {header.study_uid for header in images}
    if len(studies) > 1:
        raise StudyError(
            source.path, f"holds {len(studies)} studies", "name one as PATH#StudyInstanceUID, or predict the folder"
        )
    if not images:
        raise StudyError(source.path, "holds no DICOM image", "send the images, not the directory or report alone")
    return images


def _read_ct(choice: Choice, files: Sequence[str], source: StudySource) -> Study:
    group = choice.group
    head = group.head
    check_rescale(group.slices, source.path)
    image, steps, digests = decode_series(group.slices, source.path)
    if group.affine is None:
        raise StudyError(source.path, "its slices have no position in space", "export the series again from the PACS")
    warnings = list(group.notes)
    if group.derived:
        warnings.append("the series was derived from another one (image type says so)")
    if group.axis != "axial":
        warnings.append(f"the series is {group.axis}, no axial one was found")
    if group.other_body_part:
        warnings.append(f"the header names another body part than the chest ({head.body_part.lower()})")
    if any(header.lossy for header in group.slices):
        warnings.append("the images were compressed with loss")
    return Study(
        id=source.id,
        path=source.path,
        modality=Modality.CT,
        kind=InputKind.VOLUME if image.shape[2] > 1 else InputKind.SLICE,
        image=image,
        affine=group.affine,
        series_uid=head.series_uid,
        study_uid=head.study_uid or None,
        converted=[f"series chosen: {choice.why}", "slices sorted by position in space", *steps],
        warnings=warnings,
        identifiers=read_identifiers(head.path),
        fingerprint=fingerprint(files, source.path, digests),
    )


def fingerprint(files: Sequence[str], root: str, digests: dict[str, str]) -> str:
    """sha256 over the names and sizes of a study's files, and the contents of those that were read.

    Args:
        files: all files of the study.
        root: folder that the names are taken relative to.
        digests: sha256 of the contents of the files that were read, by path.
    """
    lines = []
    for path in files:
        name = os.path.relpath(path, root) if path != root else Path(path).name
        lines.append(f"{name}\n{Path(path).stat().st_size}\n{digests.get(path, '')}\n")
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()

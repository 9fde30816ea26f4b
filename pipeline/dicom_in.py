"""A DICOM study into a :class:`~pneumonai.pipeline.study.Study`: headers, choice of the series, pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pneumonai.pipeline.assumed import assumed_in, mark_assumed
from pneumonai.pipeline.dicom_headers import SliceHeader, read_all_headers, read_derivation, read_identifiers
from pneumonai.pipeline.dicom_pixels import decode_series
from pneumonai.pipeline.dicom_series import XRAY_MODALITIES, Choice, choose_series, group_series
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import StudySource, fingerprint
from pneumonai.pipeline.study import InputKind, Modality, Study
from pneumonai.pipeline.synthetic import says_synthetic


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
    images = sorted({header.path for header in headers})
    chosen = _choose(headers, source, series, modality)
    if isinstance(chosen, Choice):
        return _read_ct(chosen, images, source)
    from pneumonai.pipeline.xray_in import open_xray

    return open_xray(chosen, images, source)


def _choose(
    headers: list[SliceHeader], source: StudySource, series: str | None, modality: Modality | None
) -> Choice | list[SliceHeader]:
    """The CT series to read, or the X-rays to choose from where there is no CT, or X-rays are wanted."""
    xrays = [h for h in headers if h.modality in XRAY_MODALITIES and series in (None, h.series_uid)]
    has_ct = any(h.modality == "CT" for h in headers)
    if xrays and (modality is Modality.CXR or not has_ct or series is not None):
        return xrays
    return choose_series(group_series(headers), source.token, series)


def files_to_read(
    files: Sequence[str], source: StudySource, *, series: str | None = None, modality: Modality | None = None
) -> tuple[list[str], list[str]]:
    """The study's images among some files, and those of them whose pixels :func:`open_dicom` would read.

    Raises:
        StudyError: as :func:`open_dicom`, as far as headers tell.
    """
    headers = study_headers(files, source)
    images = sorted({header.path for header in headers})
    chosen = _choose(headers, source, series, modality)
    if isinstance(chosen, Choice):
        return images, sorted({header.path for header in chosen.group.slices})
    from pneumonai.pipeline.xray_choice import choose_xray

    return images, [choose_xray(chosen, source.token).header.path]


def study_headers(files: Sequence[str], source: StudySource) -> list[SliceHeader]:
    """Headers of a study's files.

    Raises:
        StudyError: a file is damaged, two patients' files or several studies are mixed, or no image is there.
    """
    headers, errors = read_all_headers(files)
    if source.shared:
        headers = [header for header in headers if header.study_uid == source.study_uid]
        if not headers:
            raise StudyError(source.token, f"holds no study {source.study_uid}", "check the StudyInstanceUID")
        places = {Path(header.path).parent for header in headers}
        errors = [error for error in errors if Path(error.subject).parent in places]
    if errors:
        more = f" ({len(errors)} such files)" if len(errors) > 1 else ""
        raise StudyError(source.token, errors[0].reason + more, errors[0].remedy)
    images = [header for header in headers if header.rows and header.columns]
    patients = {header.patient for header in headers if header.patient}
    if len(patients) > 1:
        raise StudyError(
            source.token, f"files of {len(patients)} patients lie in one folder", "put each patient in a folder"
        )
    studies = {header.study_uid for header in images}
    if len(studies) > 1:
        raise StudyError(
            source.token, f"holds {len(studies)} studies", "name one as PATH#StudyInstanceUID, or predict the folder"
        )
    if not images:
        raise StudyError(source.token, "holds no DICOM image", "send the images, not the directory or report alone")
    return images


def _read_ct(choice: Choice, files: Sequence[str], source: StudySource) -> Study:
    group = choice.group
    head = group.head
    decoded = decode_series(group.slices, source.token)
    image = decoded.image
    if group.affine is None:
        raise StudyError(source.token, "its slices have no position in space", "export the series again from the PACS")
    warnings = list(group.notes)
    if group.axis != "axial":
        warnings.append(f"the series is {group.axis}, no axial one was found")
    if group.other_body_part:
        warnings.append(f"the header names another body part than the chest ({head.body_part.lower()})")
    if any(header.lossy for header in group.slices):
        warnings.append("the images were compressed with loss")
    study = Study(
        id=source.id,
        path=source.token,
        modality=Modality.CT,
        kind=InputKind.VOLUME if image.shape[2] > 1 else InputKind.SLICE,
        image=image,
        affine=group.affine,
        series_uid=head.series_uid,
        study_uid=head.study_uid or None,
        converted=[f"series chosen: {choice.why}", "slices sorted by position in space", *decoded.steps],
        warnings=warnings,
        identifiers=read_identifiers(head.path),
        synthetic=says_synthetic(head.description),
        fingerprint=fingerprint(files, source.path, decoded.digests),
    )
    return mark_assumed(study, assumed_in(read_derivation(head.path)))

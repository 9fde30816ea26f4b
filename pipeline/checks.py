"""Does an opened study fit what a bundle reads? Refused in words where it does not, warned where it barely does."""

from __future__ import annotations

import numpy as np

from pneumonai.pipeline.ct_picture_checks import look_at_slice
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.image_checks import look
from pneumonai.pipeline.study import InputKind, Modality, Study
from pneumonai.pipeline.xray_checks import look_at_xray

MIN_SLICES = 10
MIN_COVERAGE_MM = 50.0
USUAL_COVERAGE_MM = 150.0
MIN_WIDTH_MM = 80.0
PIXEL_MM = (0.1, 10.0)
MAX_SLICE_MM = 20.0
THICK_SLICE_MM = 5.5
MIN_PICTURE = 64
ONE_GREY = 4.0
"""Grey levels between the 0.5 and 99.5 percentiles, under which a picture shows nothing but noise."""
TILT_DEGREES = 5.0
USUAL_LUNGS_ML = 1500.0
LEAST_SHARE = {"right": 0.44, "left": 0.38}
"""Of the two lungs together: the right one usually has 50 to 58 %."""
_NAMES = {Modality.CT: "a CT", Modality.CXR: "a chest X-ray"}


def check(
    study: Study, *, modality: Modality | str = Modality.CT, input_kind: InputKind | str = InputKind.VOLUME
) -> list[str]:
    """Check an opened study against what a bundle reads.

    Args:
        study: as :func:`~pneumonai.pipeline.study.open_study` gives it.
        modality: what the bundle reads.
        input_kind: volume; slice (a volume is answered slice by slice); picture.

    Returns:
        Warnings, in words.

    Raises:
        StudyError: the study must not be answered by such a bundle.
    """
    modality, input_kind = Modality(modality), InputKind(input_kind)
    _check_kind(study, modality, input_kind)
    if study.image.size == 0:
        raise StudyError(study.path, "holds no voxels", "export it again")
    if study.image.dtype.kind == "f" and not np.isfinite(study.image).all():
        raise StudyError(
            study.path, "holds values that are no numbers (NaN or infinite)", "write it again without them"
        )
    if study.kind is InputKind.PICTURE:
        return _check_picture(study)
    _check_hounsfield(study)
    warnings = _check_geometry(study, input_kind)
    if study.kind is InputKind.VOLUME and input_kind is InputKind.VOLUME and not study.assumed_geometry:
        warnings += look(study.image, study.affine)
    return warnings


def check_lungs(lungs: np.ndarray, voxel_ml: float | None) -> list[str]:
    """Warnings, in words, about lungs that are small or far from alike.

    Args:
        lungs: 0, 1 right, 2 left.
        voxel_ml: volume of a voxel; None where it is not known, then nothing is said of the volume.
    """
    right, left = (int(np.count_nonzero(lungs == side)) for side in (1, 2))
    total = right + left
    if not total:
        return []
    warnings = []
    for side, share in (("right", right / total), ("left", left / total)):
        if share < LEAST_SHARE[side]:
            warnings.append(
                f"the {side} lung has only {100 * share:.0f} % of the lung found: part of it is lost, collapsed, "
                "displaced by the diaphragm, or was not found; look at the lung mask"
            )
    if voxel_ml is not None and total * voxel_ml < USUAL_LUNGS_ML:
        warnings.append(
            f"only {total * voxel_ml:.0f} ml of lung: a child, a scan in expiration, or lung that was not found; "
            "look at the lung mask"
        )
    return warnings


def reads(modality: Modality, input_kind: InputKind, study_modality: str, study_kind: str) -> bool:
    """Whether a bundle for ``modality`` and ``input_kind`` reads studies of some kind; :func:`check` looks at one.

    Examples:
        >>> reads(Modality.CT, InputKind.SLICE, "CT", "volume"), reads(Modality.CT, InputKind.VOLUME, "CT", "slice")
        (True, False)
    """
    kinds = {InputKind.SLICE: tuple(InputKind)}.get(input_kind, (input_kind,))
    return study_modality == modality and study_kind in kinds


def _check_kind(study: Study, modality: Modality, input_kind: InputKind) -> None:
    if study.modality is not modality:
        raise StudyError(
            study.path,
            f"is {_NAMES[study.modality]}, where {_NAMES[modality]} is wanted",
            f"choose a bundle for {_NAMES[study.modality]}, or send {_NAMES[modality]}",
        )
    if input_kind is InputKind.VOLUME and study.kind is InputKind.SLICE:
        raise StudyError(study.path, "is a single slice, where a CT volume is wanted", "send the whole series")
    if input_kind is InputKind.VOLUME and study.kind is InputKind.PICTURE:
        raise StudyError(study.path, "is a picture, where a CT volume is wanted", "send the DICOM series or NIfTI")
    if input_kind is InputKind.PICTURE and study.kind is not InputKind.PICTURE:
        raise StudyError(study.path, f"is a CT {study.kind}, where a picture is wanted", "choose a bundle for CT")


def _check_picture(study: Study) -> list[str]:
    if min(study.image.shape) < MIN_PICTURE:
        rows, columns = study.image.shape
        raise StudyError(
            study.path, f"is a picture of {columns} x {rows} pixels, too small", f"at least {MIN_PICTURE} are wanted"
        )
    low, high = (float(value) for value in np.percentile(study.image, (0.5, 99.5)))
    if high - low < ONE_GREY:
        tone = "black" if high < 16 else "white" if low > 239 else "of one grey value"
        raise StudyError(study.path, f"is {tone} throughout", "check the export")
    return look_at_xray(study.image) if study.modality is Modality.CXR else look_at_slice(study.image)


def _check_hounsfield(study: Study) -> None:
    """Refuse values that cannot be Hounsfield units."""
    step = [max(1, size // 64) for size in study.image.shape]
    sample = study.image[:: step[0], :: step[1], :: step[2]]
    lowest, highest = float(study.image.min()), float(study.image.max())
    send = "send the CT in Hounsfield units (air -1000, water 0)"
    if lowest == highest:
        raise StudyError(study.path, f"all its voxels have the value {lowest:g}", "check the export")
    if lowest >= 0 and highest <= 255 and not study.assumed_geometry:
        raise StudyError(
            study.path, f"its values are grey values {lowest:g} to {highest:g} of pictures, no Hounsfield units", send
        )
    if study.assumed_geometry and lowest >= 0 and highest <= 255:
        return
    tissue = float(np.mean((sample > 850) & (sample < 1250)))
    lung = float(np.mean((sample > -1000) & (sample < -300)))
    if (lowest >= 0 and highest > 255) or (lung < 0.005 and tissue > 0.05):
        raise StudyError(
            study.path,
            f"its values ({lowest:g} to {highest:g}) look like HU + 1024, no Hounsfield units",
            "subtract 1024 (the rescale intercept was not applied), or " + send,
        )
    if lowest > -300:
        reason = f"its values ({lowest:g} to {highest:g}) hold no air: no lungs, or no Hounsfield units"
        raise StudyError(study.path, reason, send)


def _check_geometry(study: Study, input_kind: InputKind) -> list[str]:
    warnings: list[str] = []
    directions = study.affine[:3, :3]
    spacing = np.asarray(study.spacing)
    if not np.isfinite(study.affine).all() or spacing.min() <= 0:
        raise StudyError(study.path, "its affine is not finite or has no volume", "export it again")
    cosines = (directions / spacing).T @ (directions / spacing)
    shear = float(np.degrees(np.arcsin(min(1.0, np.abs(cosines - np.diag(np.diag(cosines))).max()))))
    if shear > 1.0:
        raise StudyError(
            study.path, f"its axes are sheared by {shear:.1f} degrees (gantry tilt)", "resample it to right angles"
        )
    upward = int(np.argmax(np.abs(directions[2] / spacing)))
    if input_kind is InputKind.SLICE or study.kind is InputKind.SLICE:
        upward = 2
    in_plane = [float(s) for axis, s in enumerate(spacing) if axis != upward]
    sizes = [float(s) * n for axis, (s, n) in enumerate(zip(spacing, study.image.shape, strict=True)) if axis != upward]
    between, count = float(spacing[upward]), study.image.shape[upward]
    text = " x ".join(f"{s:.3g}" for s in spacing)
    if study.assumed_geometry:
        if study.kind is InputKind.VOLUME and input_kind is InputKind.VOLUME and count < MIN_SLICES:
            reason = f"has only {count} slices"
            raise StudyError(study.path, reason, f"a chest CT of at least {MIN_SLICES} slices is wanted")
        return warnings
    if min(in_plane) < PIXEL_MM[0] or max(in_plane) > PIXEL_MM[1] or between > MAX_SLICE_MM or between < PIXEL_MM[0]:
        raise StudyError(study.path, f"its spacing of {text} mm is no chest CT's", "check the spacing in the header")
    if min(sizes) < MIN_WIDTH_MM:
        raise StudyError(
            study.path, f"its slices are only {min(sizes):.0f} mm wide", "send a chest CT with both lungs in view"
        )
    if study.kind is not InputKind.VOLUME or input_kind is not InputKind.VOLUME:
        return warnings
    if count < MIN_SLICES or count * between < MIN_COVERAGE_MM:
        raise StudyError(
            study.path,
            f"has only {count} slices over {count * between:.0f} mm",
            f"a chest CT of at least {MIN_SLICES} slices and {MIN_COVERAGE_MM:.0f} mm is wanted",
        )
    if count * between < USUAL_COVERAGE_MM:
        warnings.append(f"the slices cover only {count * between:.0f} mm from head to foot")
    if between > THICK_SLICE_MM:
        warnings.append(f"thick slices ({between:.1f} mm): small findings may not show")
    tilt = float(np.degrees(np.arccos(np.clip(np.abs(directions / spacing).max(axis=0).min(), 0, 1))))
    if tilt > TILT_DEGREES:
        warnings.append(
            f"the scan lies {tilt:.0f} degrees oblique, and is answered as it lies; reformat it to axial slices"
        )
    return warnings

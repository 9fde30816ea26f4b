"""A NIfTI file into a :class:`~pneumonai.pipeline.study.Study`."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from pneumonai.pipeline.assumed import assumed_beside, assumed_in, mark_assumed
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import file_digest, fingerprint
from pneumonai.pipeline.study import InputKind, Modality, Study
from pneumonai.pipeline.synthetic import says_synthetic

AIR_HU = -1024
FILLING_BELOW_HU = -1500


def open_nifti(path: str, study_id: str) -> Study:
    """Read a CT from a NIfTI file: int16 where all values are whole numbers, else float32.

    Raises:
        StudyError: damaged file, 4D, colour or complex values, NaN, no orientation in space.
    """
    digest = file_digest(path)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise StudyError(path, "is no NIfTI file", "convert it to NIfTI")
        _check_header(image, path)
        values = np.array(np.asanyarray(image.dataobj))
    except StudyError:
        raise
    except MemoryError as error:
        raise StudyError(
            path, "its header asks for more memory than there is, or is damaged", "copy it again"
        ) from error
    except Exception as error:
        raise StudyError(path, "is damaged or no NIfTI file", "copy it again") from error
    while values.ndim > 3:
        values = values[..., 0]
    if values.ndim == 2:
        values = values[..., None]
    values, converted = _as_hounsfield(values, path)
    text = image.header["descrip"].item().decode("latin-1")
    study = Study(
        id=study_id,
        path=path,
        modality=Modality.CT,
        kind=InputKind.VOLUME if min(values.shape) > 1 else InputKind.SLICE,
        image=values,
        affine=np.asarray(image.affine, dtype=float),
        converted=converted,
        warnings=_warnings(image),
        synthetic=says_synthetic(text),
        fingerprint=fingerprint([path], path, {path: digest}),
    )
    return mark_assumed(study, assumed_in(text) or assumed_beside(path))


def _check_header(image: nib.Nifti1Image, path: str) -> None:
    shape, kind = image.shape, image.get_data_dtype()
    if len(shape) < 2 or 0 in shape:
        raise StudyError(path, f"its shape {shape} is no image", "export it again")
    if any(size > 1 for size in shape[3:]):
        raise StudyError(path, f"is {len(shape)}D, of shape {shape}; one volume is wanted", "split it into volumes")
    if kind.names is not None:
        raise StudyError(path, "is in colour (RGB), no Hounsfield units", "export the original CT")
    if kind.kind not in "iuf":
        raise StudyError(path, f"its values are of type {kind}, no Hounsfield units", "export the original CT")
    codes = int(image.header["sform_code"]), int(image.header["qform_code"])
    if codes == (0, 0):
        raise StudyError(
            path,
            "says nothing of its orientation (sform and qform codes are 0), so right and left are unknown",
            "write it again with its affine",
        )
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise StudyError(path, "its affine is not finite or has no volume", "write it again with its affine")


def _as_hounsfield(values: np.ndarray, path: str) -> tuple[np.ndarray, list[str]]:
    converted: list[str] = []
    if values.dtype.kind == "f":
        lowest, highest = float(values.min()), float(values.max())
        if not np.isfinite([lowest, highest]).all():
            raise StudyError(path, "holds values that are no numbers (NaN or infinite)", "write it again without them")
        whole = all(bool((part == np.rint(part)).all()) for part in np.moveaxis(values, -1, 0))
        if whole and lowest >= -32768 and highest <= 32767:
            converted.append(f"whole numbers stored as {values.dtype} to int16")
            values = values.astype(np.int16)
        else:
            values = values.astype(np.float32, copy=False)
    elif values.dtype != np.int16:
        lowest, highest = int(values.min()), int(values.max())
        fits = lowest >= -32768 and highest <= 32767
        values = values.astype(np.int16 if fits else np.float32)
    if values.dtype.byteorder not in "=|":
        values = values.astype(values.dtype.newbyteorder("="))
    if float(values.min()) < FILLING_BELOW_HU:
        values[values < FILLING_BELOW_HU] = AIR_HU
        converted.append(f"values below {FILLING_BELOW_HU} HU (outside the field of view) set to air ({AIR_HU} HU)")
    return values, converted


def _warnings(image: nib.Nifti1Image) -> list[str]:
    sform, s_code = image.get_sform(coded=True)
    qform, q_code = image.get_qform(coded=True)
    if s_code > 0 and q_code > 0 and not np.allclose(sform, qform, atol=0.1):
        return ["sform and qform of the NIfTI header differ; the sform is used"]
    return []

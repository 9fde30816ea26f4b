"""A chest X-ray in DICOM (CR, DX) into a :class:`~pneumonai.pipeline.study.Study`: grey values as displayed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_windowing, pixel_array

from pneumonai.pipeline.dicom_headers import CHEST_WORDS, SliceHeader, read_identifiers
from pneumonai.pipeline.dicom_quiet import quiet_pydicom
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.pictures_in import PERCENTILES, scale_to_grey
from pneumonai.pipeline.sources import StudySource, fingerprint
from pneumonai.pipeline.study import InputKind, Modality, Study
from pneumonai.pipeline.synthetic import says_synthetic
from pneumonai.pipeline.xray_choice import choose_xray


def open_xray(headers: Sequence[SliceHeader], files: Sequence[str], source: StudySource) -> Study:
    """Read one frontal X-ray: modality and VOI LUT applied, MONOCHROME1 inverted, scaled to 0..255.

    Args:
        headers: of the X-rays to choose from.
        files: all files of the study.
        source: where they lie.

    Raises:
        StudyError: no frontal grey image, or its pixels cannot be decoded.
    """
    choice = choose_xray(headers, source.token)
    header = choice.header
    try:
        data = Path(header.path).read_bytes()
        with quiet_pydicom():
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            grey, converted = _as_displayed(dataset)
    except Exception as error:
        raise StudyError(
            source.token, f"{header.name}: its pixels cannot be decoded", "fetch the image again, or export it as PNG"
        ) from error
    warnings = list(choice.warnings)
    if header.intent == "FOR PROCESSING":
        warnings.append("the image is raw (for processing), not made for reading")
    if header.body_part and not any(word in header.body_part for word in CHEST_WORDS):
        warnings.append(f"the header names another body part than the chest ({header.body_part.lower()})")
    if header.lossy:
        warnings.append("the image was compressed with loss")
    return Study(
        id=source.id,
        path=source.token,
        modality=Modality.CXR,
        kind=InputKind.PICTURE,
        image=grey,
        affine=np.eye(4),
        series_uid=header.series_uid,
        study_uid=header.study_uid or None,
        converted=[choice.why, *converted],
        warnings=warnings,
        identifiers=read_identifiers(header.path),
        synthetic=says_synthetic(header.description),
        assumed_geometry=True,
        fingerprint=fingerprint(files, source.path, {header.path: hashlib.sha256(data).hexdigest()}),
    )


def _as_displayed(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Grey values 0..255, float32, ``[row, column]``, white for what absorbs."""
    stored = pixel_array(dataset, raw=True)
    if stored.ndim != 2:
        raise ValueError("one grey image is wanted")
    values = np.asarray(apply_modality_lut(stored, dataset))
    converted = []
    if "ModalityLUTSequence" in dataset or "RescaleSlope" in dataset:
        converted.append("modality LUT applied")
    if dataset.get("VOILUTSequence"):
        grey = _through_table(values, dataset.VOILUTSequence[0], "<" if dataset.original_encoding[1] else ">")
        converted.append("VOI LUT applied")
    elif "WindowWidth" in dataset:
        # Far below and far above the window lie its two ends.
        with np.errstate(over="ignore"):
            low, high = np.asarray(apply_windowing(np.asarray([[-1e9, 1e9]]), dataset)).ravel()
        shown = np.asarray(apply_windowing(values, dataset))
        grey = np.clip((shown - low) * (255.0 / max(high - low, 1e-6)), 0.0, 255.0).astype(np.float32)
        converted.append("VOI LUT applied")
    else:
        grey = scale_to_grey(values)
        converted.append(f"scaled from the {PERCENTILES[0]:g} and {PERCENTILES[1]:g} percentiles to 0..255")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = np.float32(255.0) - grey
        converted.append("MONOCHROME1 inverted")
    return grey, converted


def _through_table(values: np.ndarray, item: Dataset, order: str) -> np.ndarray:
    """Grey values 0..255 by a VOI LUT (PS3.3 C.11.2.1.1).

    pydicom's ``apply_voi`` looks values up modulo 256 where the table's entries have 8 bits.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        table = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * count else np.uint8)
    else:
        table = np.asarray(data)
    if len(table) < count:
        raise ValueError(f"a VOI LUT of {count} entries is wanted, {len(table)} came")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)
    return np.clip(table[index].astype(np.float32) * np.float32(255.0 / (2**bits - 1)), 0.0, 255.0)

"""Headers of DICOM files, as plain records: one a slice, or one a frame of a multi-frame file.

Values are decoded here from their raw bytes and not by pydicom's typed access, whose warnings would print header
values (a patient's name among them) for files that break the standard in ways that do not matter here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag

from pneumonai.pipeline.dicom_quiet import quiet_pydicom
from pneumonai.pipeline.errors import StudyError

THREADS = max(2, min(8, os.cpu_count() or 2))
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
CHEST_WORDS = ("CHEST", "THORAX", "THOR", "LUNG", "TRUNK", "BODY", "ABDOMEN", "TORSO")
IDENTIFIERS = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "InstitutionName")

TAGS = {
    "image_type": 0x00080008,
    "sop_class": 0x00080016,
    "sop_uid": 0x00080018,
    "modality": 0x00080060,
    "intent": 0x00080068,
    "description": 0x0008103E,
    "patient_name": 0x00100010,
    "patient_id": 0x00100020,
    "body_part": 0x00180015,
    "thickness": 0x00180050,
    "tilt": 0x00181120,
    "kernel": 0x00181210,
    "view": 0x00185101,
    "study_uid": 0x0020000D,
    "series_uid": 0x0020000E,
    "series_number": 0x00200011,
    "acquisition": 0x00200012,
    "temporal": 0x00200100,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "pixel_spacing": 0x00280030,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "padding_limit": 0x00280121,
    "intercept": 0x00281052,
    "slope": 0x00281053,
    "rescale_type": 0x00281054,
    "lossy": 0x00282110,
    "overlay_bits": 0x60000102,
}
_BINARY = (
    "samples",
    "rows",
    "columns",
    "bits_allocated",
    "bits_stored",
    "high_bit",
    "signed",
    "padding",
    "padding_limit",
    "overlay_bits",
)
_ALL_TAGS = frozenset(BaseTag(tag) for tag in TAGS.values())
_BRIEF_TAGS = frozenset(
    BaseTag(TAGS[name]) for name in ("sop_class", "patient_name", "patient_id", "study_uid", "series_uid")
)
_FIRST_PIXEL_TAG = 0x7FE00008
# Most headers fit; one read a file, and the rest of the file stays on the disk.
_START_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What is needed of one slice before its pixels are read. Lengths in mm, DICOM's patient axes (LPS+)."""

    path: str
    frame: int
    frames: int
    transfer_syntax: str
    pixel_offset: int
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    series_number: int
    modality: str
    description: str
    body_part: str
    patient: str
    image_type: tuple[str, ...]
    intent: str
    view: str
    kernel: str
    acquisition: str
    temporal: str
    thickness: float | None
    tilt: float
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    padding: int | None
    padding_limit: int | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    lossy: bool
    overlay_bits: bool

    @property
    def name(self) -> str:
        """File name, for messages."""
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class BriefHeader:
    """Whose file it is: enough to sort a folder's files into studies."""

    path: str
    study_uid: str
    series_uid: str
    patient: str


def _elements(dataset: Dataset) -> dict[int, Any]:
    """The elements as they were read, not converted."""
    return {int(tag): element for tag, element in dataset.items()}


def _text(elements: dict[int, Any], tag: int) -> str:
    value = getattr(elements.get(tag), "value", None)
    if value is None:
        return ""
    raw = value if isinstance(value, bytes) else str(value).encode()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip("\0 ") if text.isprintable() else "".join(c for c in text if c.isprintable()).strip()


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("\\") if part.strip())
    except ValueError:
        return ()


def _number(text: str) -> float | None:
    numbers = _numbers(text)
    return numbers[0] if numbers else None


def _whole(text: str) -> int:
    number = _number(text)
    return int(number) if number is not None and abs(number) < 2**31 else 0


def _short(elements: dict[int, Any], tag: int, *, signed: bool = False) -> int | None:
    element = elements.get(tag)
    value = getattr(element, "value", None)
    if not isinstance(value, bytes) or len(value) < 2:
        return None
    little = bool(getattr(element, "is_little_endian", True))
    return int.from_bytes(value[:2], "little" if little else "big", signed=signed)


def is_dicom_name(path: str | Path) -> bool:
    """Whether a file's name says that it is DICOM."""
    return str(path).lower().endswith(DICOM_ENDINGS)


def has_dicom_mark(path: str | Path) -> bool:
    """Whether a file carries DICOM's mark, ``DICM`` after 128 bytes."""
    try:
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read(path: str, tags: frozenset[BaseTag], stop: int) -> tuple[Dataset, int]:
    """The header up to (not including) tag ``stop``, and the offset in the file where reading stopped."""
    with Path(path).open("rb") as file:
        start = file.read(_START_BYTES)
        dataset, offset = _parse(io.BytesIO(start), path, tags, stop)
        if offset >= len(start) == _START_BYTES:
            file.seek(0)
            dataset, offset = _parse(file, path, tags, stop)
        return dataset, offset


def _parse(file: BinaryIO, path: str, tags: frozenset[BaseTag], stop: int) -> tuple[Dataset, int]:
    dataset = pydicom.filereader.read_partial(
        file,
        stop_when=lambda tag, _vr, _length: int(tag) >= stop,
        force=is_dicom_name(path),
        specific_tags=tags,
    )
    return dataset, file.tell()


def _damaged(path: str, error: BaseException) -> StudyError:
    name = Path(path).name
    if isinstance(error, PermissionError):
        return StudyError(path, f"{name} may not be read (no permission)", "change its permissions")
    if isinstance(error, OSError):
        return StudyError(path, f"{name} cannot be read ({error.strerror or type(error).__name__})", "copy it again")
    return StudyError(path, f"{name} is no DICOM file, or is damaged", "copy it again, or take it out of the folder")


def read_briefs(paths: Iterable[str]) -> list[BriefHeader | StudyError | None]:
    """Study and patient of each file, read in threads; None for a DICOMDIR and other files that hold no image.

    Errors are returned, not raised, so that one bad file does not hide the others of a folder.
    """
    with quiet_pydicom(), ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_read_brief, paths))


def _is_directory(dataset: Dataset) -> bool:
    meta = getattr(dataset, "file_meta", None)
    return str(getattr(meta, "MediaStorageSOPClassUID", "")) == MEDIA_DIRECTORY


def _read_brief(path: str) -> BriefHeader | StudyError | None:
    try:
        dataset, _ = _read(path, _BRIEF_TAGS, stop=0x0020000F)
        elements = _elements(dataset)
    except Exception as error:
        return _damaged(path, error)
    if _is_directory(dataset):
        return None
    sop_class = _text(elements, TAGS["sop_class"])
    study_uid, series_uid = _text(elements, TAGS["study_uid"]), _text(elements, TAGS["series_uid"])
    if not sop_class.startswith("1.2.840.10008.") or not series_uid:
        return _damaged(path, InvalidDicomError())
    patient = _text(elements, TAGS["patient_id"]) or _text(elements, TAGS["patient_name"])
    return BriefHeader(path, study_uid, series_uid, patient)


def read_headers(path: str) -> list[SliceHeader]:
    """Records of one file: one, or one a frame; none for a DICOMDIR.

    Raises:
        StudyError: the file is no DICOM file, or its header is damaged.
    """
    try:
        dataset, offset = _read(path, _ALL_TAGS, stop=_FIRST_PIXEL_TAG)
        meta = getattr(dataset, "file_meta", None)
        syntax = str(getattr(meta, "TransferSyntaxUID", "") or IMPLICIT_LITTLE_ENDIAN)
        if _is_directory(dataset):
            return []
        header = _header(path, dataset, syntax, offset)
    except Exception as error:
        raise _damaged(path, error) from error
    if not header.sop_class.startswith("1.2.840.10008.") or not header.series_uid:
        raise _damaged(path, InvalidDicomError())
    if header.frames <= 1:
        return [header]
    from pneumonai.pipeline.dicom_frames import read_frames

    try:
        return read_frames(path, header)
    except Exception as error:
        raise StudyError(
            path, f"{header.name}: the frames' functional groups cannot be read", "export the series again"
        ) from error


def _header(path: str, dataset: Dataset, syntax: str, offset: int) -> SliceHeader:
    elements = _elements(dataset)
    text = {name: _text(elements, tag) for name, tag in TAGS.items() if name not in _BINARY}
    number = {name: _short(elements, TAGS[name]) for name in _BINARY}
    signed = number["signed"] == 1
    bits = number["bits_stored"] or 16
    return SliceHeader(
        path=path,
        frame=0,
        frames=_whole(text["frames"]) or 1,
        transfer_syntax=syntax,
        pixel_offset=offset,
        sop_class=text["sop_class"],
        sop_uid=text["sop_uid"],
        study_uid=text["study_uid"],
        series_uid=text["series_uid"],
        series_number=_whole(text["series_number"]),
        modality=text["modality"].upper(),
        description=text["description"],
        body_part=text["body_part"].upper(),
        patient=text["patient_id"] or text["patient_name"],
        image_type=tuple(part.strip().upper() for part in text["image_type"].split("\\")),
        intent=text["intent"].upper(),
        view=text["view"].upper(),
        kernel=text["kernel"],
        acquisition=text["acquisition"],
        temporal=text["temporal"],
        thickness=_number(text["thickness"]),
        tilt=_number(text["tilt"]) or 0.0,
        position=exactly(_numbers(text["position"]), 3),
        orientation=exactly(_numbers(text["orientation"]), 6),
        pixel_spacing=exactly(_numbers(text["pixel_spacing"]), 2),
        rows=number["rows"] or 0,
        columns=number["columns"] or 0,
        samples=number["samples"] or 1,
        photometric=text["photometric"].upper(),
        bits_allocated=number["bits_allocated"] or 16,
        bits_stored=bits,
        high_bit=bits - 1 if number["high_bit"] is None else number["high_bit"],
        signed=signed,
        padding=_short(elements, TAGS["padding"], signed=signed),
        padding_limit=_short(elements, TAGS["padding_limit"], signed=signed),
        slope=_number(text["slope"]),
        intercept=_number(text["intercept"]),
        rescale_type=text["rescale_type"].upper(),
        lossy=text["lossy"] == "01",
        overlay_bits=bool(number["overlay_bits"]),
    )


def exactly(numbers: tuple[float, ...], count: int) -> tuple[float, ...] | None:
    """The numbers where they are as many as wanted and finite, else None."""
    return numbers if len(numbers) == count and all(abs(n) < 1e6 for n in numbers) else None


def read_all_headers(paths: Iterable[str]) -> tuple[list[SliceHeader], list[StudyError]]:
    """Headers of many files, read in threads: the records, and the errors of those that are damaged."""
    headers: list[SliceHeader] = []
    errors: list[StudyError] = []

    def attempt(path: str) -> list[SliceHeader] | StudyError:
        try:
            return read_headers(path)
        except StudyError as error:
            return error

    with quiet_pydicom(), ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(attempt, paths):
            if isinstance(found, StudyError):
                errors.append(found)
            else:
                headers.extend(found)
    return headers, errors


def read_derivation(path: str) -> str:
    """Derivation Description of a file's header: how the image came from another; empty where there is none."""
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=["DerivationDescription"]
            )
            return str(dataset.get("DerivationDescription", "")).strip()
    except Exception:
        return ""


def read_identifiers(path: str) -> dict[str, str]:
    """Patient identifiers of a file's header, those that are not empty."""
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(IDENTIFIERS))
            values = {name: str(dataset.get(name, "")).strip() for name in IDENTIFIERS}
    except Exception:
        return {}
    return {name: value for name, value in values.items() if value}

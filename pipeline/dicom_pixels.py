"""Pixels of a CT series: decoded in threads, rescaled slice by slice, into one volume in Hounsfield units."""

from __future__ import annotations

import hashlib
import io
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from pneumonai.pipeline.dicom_headers import IMPLICIT_LITTLE_ENDIAN, THREADS, SliceHeader
from pneumonai.pipeline.errors import StudyError

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = {IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN}
AIR_HU = -1024
# No tissue, gas or noise lies below: such values are filling outside the scanner's field of view.
FILLING_BELOW_HU = -1500
_PIXEL_DATA = {"<": b"\xe0\x7f\x10\x00", ">": b"\x7f\xe0\x00\x10"}
_UNDEFINED = 0xFFFFFFFF


class PixelError(ValueError):
    """The pixels of one file cannot be decoded; the message says why, ``remedy`` what to do."""

    def __init__(self, reason: str, remedy: str = "fetch the series again") -> None:
        super().__init__(reason)
        self.remedy = remedy


def decode_series(slices: list[SliceHeader], path: str) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """Decode sorted slices into a volume.

    Args:
        slices: of one shape, in the order of the volume's third axis.
        path: the study's path, for errors.

    Returns:
        The volume ``[column, row, slice]`` in HU: int16 where every rescale is whole, else float32 (a view whose
        columns lie next to each other in memory); what was done, in words; sha256 of each file by its path.

    Raises:
        StudyError: a slice cannot be decoded, names the file.
    """
    check_rescale(slices, path)
    whole = all(float(h.slope or 0).is_integer() and float(h.intercept or 0).is_integer() for h in slices)
    head = slices[0]
    volume = np.empty((len(slices), head.rows, head.columns), dtype=np.int16 if whole else np.float32)
    files: dict[str, list[int]] = {}
    for index, header in enumerate(slices):
        files.setdefault(header.path, []).append(index)
    digests: dict[str, str] = {}
    steps: set[str] = set()

    def decode_file(file: str) -> None:
        try:
            data = Path(file).read_bytes()
            digests[file] = hashlib.sha256(data).hexdigest()
            for index, hounsfield in _decode(data, [(i, slices[i]) for i in files[file]]):
                steps.update(_clean(hounsfield, slices[index], volume[index]))
        except PixelError as error:
            raise StudyError(path, f"{Path(file).name}: {error}", error.remedy) from error
        except PermissionError as error:
            raise StudyError(path, f"{Path(file).name} may not be read", "change its permissions") from error
        except Exception as error:
            raise StudyError(
                path, f"{Path(file).name}: its pixels cannot be decoded, the file is damaged", "fetch the series again"
            ) from error

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for _ in pool.map(decode_file, files):
                pass
        except StudyError:
            pool.shutdown(cancel_futures=True)
            raise
    done = [_rescale_words(slices), *sorted(steps)]
    return volume.transpose(2, 1, 0), done, digests


def check_rescale(slices: list[SliceHeader], path: str) -> None:
    """Refuse slices whose stored values cannot be turned into Hounsfield units.

    Raises:
        StudyError: rescale missing or zero, another unit than HU, a pixel format that is no CT's.
    """
    send = "send the original series from the scanner or PACS"
    for header in slices:
        if header.slope is None or header.intercept is None:
            raise StudyError(
                path, f"missing rescale: {header.name} does not say how its values become Hounsfield units", send
            )
        if header.slope == 0 or not np.isfinite([header.slope, header.intercept]).all():
            raise StudyError(path, f"rescale slope of {header.name} is {header.slope:g}", send)
        if header.rescale_type not in ("", "HU", "US"):
            raise StudyError(path, f"its values are {header.rescale_type}, no Hounsfield units", send)
        if header.samples != 1 or not header.photometric.startswith("MONOCHROME"):
            raise StudyError(path, f"{header.name} is in colour, no Hounsfield units", send)
        if header.bits_allocated not in (8, 16, 32) or not 1 <= header.bits_stored <= header.bits_allocated:
            raise StudyError(path, f"{header.name} has {header.bits_stored} of {header.bits_allocated} bits", send)
        if not header.rows or not header.columns:
            raise StudyError(path, f"{header.name} holds no image", send)


def _rescale_words(slices: list[SliceHeader]) -> str:
    pairs = {(h.slope, h.intercept) for h in slices}
    if len(pairs) == 1:
        slope, intercept = next(iter(pairs))
        return f"stored values to HU: slope {slope:g}, intercept {intercept:g}"
    return "stored values to HU: each slice by its own slope and intercept"


def _decode(data: bytes, wanted: list[tuple[int, SliceHeader]]) -> list[tuple[int, np.ndarray]]:
    """HU of the wanted slices of one file, int32 or float32, each ``[row, column]``."""
    header = wanted[0][1]
    if header.transfer_syntax in NATIVE:
        values = _native(data, header)
        return [(index, _rescale(_stored_bits(values[h.frame], h), h)) for index, h in wanted]
    if header.transfer_syntax == DEFLATED or header.frames > 1:
        return [
            (index, _rescale(frame, h)) for (index, h), frame in zip(wanted, _by_pydicom(data, wanted), strict=True)
        ]
    _check_fragments(data, header)
    try:
        return [(wanted[0][0], _by_simpleitk(header))]
    except RuntimeError:
        # GDCM knows most syntaxes; pydicom's plugins know some more (HTJ2K).
        return [(wanted[0][0], _rescale(_by_pydicom(data, wanted)[0], header))]


def _native(data: bytes, header: SliceHeader) -> np.ndarray:
    """Stored values of an uncompressed file, ``[frame, row, column]``."""
    order = ">" if header.transfer_syntax == EXPLICIT_BIG_ENDIAN else "<"
    offset, length = _pixel_element(data, header, order)
    kind = f"{order}{'i' if header.signed else 'u'}{header.bits_allocated // 8}"
    count = header.frames * header.rows * header.columns
    if min(length, len(data) - offset) < count * (header.bits_allocated // 8):
        raise PixelError("is cut off: it holds fewer pixels than its header says")
    return np.frombuffer(data, dtype=kind, count=count, offset=offset).reshape(
        header.frames, header.rows, header.columns
    )


def _pixel_element(data: bytes, header: SliceHeader, order: str) -> tuple[int, int]:
    """Offset and length of the value of Pixel Data."""
    start = header.pixel_offset
    if data[start : start + 4] != _PIXEL_DATA[order]:
        raise PixelError("holds no pixels, or is cut off before them")
    implicit = header.transfer_syntax == IMPLICIT_LITTLE_ENDIAN
    where = start + 4 if implicit else start + 8
    if len(data) < where + 4:
        raise PixelError("is cut off before its pixels")
    return where + 4, struct.unpack_from(f"{order}I", data, where)[0]


def _check_fragments(data: bytes, header: SliceHeader) -> None:
    """Refuse a compressed file that is cut off: decoders fill what is missing without a word."""
    offset, length = _pixel_element(data, header, "<")
    if length != _UNDEFINED:
        raise PixelError("is damaged: compressed pixels without a list of fragments")
    while True:
        item, size = data[offset : offset + 4], data[offset + 4 : offset + 8]
        if len(size) < 4 or item not in (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"):
            raise PixelError("is cut off: its compressed pixels have no end")
        if item == b"\xfe\xff\xdd\xe0":
            return
        offset += 8 + struct.unpack("<I", size)[0]


def _stored_bits(values: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Stored values without what lies outside their bits (overlays in the high bits), sign extended."""
    if header.bits_stored == header.bits_allocated:
        return values
    left = header.bits_allocated - 1 - header.high_bit
    if left < 0 or header.high_bit < header.bits_stored - 1:
        raise PixelError(f"has a high bit of {header.high_bit} for {header.bits_stored} bits")
    native = values.astype(values.dtype.newbyteorder("="))
    return (native << left) >> (header.bits_allocated - header.bits_stored)


def _rescale(stored: np.ndarray, header: SliceHeader) -> np.ndarray:
    slope, intercept = float(header.slope or 1.0), float(header.intercept or 0.0)
    if slope.is_integer() and intercept.is_integer():
        wide = stored.astype(np.int32)
        if slope != 1:
            wide *= int(slope)
        wide += int(intercept)
        return wide
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _by_simpleitk(header: SliceHeader) -> np.ndarray:
    """HU of a single-frame file; GDCM decodes and rescales, without holding Python's lock."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(header.path)
    image = reader.Execute()
    values = np.squeeze(sitk.GetArrayViewFromImage(image))
    if values.shape != (header.rows, header.columns):
        raise PixelError(f"holds {values.shape} pixels where its header says {(header.rows, header.columns)}")
    return np.array(values)


def _by_pydicom(data: bytes, wanted: list[tuple[int, SliceHeader]]) -> list[np.ndarray]:
    """Stored values of some frames."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    try:
        values = pydicom.pixels.pixel_array(dataset, raw=True)
    except (NotImplementedError, RuntimeError) as error:
        name = dataset.file_meta.TransferSyntaxUID.name
        raise PixelError(
            f"its pixels cannot be decoded (transfer syntax {name})", "export it uncompressed, or as JPEG Lossless"
        ) from error
    frames = values[None] if values.ndim == 2 else values
    shape = (wanted[0][1].rows, wanted[0][1].columns)
    if frames.shape[1:] != shape or len(frames) != wanted[0][1].frames:
        raise PixelError(f"holds {frames.shape} pixels where its header says {wanted[0][1].frames} x {shape}")
    return [frames[header.frame] for _, header in wanted]


def _clean(hounsfield: np.ndarray, header: SliceHeader, out: np.ndarray) -> set[str]:
    """Write a slice into the volume, with the filling outside the field of view turned to air."""
    steps: set[str] = set()
    lowest = hounsfield.min()
    padding = _padding_range(header)
    if padding is not None:
        low, high = padding
        if high < -900 or low > 4000:
            filled = (hounsfield >= low) & (hounsfield <= high)
            if filled.any() and not (low == high == AIR_HU):
                hounsfield = np.where(filled, AIR_HU, hounsfield)
                steps.add(f"padding value set to air ({AIR_HU} HU)")
    if lowest < FILLING_BELOW_HU and hounsfield.min() < FILLING_BELOW_HU:
        hounsfield = np.where(hounsfield < FILLING_BELOW_HU, AIR_HU, hounsfield)
        steps.add(f"values below {FILLING_BELOW_HU} HU (outside the field of view) set to air ({AIR_HU} HU)")
    if out.dtype == np.int16 and hounsfield.dtype != np.int16:
        if hounsfield.dtype.kind == "f":
            hounsfield = np.rint(hounsfield)
        if hounsfield.max() > 32767:
            hounsfield = np.minimum(hounsfield, 32767)
            steps.add("values above 32767 HU cut there")
    out[...] = hounsfield
    return steps


def _padding_range(header: SliceHeader) -> tuple[float, float] | None:
    """The padding's values in HU, lowest and highest."""
    if header.padding is None or header.slope is None or header.intercept is None:
        return None
    limit = header.padding if header.padding_limit is None else header.padding_limit
    ends = sorted(value * header.slope + header.intercept for value in (header.padding, limit))
    return ends[0], ends[1]

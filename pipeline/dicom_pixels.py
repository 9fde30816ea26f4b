"""Pixels of a CT series: decoded in threads, rescaled slice by slice, into one volume in Hounsfield units."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom

from pneumonai.pipeline.dicom_codecs import (
    PixelError,
    clean_copy,
    decode_apart,
    decode_clean,
    is_plain_lossless_jpeg,
    pixel_element,
)
from pneumonai.pipeline.dicom_headers import IMPLICIT_LITTLE_ENDIAN, THREADS, SliceHeader
from pneumonai.pipeline.dicom_quiet import quiet_pydicom
from pneumonai.pipeline.errors import StudyError

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = {IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN}
AIR_HU = -1024
# No tissue, gas or noise lies below: such values are filling outside the scanner's field of view.
FILLING_BELOW_HU = -1500


@dataclass
class DecodedSeries:
    """A volume and how it came about.

    Attributes:
        image: ``[column, row, slice]`` in HU: int16 where every rescale is whole, else float32. A view: columns lie
            next to each other in memory.
        steps: what was done, in words.
        digests: sha256 of each file by its path.
    """

    image: np.ndarray
    steps: list[str]
    digests: dict[str, str] = field(default_factory=dict)


def decode_series(slices: list[SliceHeader], path: str) -> DecodedSeries:
    """Decode sorted slices of one shape into a volume.

    Args:
        slices: in the order of the volume's third axis.
        path: the study's path, for errors.

    Raises:
        StudyError: values that cannot become HU, or a slice that cannot be decoded; names the file.
    """
    check_rescale(slices, path)
    with quiet_pydicom(), tempfile.TemporaryDirectory(prefix="pneumonai-") as folder:
        return _Decoding(slices, path, Path(folder)).run()


class _Decoding:
    """One run over the files of a series; threads write to different slices of one volume."""

    def __init__(self, slices: list[SliceHeader], path: str, folder: Path) -> None:
        whole = all(float(h.slope or 0).is_integer() and float(h.intercept or 0).is_integer() for h in slices)
        shape = (len(slices), slices[0].rows, slices[0].columns)
        self.slices, self.path, self.folder = slices, path, folder
        self.volume = np.empty(shape, dtype=np.int16 if whole else np.float32)
        self.indices: dict[str, list[int]] = {}
        for index, header in enumerate(slices):
            self.indices.setdefault(header.path, []).append(index)
        self.digests: dict[str, str] = {}
        self.steps: set[str] = set()
        self.apart: dict[str, Path] = {}

    def run(self) -> DecodedSeries:
        self._in_threads(self._decode_here, self.indices)
        if self.apart:
            self._decode_apart()
        steps = [_rescale_words(self.slices), *sorted(self.steps)]
        return DecodedSeries(self.volume.transpose(2, 1, 0), steps, self.digests)

    def _in_threads(self, decode: object, files: Iterable[str]) -> None:
        def attempt(file: str) -> None:
            try:
                decode(file)  # type: ignore[operator]
            except Exception as error:
                raise self._refusal(file, error) from error

        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for _ in pool.map(attempt, files):
                    pass
            except StudyError:
                pool.shutdown(cancel_futures=True)
                raise

    def _refusal(self, file: str, error: Exception) -> StudyError:
        name = Path(file).name
        if isinstance(error, PixelError):
            return StudyError(self.path, f"{name}: {error}", error.remedy)
        if isinstance(error, PermissionError):
            return StudyError(self.path, f"{name} may not be read (no permission)", "change its permissions")
        if isinstance(error, OSError):
            return StudyError(self.path, f"{name} cannot be read ({error.strerror or error})", "copy it again")
        return StudyError(
            self.path, f"{name}: its pixels cannot be decoded, the file is damaged", "fetch the series again"
        )

    def _decode_here(self, file: str) -> None:
        """Decode a file, or put a clean copy aside for the child process."""
        data = Path(file).read_bytes()
        self.digests[file] = hashlib.sha256(data).hexdigest()
        header = self.slices[self.indices[file][0]]
        if header.transfer_syntax in NATIVE:
            self._fill(file, _native(data, header))
        elif header.transfer_syntax == DEFLATED:
            stored = np.asarray(pydicom.pixels.pixel_array(pydicom.dcmread(io.BytesIO(data)), raw=True))
            self._fill(file, stored.reshape(header.frames, header.rows, header.columns))
        else:
            copy = self.folder / f"{self.indices[file][0]:06d}.dcm"
            copy.write_bytes(clean_copy(data, header))
            if is_plain_lossless_jpeg(data, header):
                self._fill(file, decode_clean(copy, (1, header.rows, header.columns)))
                copy.unlink()
            else:
                self.apart[file] = copy

    def _decode_apart(self) -> None:
        by_frames: dict[int, list[str]] = {}
        for file in self.apart:
            by_frames.setdefault(self.slices[self.indices[file][0]].frames, []).append(file)
        for frames, files in by_frames.items():
            shape = (frames, *self.volume.shape[1:])
            found = dict(zip(files, decode_apart([self.apart[f] for f in files], shape), strict=True))

            def fill(file: str, found: dict[str, np.ndarray | PixelError] = found) -> None:
                stored = found.pop(file)
                if isinstance(stored, PixelError):
                    raise stored
                self._fill(file, stored)

            self._in_threads(fill, files)

    def _fill(self, file: str, stored: np.ndarray) -> None:
        """Turn stored values ``[frame, row, column]`` of a file into HU in their slices."""
        for index in self.indices[file]:
            header = self.slices[index]
            values = _stored_bits(stored[header.frame], header)
            self.steps.update(_clean(_rescale(values, header), header, self.volume[index]))


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


def _native(data: bytes, header: SliceHeader) -> np.ndarray:
    """Stored values of an uncompressed file, ``[frame, row, column]``."""
    order = ">" if header.transfer_syntax == EXPLICIT_BIG_ENDIAN else "<"
    offset, length = pixel_element(data, header, order)
    kind = f"{order}{'i' if header.signed else 'u'}{header.bits_allocated // 8}"
    count = header.frames * header.rows * header.columns
    if min(length, len(data) - offset) < count * (header.bits_allocated // 8):
        raise PixelError("is cut off: it holds fewer pixels than its header says")
    return np.frombuffer(data, dtype=kind, count=count, offset=offset).reshape(
        header.frames, header.rows, header.columns
    )


def _stored_bits(values: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Stored values in native byte order, without an overlay in the bits above them, sign extended.

    Raises:
        PixelError: values that need more bits than the header gives them: cutting them would turn metal into air.
    """
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    bits = native.dtype.itemsize * 8
    if header.bits_stored >= bits:
        return native
    if not header.bits_stored - 1 <= header.high_bit < bits:
        raise PixelError(f"has a high bit of {header.high_bit} for {header.bits_stored} bits")
    low = -(1 << (header.bits_stored - 1)) if header.signed else 0
    if (
        header.high_bit == header.bits_stored - 1
        and native.min() >= low
        and native.max() < low + (1 << header.bits_stored)
    ):
        return native
    cut = (native << (bits - 1 - header.high_bit)) >> (bits - header.bits_stored)
    if header.overlay_bits or header.high_bit != header.bits_stored - 1:
        return cut
    unsigned = native.view(f"u{native.dtype.itemsize}")
    if header.signed and int(unsigned.max()) < 1 << header.bits_stored:
        return cut  # negative values that the decoder did not extend
    raise PixelError(f"its values need more than the {header.bits_stored} bits that its header says")


def _rescale(stored: np.ndarray, header: SliceHeader) -> np.ndarray:
    slope, intercept = float(header.slope or 1.0), float(header.intercept or 0.0)
    if slope == 1 and intercept.is_integer() and abs(intercept) <= 32767 and stored.dtype.itemsize == 2:
        lowest, highest = (int(end) + int(intercept) for end in (stored.min(), stored.max()))
        if lowest >= -32768 and highest <= 32767:
            # Stored values above 32767 wrap in the view and back in the sum.
            return stored.view(np.int16) + np.int16(intercept)
    if slope.is_integer() and intercept.is_integer() and stored.dtype.itemsize <= 2:
        wide = stored.astype(np.int32)
        if slope != 1:
            wide *= int(slope)
        wide += int(intercept)
        return wide
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _clean(hounsfield: np.ndarray, header: SliceHeader, out: np.ndarray) -> set[str]:
    """Write a slice into the volume, with the filling outside the field of view turned to air."""
    steps: set[str] = set()
    padding = _padding_range(header)
    if padding is not None and (padding[1] < -900 or padding[0] > 4000) and padding != (AIR_HU, AIR_HU):
        filled = (hounsfield >= padding[0]) & (hounsfield <= padding[1])
        if filled.any():
            hounsfield[filled] = AIR_HU
            steps.add(f"padding value set to air ({AIR_HU} HU)")
    if hounsfield.min() < FILLING_BELOW_HU:
        hounsfield[hounsfield < FILLING_BELOW_HU] = AIR_HU
        steps.add(f"values below {FILLING_BELOW_HU} HU (outside the field of view) set to air ({AIR_HU} HU)")
    if out.dtype == np.int16 and hounsfield.max() > 32767:
        np.minimum(hounsfield, 32767, out=hounsfield)
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

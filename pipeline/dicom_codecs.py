"""Decoding of compressed DICOM pixels, so that a damaged file cannot bring the program down.

GDCM is fast (it decodes JPEG Lossless without holding Python's lock) but ends the whole process on some damaged
streams. So it never sees a user's file: it is given the compressed fragments behind a header written here; a JPEG
Lossless stream goes to it only when its markers say just what the header says, and any other stream is decoded in a
child process (this module run with ``-m``), whose end is an error of one study and not of the run.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from pneumonai.pipeline.dicom_headers import THREADS, SliceHeader

JPEG_LOSSLESS = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
_SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
_PIXEL_DATA = {"<": b"\xe0\x7f\x10\x00", ">": b"\x7f\xe0\x00\x10"}
_IMPLICIT = "1.2.840.10008.1.2"
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
# A child that stops answering (seen once, in two threads of the decoders' first use) is ended and tried again with one.
_CHILD_SECONDS, _CHILD_SECONDS_A_FILE = 45.0, 1.0


class PixelError(ValueError):
    """The pixels of one file cannot be decoded; the message says why, ``remedy`` what to do."""

    def __init__(self, reason: str, remedy: str = "fetch the series again") -> None:
        super().__init__(reason)
        self.remedy = remedy


def pixel_element(data: bytes, header: SliceHeader, order: str = "<") -> tuple[int, int]:
    """Offset and length of the value of Pixel Data in a file.

    Raises:
        PixelError: there is none where the header ends.
    """
    start = header.pixel_offset
    if data[start : start + 4] != _PIXEL_DATA[order]:
        raise PixelError("holds no pixels, or is cut off before them")
    where = start + 4 if header.transfer_syntax == _IMPLICIT else start + 8
    if len(data) < where + 4:
        raise PixelError("is cut off before its pixels")
    return where + 4, struct.unpack_from(f"{order}I", data, where)[0]


def fragments(data: bytes, header: SliceHeader) -> tuple[list[bytes], int]:
    """Compressed fragments of a file (the first is the offset table), and where they end in it.

    Raises:
        PixelError: the list of fragments is damaged or cut off: decoders fill what is missing without a word.
    """
    offset, length = pixel_element(data, header)
    if length != _UNDEFINED:
        raise PixelError("is damaged: compressed pixels without a list of fragments")
    found = []
    while True:
        item, size = data[offset : offset + 4], data[offset + 4 : offset + 8]
        if len(size) < 4 or item not in (_ITEM, _END):
            raise PixelError("is cut off: its compressed pixels have no end")
        offset += 8
        if item == _END:
            break
        end = offset + struct.unpack("<I", size)[0]
        found.append(data[offset:end])
        offset = end
    if len(found) < 2:
        raise PixelError("holds no pixels")
    return found, offset


def clean_copy(data: bytes, header: SliceHeader) -> bytes:
    """The compressed pixels of a file behind a new, minimal header: stored values, no rescale.

    Raises:
        PixelError: as :func:`fragments`.
    """
    _, end = fragments(data, header)
    shape = (header.frames, header.rows, header.columns)
    bits = (header.bits_allocated, header.bits_stored, header.high_bit, int(header.signed))
    return _clean_header(header.transfer_syntax, shape, bits) + data[header.pixel_offset : end]


@lru_cache(maxsize=64)
def _clean_header(syntax: str, shape: tuple[int, int, int], bits: tuple[int, int, int, int]) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = _SECONDARY_CAPTURE
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID("2.25.1")
    ds.Modality = "OT"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    frames, ds.Rows, ds.Columns = shape
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def is_plain_lossless_jpeg(data: bytes, header: SliceHeader) -> bool:
    """Whether a file is one JPEG Lossless image whose markers agree with the header and with ITU-T T.81.

    Raises:
        PixelError: as :func:`fragments`.
    """
    if header.transfer_syntax not in JPEG_LOSSLESS or header.frames > 1:
        return False
    parts, _ = fragments(data, header)
    stream = parts[1]
    if not stream.startswith(b"\xff\xd8") or b"\xff\xd9" not in parts[-1][-4:]:
        return False
    seen: set[int] = set()
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker, size = stream[at + 1], struct.unpack_from(">H", stream, at + 2)[0]
        body = stream[at + 4 : at + 2 + size]
        if size < 2 or len(body) != size - 2:
            return False
        at += 2 + size
        seen.add(marker)
        if marker == 0xDA:
            return seen >= {0xC3, 0xC4} and _plain_scan(body)
        if marker == 0xC3 and not _plain_frame(body, header):
            return False
        if marker == 0xC4 and not _plain_tables(body):
            return False
        if marker not in (0xC3, 0xC4, 0xFE) and not 0xE0 <= marker <= 0xEF:
            return False
    return False


def _plain_frame(body: bytes, header: SliceHeader) -> bool:
    """SOF3: precision, rows, columns, one component."""
    if len(body) != 9:
        return False
    precision, rows, columns, components = struct.unpack_from(">BHHB", body)
    fits = header.bits_stored <= precision <= header.bits_allocated
    return fits and precision <= 16 and (rows, columns, components) == (header.rows, header.columns, 1)


def _plain_tables(body: bytes) -> bool:
    """DHT: prefix codes that exist, for differences of at most 16 bits."""
    while body:
        if len(body) < 17 or body[0] > 3:
            return False
        counts = body[1:17]
        symbols = body[17 : 17 + sum(counts)]
        space = sum(count << (16 - length) for length, count in enumerate(counts, start=1))
        if len(symbols) != sum(counts) or space > 1 << 16 or any(symbol > 16 for symbol in symbols):
            return False
        body = body[17 + len(symbols) :]
    return True


def _plain_scan(body: bytes) -> bool:
    """SOS: one component, a predictor, no point transform."""
    return len(body) == 6 and body[0] == 1 and body[2] & 0x0F == 0 and 1 <= body[3] <= 7 and body[4:] == b"\0\0"


def decode_clean(path: Path, header_shape: tuple[int, int, int]) -> np.ndarray:
    """Stored values ``[frame, row, column]`` of a file made by :func:`clean_copy`.

    Raises:
        PixelError: no decoder knows it, or what comes out has another shape.
    """
    frames, rows, columns = header_shape
    values: np.ndarray
    try:
        if frames > 1:
            raise RuntimeError("GDCM reads only the first of some syntaxes' frames")
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        values = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        # pydicom's plugins know some syntaxes that GDCM does not (HTJ2K).
        values = _by_pydicom(path)
    if values.size != frames * rows * columns or values.shape[-2:] != (rows, columns):
        raise PixelError(f"holds pixels of shape {values.shape} where its header says {header_shape}")
    return values.reshape(header_shape)


def _by_pydicom(path: Path) -> np.ndarray:
    try:
        return np.asarray(pydicom.pixels.pixel_array(path, raw=True))
    except Exception as error:
        name = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
        raise PixelError(
            f"its pixels cannot be decoded (transfer syntax {name})",
            "fetch it again; if that does not help, export it uncompressed or as JPEG Lossless",
        ) from error


def decode_apart(copies: Sequence[Path], shape: tuple[int, int, int]) -> list[np.ndarray | PixelError]:
    """Decode files made by :func:`clean_copy` in a child process; the copies are removed.

    Returns:
        For each file its stored values ``[frame, row, column]`` or the reason why there are none.
    """
    command = [sys.executable, "-P", "-m", "pneumonai.pipeline.dicom_codecs", *(str(n) for n in shape)]
    for threads in (THREADS, 1):
        waiting = [path for path in copies if not _answered(path)]
        limit = _CHILD_SECONDS + _CHILD_SECONDS_A_FILE * len(waiting)
        names = "\n".join(str(path) for path in waiting)
        try:
            subprocess.run(
                [*command, str(threads)], input=names, text=True, capture_output=True, timeout=limit, check=False
            )
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        return [PixelError("its pixels take too long to decode, the file is damaged")] * len(copies)
    results: list[np.ndarray | PixelError] = []
    for path in copies:
        done, reason = path.with_suffix(".npy"), path.with_suffix(".txt")
        if done.exists():
            results.append(np.load(done))
        elif reason.exists():
            what, _, remedy = reason.read_text().partition("\n")
            results.append(PixelError(what, remedy))
        else:
            results.append(PixelError("its compressed pixels are damaged (they end the decoder)"))
        for leftover in (path, done, reason):
            leftover.unlink(missing_ok=True)
    return results


def _answered(path: Path) -> bool:
    return path.with_suffix(".npy").exists() or path.with_suffix(".txt").exists()


def _decode_to_disk(path: Path, shape: tuple[int, int, int]) -> None:
    try:
        values = decode_clean(path, shape)
    except PixelError as error:
        path.with_suffix(".txt").write_text(f"{error}\n{error.remedy}")
    else:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
            np.save(partial, values)
        Path(partial.name).replace(path.with_suffix(".npy"))


def _main() -> None:
    """The child process: shape and threads as arguments, one file a line on stdin."""
    shape, threads = (int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), int(sys.argv[4])
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    paths = [Path(line) for line in sys.stdin.read().splitlines() if line]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda path: _decode_to_disk(path, shape), paths))


if __name__ == "__main__":
    _main()

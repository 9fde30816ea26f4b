"""A scan that lies as a folder of grey pictures, one a slice, into one volume; what is broken is said in words.

Orientation and slice order of such pictures are not written anywhere. Assumed is what is usual: pictures lie as a
radiologist sees them (columns to the patient's left, rows to the back), and the file with the lowest number is
nearest to the head.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from pneumonai.data_manifests.file_figures import slice_files, slice_number

ORIENTATION = "columns to the patient's left, rows to the back, lowest file number nearest to the head"
GREY_TOLERANCE = 8
"""Colour channels that differ by no more are grey, saved as JPEG."""


class BrokenScanError(ValueError):
    """A scan that cannot become a volume; the message says why, without the scan's name."""


def stack_fingerprint(folder: str | Path) -> str:
    """sha256 over the names and sizes of a scan's pictures."""
    lines = [f"{file.name} {file.stat().st_size}\n" for file in slice_files(folder)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def ordered_slices(folder: str | Path, *, min_slices: int = 10) -> list[Path]:
    """The pictures of a scan by the last number in their names.

    Raises:
        BrokenScanError: too few, a name without a number, a number twice, or a gap in the numbers.
    """
    files = slice_files(folder)
    numbers = [slice_number(file) for file in files]
    if -1 in numbers:
        raise BrokenScanError(f"{files[numbers.index(-1)].name} has no number in its name")
    for before, after, file in zip(numbers, numbers[1:], files[1:], strict=False):
        if after == before:
            raise BrokenScanError(f"two pictures have the number {after} ({file.name})")
    if len(files) < min_slices:
        raise BrokenScanError(f"only {len(files)} slices, {min_slices} are needed")
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing:
        at = next(n for n, after in enumerate(numbers[1:]) if after != numbers[n] + 1)
        raise BrokenScanError(
            f"a gap in the numbers: {missing} missing, first after {files[at].name} (next is {files[at + 1].name})"
        )
    return files


def read_stack(files: list[Path]) -> np.ndarray:
    """Grey values of a scan.

    Args:
        files: its pictures, head first.

    Returns:
        uint8 ``[columns, rows, slices]``, slice 0 at the feet.

    Raises:
        BrokenScanError: an unreadable, coloured, turned, transparent or deeper picture, sizes that differ, one grey
            value throughout.
    """
    volume: np.ndarray | None = None
    for number, file in enumerate(files):
        grey = _read_grey(file)
        if volume is None:
            volume = np.empty((grey.shape[1], grey.shape[0], len(files)), dtype=np.uint8, order="F")
        if grey.T.shape != volume.shape[:2]:
            first = f"{volume.shape[0]} x {volume.shape[1]}"
            raise BrokenScanError(f"{file.name} is {grey.shape[1]} x {grey.shape[0]}, {files[0].name} {first}")
        volume[:, :, len(files) - 1 - number] = grey.T
    if volume is None:
        raise BrokenScanError("no pictures")
    if volume.min() == volume.max():
        raise BrokenScanError(f"all pixels have the grey value {volume.flat[0]}")
    return volume


def _read_grey(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            picture.load()
            turned = picture.getexif().get(0x0112, 1) not in (0, 1)
    except Exception as error:  # a damaged file makes its decoder raise anything
        words = " ".join(str(error).replace(str(file), file.name).split())[:120]
        raise BrokenScanError(f"{file.name} cannot be read ({words or type(error).__name__})") from error
    if turned:
        raise BrokenScanError(f"{file.name} is turned (EXIF orientation)")
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode not in ("LA", "P", "RGB", "RGBA"):
        raise BrokenScanError(f"{file.name} is of mode {picture.mode}, 8-bit grey is needed")
    values = np.asarray(picture.convert("RGBA")).astype(np.int16)
    if values[..., 3].min() < 255:
        raise BrokenScanError(f"{file.name} is transparent in part")
    colours = values[..., :3]
    if int((colours.max(axis=-1) - colours.min(axis=-1)).max()) > GREY_TOLERANCE:
        raise BrokenScanError(f"{file.name} is in colour")
    return np.rint(colours.mean(axis=-1)).astype(np.uint8)


def grey_to_hounsfield(at_0: float, at_255: float) -> np.ndarray:
    """The 256 Hounsfield units of the grey values, int16: ``at_0 + grey / 255 * (at_255 - at_0)``, rounded.

    Example: ``grey_to_hounsfield(-1350, 150)[[0, 51, 255]]`` is ``[-1350, -1050, 150]``.
    """
    return np.rint(at_0 + np.arange(256) / 255.0 * (at_255 - at_0)).astype(np.int16)

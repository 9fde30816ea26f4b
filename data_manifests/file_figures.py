"""What a check needs of one file, read in one decoding pass: size, digest, hash, small copy, borders, mask.

Runs in worker processes and holds no image longer than its own file takes; imports neither torch nor MONAI.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageOps

NIFTI_ENDINGS = (".nii", ".nii.gz")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
THUMB = 64
"""Side of the small copy that pictures are compared by."""
HASH_SIDE = 16
"""Side of the perceptual hash: 16 x 16 = 256 bits."""
LUNG_WINDOW = (-1350.0, 150.0)
MAX_MASK_VALUES = 16
_VOLUME_AT = (0.2, 0.4, 0.6, 0.8)
_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
_BLACK, _WHITE, _EVEN = 16, 239, 12


@dataclass(frozen=True, slots=True)
class MaskFigures:
    """A mask beside its image.

    Attributes:
        error: why it cannot be read, or None.
        shape: as stored (rows, columns; or ``i, j, k``).
        values: its distinct values, at most ``MAX_MASK_VALUES + 1`` of them, ascending.
        marked: share of pixels or voxels that are not 0.
        misfit: how size or position differ from the image's, in words, or None.
    """

    error: str | None = None
    shape: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    marked: float = 0.0
    misfit: str | None = None


@dataclass(frozen=True, slots=True)
class FileFigures:
    """One image file (or DICOM folder) in figures.

    Attributes:
        kind: ``picture``, ``nifti``, ``dicom``, ``stack`` (a folder of pictures) or ``unknown``.
        error: why it cannot be read, or None; the rest is empty then.
        form: file format, such as ``JPEG``.
        size_bytes: of the file, or of all files of a folder.
        shape: rows, columns; or ``i, j, k``.
        bits: a pixel, all channels together.
        spacing: mm, empty where unknown.
        affine: of a NIfTI volume, row by row.
        one_value: all its pixels have the same value.
        digest: sha256 over shape and values; equal for equal pictures in different files.
        hash: 256-bit perceptual hash, 32 bytes.
        thumb: ``[64, 64]`` uint8; of a volume a 2 x 2 montage of four axial slices.
        black_border, white_border: width over the side's length, mean of the four sides.
        frame_grey: mean grey of the outermost 3 %.
        uids: SOPInstanceUIDs of a DICOM folder.
        masks: of the item's masks, in the order given.
    """

    kind: str = "unknown"
    error: str | None = None
    form: str = ""
    size_bytes: int = 0
    shape: tuple[int, ...] = ()
    bits: int = 0
    spacing: tuple[float, ...] = ()
    affine: tuple[float, ...] = ()
    one_value: bool = False
    digest: bytes = b""
    hash: bytes = b""
    thumb: np.ndarray | None = field(default=None, compare=False)
    black_border: float = float("nan")
    white_border: float = float("nan")
    frame_grey: float = float("nan")
    uids: tuple[str, ...] = ()
    masks: tuple[MaskFigures, ...] = ()


def read_figures(paths: tuple[str, ...]) -> FileFigures:
    """Decode one image and its masks.

    Args:
        paths: image file (or folder of DICOM files or of slices), and its masks; all exist.

    Returns:
        The figures; what cannot be read is told in ``error``, nothing is raised.
    """
    image, *masks = paths
    lower = image.lower()
    kind = "dicom"
    if Path(image).is_dir():
        kind = "stack" if slice_files(image) else "dicom"
    elif lower.endswith(NIFTI_ENDINGS):
        kind = "nifti"
    elif lower.endswith(PICTURE_ENDINGS):
        kind = "picture"
    reader = {"picture": _read_picture, "nifti": _read_nifti, "dicom": _read_dicom, "stack": _read_stack}[kind]
    try:
        figures = reader(image)
    except Exception as error:  # a damaged file makes its decoder raise anything
        return FileFigures(kind=kind, error=_in_words(error))
    return replace(figures, masks=tuple(_read_mask(mask, figures) for mask in masks)) if masks else figures


def slice_files(folder: str | Path) -> list[Path]:
    """The pictures of a folder that holds a scan slice by slice, in order of the last number of their names."""
    files = [f for f in Path(folder).iterdir() if f.suffix.lower() in PICTURE_ENDINGS and not f.name.startswith(".")]
    return sorted(files, key=lambda file: (slice_number(file), file.name))


def slice_number(file: Path) -> int:
    """The last number of a file's name, -1 without one: ``IMG_0012.png`` is 12."""
    numbers = re.findall(r"\d+", file.stem)
    return int(numbers[-1]) if numbers else -1


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"cannot be decoded ({type(error).__name__}{': ' + text[:160] if text else ''})"


def _read_picture(path: str) -> FileFigures:
    data = Path(path).read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        opened.verify()
    with Image.open(io.BytesIO(data)) as opened:
        form = opened.format or ""
        opened.load()
        image = ImageOps.exif_transpose(opened)
    values = np.asarray(image)
    grey = np.asarray(_as_grey(image))
    bits = _BITS.get(image.mode, 8 * len(image.getbands()))
    black, white, frame = _borders(grey)
    return replace(
        _with_likeness(grey, values),
        kind="picture",
        form=form,
        size_bytes=len(data),
        shape=grey.shape,
        bits=bits,
        black_border=black,
        white_border=white,
        frame_grey=frame,
    )


def _as_grey(image: Image.Image) -> Image.Image:
    """8-bit grey, alpha on black, deeper pictures scaled from their least to their greatest value."""
    if image.mode == "L":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_bytes(np.asarray(image, dtype=np.float32)))
    if "A" in image.getbands() or "transparency" in image.info:
        coloured = image.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, coloured).convert("L")
    return image.convert("L")


def _to_bytes(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    return np.rint(np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def _borders(grey: np.ndarray) -> tuple[float, float, float]:
    """Widths of the even black and white borders over the side's length, and the mean grey of the outermost 3 %."""
    widths = {"black": 0.0, "white": 0.0}
    for axis in (0, 1):
        low, high = grey.min(axis=1 - axis), grey.max(axis=1 - axis)
        even = high.astype(np.int16) - low <= _EVEN
        for name, of_border in (("black", even & (high < _BLACK)), ("white", even & (low > _WHITE))):
            for line in (of_border, of_border[::-1]):
                width = int(line.size if line.all() else np.argmin(line))
                widths[name] += width / line.size / 4
    edge = max(1, round(0.03 * min(grey.shape)))
    inner = grey[edge:-edge, edge:-edge]
    rest = grey.size - inner.size
    frame = (float(grey.sum(dtype=np.int64)) - float(inner.sum(dtype=np.int64))) / max(rest, 1)
    return widths["black"], widths["white"], frame


def _with_likeness(grey: np.ndarray, values: np.ndarray) -> FileFigures:
    """What tells a picture from others: digest of its values; hash and small copy of its grey levels."""
    small = Image.fromarray(grey).resize((THUMB, THUMB), Image.Resampling.BOX)
    bits = imagehash.phash(small, hash_size=HASH_SIDE).hash
    digest = hashlib.sha256(f"{values.shape} ".encode() + np.ascontiguousarray(values).tobytes()).digest()
    return FileFigures(
        one_value=bool(grey.min() == grey.max()),
        digest=digest,
        hash=np.packbits(bits.ravel()).tobytes(),
        thumb=np.asarray(small),
    )


def _read_nifti(path: str) -> FileFigures:
    import nibabel as nib

    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise ValueError("no NIfTI file")
    canonical = nib.as_closest_canonical(image)
    values = np.asanyarray(canonical.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or values.size == 0 or values.dtype.names is not None:
        raise ValueError(f"its shape {image.shape} is no volume")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("holds values that are no numbers (NaN or infinite)")
    slices = [values[:, ::-1, round(at * (values.shape[2] - 1))].T for at in _VOLUME_AT]
    montage = np.block([[slices[0], slices[1]], [slices[2], slices[3]]]).astype(np.float32)
    window = LUNG_WINDOW if float(montage.min()) < -300 else (None, None)
    return replace(
        _with_likeness(_to_bytes(montage, *window), values),
        kind="nifti",
        form="NIfTI",
        size_bytes=Path(path).stat().st_size,
        shape=tuple(int(n) for n in image.shape[:3]),
        bits=8 * image.get_data_dtype().itemsize,
        spacing=tuple(float(s) for s in image.header.get_zooms()[:3]),
        affine=tuple(float(a) for a in np.asarray(image.affine).ravel()),
    )


def _read_stack(path: str) -> FileFigures:
    """A folder of pictures: every one is decoded, and all must have one size."""
    files = slice_files(path)
    chosen = {round(at * (len(files) - 1)) for at in _VOLUME_AT}
    kept: dict[int, np.ndarray] = {}
    digest = hashlib.sha256()
    size_bytes, bits, forms, sizes = 0, 0, set(), set()
    for number, file in enumerate(files):
        data = file.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            form, mode, bands = picture.format, picture.mode, picture.getbands()
            grey = np.asarray(_as_grey(picture))
        size_bytes, bits = size_bytes + len(data), _BITS.get(mode, 8 * len(bands))
        forms.add(form or "")
        sizes.add(grey.shape)
        digest.update(grey.tobytes())
        if number in chosen:
            kept[number] = grey
    if len(sizes) > 1:
        raise ValueError(f"its pictures have {len(sizes)} different sizes")
    a, b, c, d = (kept[round(at * (len(files) - 1))] for at in _VOLUME_AT)
    figures = _with_likeness(np.block([[a, b], [c, d]]), np.frombuffer(digest.digest(), np.uint8))
    rows, columns = sizes.pop()
    return replace(
        figures,
        kind="stack",
        form="/".join(sorted(forms)) + " stack",
        size_bytes=size_bytes,
        shape=(columns, rows, len(files)),
        bits=bits,
    )


def _read_dicom(path: str) -> FileFigures:
    """Headers only: every file must be DICOM, with one size throughout."""
    import pydicom

    files = [path]
    if Path(path).is_dir():
        names = (Path(place) / name for place, _, found in os.walk(path) for name in found)
        files = sorted(str(f) for f in names if not f.name.startswith(".") and _has_mark(f))
        if not files:
            raise ValueError("a folder without DICOM files")
    tags = ["SOPInstanceUID", "Rows", "Columns", "BitsStored", "PixelSpacing", "SliceThickness"]
    uids, sizes, size_bytes = [], set(), 0
    for file in files:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        if "Rows" not in header or "Columns" not in header:
            continue
        uids.append(str(header.get("SOPInstanceUID", "")))
        sizes.add((int(header.Rows), int(header.Columns)))
        size_bytes += Path(file).stat().st_size
    if not sizes:
        raise ValueError("its DICOM files hold no image")
    if len(sizes) > 1:
        raise ValueError(f"its slices have {len(sizes)} different sizes")
    rows, columns = sizes.pop()
    spacing = [float(s) for s in header.get("PixelSpacing") or ()]
    return FileFigures(
        kind="dicom",
        form="DICOM",
        size_bytes=size_bytes,
        shape=(columns, rows, len(uids)),
        bits=int(header.get("BitsStored") or 0),
        spacing=(*spacing, float(header.get("SliceThickness") or 0)) if len(spacing) == 2 else (),
        uids=tuple(sorted(uids)),
    )


def _has_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_mask(path: str, image: FileFigures) -> MaskFigures:
    try:
        if path.lower().endswith(NIFTI_ENDINGS):
            import nibabel as nib

            nifti = nib.load(path)
            values = np.asanyarray(nifti.dataobj)
            affine = np.asarray(nifti.affine).ravel()
            misfit = _volume_misfit(values.shape, affine, image)
        else:
            with Image.open(path) as opened:
                picture = ImageOps.exif_transpose(opened)
                if picture.mode == "P":
                    values = np.asarray(picture)  # indices are the labels
                else:
                    values = np.asarray(picture if len(picture.getbands()) == 1 else _as_grey(picture))
            misfit = None
            if image.kind == "picture" and values.shape != image.shape:
                misfit = f"mask {values.shape[1]} x {values.shape[0]}, image {image.shape[1]} x {image.shape[0]}"
    except Exception as error:  # as above
        return MaskFigures(error=_in_words(error))
    distinct = np.unique(values)[: MAX_MASK_VALUES + 1]
    marked = float(np.count_nonzero(values)) / max(values.size, 1)
    return MaskFigures(None, tuple(values.shape), tuple(float(v) for v in distinct), marked, misfit)


def _volume_misfit(shape: tuple[int, ...], affine: np.ndarray, image: FileFigures) -> str | None:
    if image.shape and tuple(shape[:3]) != image.shape:
        return f"mask {' x '.join(map(str, shape))}, image {' x '.join(map(str, image.shape))}"
    if image.affine and not np.allclose(affine, image.affine, atol=0.1):
        return "mask and image lie elsewhere in space (their affines differ)"
    return None

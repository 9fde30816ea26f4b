"""Maps on the study's own grid, as NIfTI (volumes) or PNG (pictures).

Writing counts: a map has as many voxels as the scan, mostly zeros, and gzip takes the time. The voxels are deflated in
independent blocks by threads (zlib releases the interpreter's lock) and joined to one gzip member, since some
viewers read only the first member of a file. Level 1 is the fastest on such maps and twice the size of level 6.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from pneumonai.pipeline.outputs.files import whole_file
from pneumonai.pipeline.result import Maps
from pneumonai.pipeline.study import Study

HEAT_SCALE = 1.0 / 255.0
"""A heat map's stored 0..255 means 0..1."""

_LEVEL = 1
_BLOCK_BYTES = 2 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"


def write_maps(study: Study, maps: Maps, folder: str | Path) -> list[str]:
    """Write every map there is into a study's folder.

    Args:
        study: the study; its image's shape is every map's.
        maps: lungs, heat map and infection, each uint8 or None; further heat maps by name.
        folder: the study's folder of results.

    Returns:
        The names written: ``lungs.nii.gz``, ``heat_map.nii.gz``, ``infection.nii.gz`` and ``heat_map_NAME.nii.gz``
        for what has three dimensions; ``.png`` for pictures (lungs 0, 1, 2; heat maps 0..255; infection 0, 255).

    Raises:
        OutputError: a file cannot be written.
        ValueError: a map's shape is not the image's.
    """
    folder = Path(folder)
    names: list[str] = []
    further = ((f"heat_map_{name}", array) for name, array in maps.more_heat_maps.items())
    one_each = (("lungs", maps.lungs), ("heat_map", maps.heat_map), ("infection", maps.infection))
    for name, array in (*one_each, *further):
        if array is None:
            continue
        if study.image.ndim == 2:
            _write_png(array * np.uint8(255) if name == "infection" else array, study, folder / f"{name}.png")
            names.append(f"{name}.png")
        else:
            scale = HEAT_SCALE if name.startswith("heat_map") else None
            write_map(array, study, folder / f"{name}.nii.gz", scale=scale)
            names.append(f"{name}.nii.gz")
    return names


def write_map(array: np.ndarray, study: Study, path: str | Path, *, scale: float | None = None) -> None:
    """Write one map as gzipped NIfTI-1 on the study's grid: its shape, its affine as sform and qform, millimetres.

    Args:
        array: ``study.image``'s shape; bool (written as uint8), uint8, int16 or float32.
        study: the study that the map belongs to.
        path: the file, ending in ``.nii.gz``.
        scale: value of one stored unit (``scl_slope``), for instance 1/255 for a heat map of 0..255; None: stored
            values are the values.

    Raises:
        OutputError: the file cannot be written.
        ValueError: the array's shape is not the image's.
    """
    _check_shape(array, study)
    if array.dtype == bool:
        array = array.view(np.uint8)
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_qform(study.affine, code=1)
    header.set_sform(study.affine, code=1)
    header.set_xyzt_units("mm")
    header["scl_slope"] = 1.0 if scale is None else scale
    header["scl_inter"] = 0.0
    header["vox_offset"] = 352
    if scale is not None and array.dtype == np.uint8:
        header["cal_max"] = scale * 255
    with whole_file(path) as temporary, temporary.open("wb") as stream, ThreadPoolExecutor(2) as threads:
        stream.write(_GZIP_HEADER)
        checksum, size = 0, 0
        for raw, deflated in _deflate(header.binaryblock + bytes(4), array, threads):
            stream.write(deflated)
            checksum = zlib.crc32(raw, checksum)
            size += len(raw)
        stream.write(struct.pack("<II", checksum, size & 0xFFFFFFFF))


def _deflate(head: bytes, array: np.ndarray, threads: Executor) -> Iterator[tuple[bytes, bytes]]:
    """Blocks of a NIfTI file in order, as (raw bytes, deflated bytes); each block stands alone."""
    slice_bytes = max(1, array[..., 0].nbytes)
    step = max(1, _BLOCK_BYTES // slice_bytes)
    starts = range(0, array.shape[-1], step)

    def one(start: int) -> tuple[bytes, bytes]:
        raw = array[..., start : start + step].tobytes(order="F")
        if start == 0:
            raw = head + raw
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
        flush = zlib.Z_FINISH if start + step >= array.shape[-1] else zlib.Z_FULL_FLUSH
        return raw, packer.compress(raw) + packer.flush(flush)

    yield from threads.map(one, starts)


def _write_png(array: np.ndarray, study: Study, path: Path) -> None:
    _check_shape(array, study)
    with whole_file(path) as temporary:
        Image.fromarray(np.ascontiguousarray(array)).save(temporary, format="PNG", compress_level=4)


def _check_shape(array: np.ndarray, study: Study) -> None:
    if array.shape != study.image.shape:
        raise ValueError(f"{study.id}: a map must have the image's shape {study.image.shape}, got {array.shape}")

"""A volume inside one HTML file: strips of slices as JPEG or PNG data addresses that a browser decodes again.

One stack of axial slices is embedded; the report's script cuts the other planes from it. What costs is encoding
and size, so the scan is stored as 8-bit grey in the lung window at 384 pixels at most (fewer where noise would
break the size budget), the heat map, smooth by nature, at 128, and the masks losslessly at the scan's size.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pneumonai.pipeline.outputs.views import Display

IMAGE_BUDGET = 5_800_000
"""Bytes that the encoded scan may take; with base64 and the roughest maps the report stays below 12 MB."""

_IMAGE_SIZES = (384, 320, 256, 192, 128)
_PICTURE_SIZE = 1024
_HEAT_SIZE = 128
_MOST_SLICES = 320
_PER_STRIP = 8
_SAMPLES = 6
_JPEG_QUALITY = 82
_REGION_BITS = 4


@dataclass(frozen=True)
class Stack:
    """Slices of one map as strips, each strip a column of ``per_strip`` tiles.

    Attributes:
        strips: ``data:`` addresses, as they come from the threads that encode them; read once.
        rows, columns: pixels of a slice.
        tile_rows: rows from one tile of a strip to the next (a multiple of 8, so that JPEG blocks are not shared).
    """

    strips: Iterator[str]
    rows: int
    columns: int
    tile_rows: int
    per_strip: int = _PER_STRIP

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for the report's script; waits for the encoding."""
        return {**vars(self), "strips": list(self.strips)}


def shown_slices(display: Display) -> range:
    """The slices that are embedded: all, or every n-th so that there are at most 320."""
    count = display.image.shape[0]
    return range(0, count, -(-count // _MOST_SLICES))


def encode_image(display: Display, threads: Executor) -> Stack:
    """The scan as JPEG strips, at the largest size whose estimated bytes stay within the budget."""
    slices = shown_slices(display)
    rows, columns = display.image.shape[1:]
    sizes = (_PICTURE_SIZE,) if display.image.shape[0] == 1 else _IMAGE_SIZES

    def grey(index: int, size: tuple[int, int]) -> Image.Image:
        return _resized(display.grey(np.ascontiguousarray(display.image[index])), size, Image.Resampling.BILINEAR)

    samples = slices[:: max(1, len(slices) // _SAMPLES)]
    for longest in sizes:
        size = _fit(rows, columns, longest)
        if longest == sizes[-1]:
            break
        taken = sum(len(_encoded([grey(index, size)], size, "JPEG")) for index in samples)
        if taken * len(slices) / len(samples) <= IMAGE_BUDGET:
            break
    return _stack(slices, size, grey, "JPEG", threads)


def encode_heat_map(display: Display, threads: Executor) -> Stack | None:
    """The heat map 0..255 as PNG strips of 128 pixels at most; None where there is none."""
    heat_map = display.heat_map
    if heat_map is None:
        return None

    def heat(index: int, size: tuple[int, int]) -> Image.Image:
        return _resized(np.ascontiguousarray(heat_map[index]), size, Image.Resampling.BOX)

    return _stack(shown_slices(display), _fit(heat_map.shape[1], heat_map.shape[2], _HEAT_SIZE), heat, "PNG", threads)


def encode_labels(display: Display, size: tuple[int, int], threads: Executor) -> Stack | None:
    """The masks as PNG strips: 1 right lung, 2 left lung, plus 4 for infection, plus 8 for the truth; None without any.

    Args:
        display: the study as displayed.
        size: rows and columns, those of the encoded scan.
        threads: where the encoding runs.
    """
    lungs, infection = display.lungs, display.infection
    if lungs is None and infection is None:
        return None

    def labels(index: int, size: tuple[int, int]) -> Image.Image:
        made = np.zeros(display.image.shape[1:], np.uint8) if lungs is None else np.ascontiguousarray(lungs[index])
        if infection is not None:
            made = made | (display.region_codes(lambda whole: whole[index]) * np.uint8(_REGION_BITS))
        return _resized(made, size, Image.Resampling.NEAREST)

    return _stack(shown_slices(display), size, labels, "PNG", threads)


def data_address(data: bytes, kind: str) -> str:
    """``data:`` address of a picture; kind: JPEG or PNG."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"


def _fit(rows: int, columns: int, longest: int) -> tuple[int, int]:
    """Rows and columns shrunk alike to at most ``longest``; never enlarged."""
    factor = min(1.0, longest / max(rows, columns))
    return max(1, round(rows * factor)), max(1, round(columns * factor))


def _resized(array: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    picture = Image.fromarray(array)
    return picture if array.shape == size else picture.resize((size[1], size[0]), how)


def _stack(
    slices: range,
    size: tuple[int, int],
    draw: Callable[[int, tuple[int, int]], Image.Image],
    kind: str,
    threads: Executor,
) -> Stack:
    def strip(start: int) -> str:
        tiles = [draw(index, size) for index in slices[start : start + _PER_STRIP]]
        return data_address(_encoded(tiles, size, kind), kind)

    strips = threads.map(strip, range(0, len(slices), _PER_STRIP))
    return Stack(strips, size[0], size[1], _tile_rows(size))


def _tile_rows(size: tuple[int, int]) -> int:
    return -(-size[0] // 8) * 8


def _encoded(tiles: list[Image.Image], size: tuple[int, int], kind: str) -> bytes:
    sheet = Image.new("L", (size[1], _tile_rows(size) * len(tiles)))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (0, number * _tile_rows(size)))
    stream = io.BytesIO()
    if kind == "JPEG":
        sheet.save(stream, format="JPEG", quality=_JPEG_QUALITY)
    else:
        sheet.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()

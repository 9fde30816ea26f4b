"""Pictures for those who look at files: the most telling planes side by side, with the heat map laid over."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pneumonai.pipeline.outputs.files import whole_file
from pneumonai.pipeline.outputs.views import (
    LUNGS,
    MASK_OPACITY,
    Display,
    Region,
    View,
    display_of,
    heat_colours,
    telling_slices,
)
from pneumonai.pipeline.result import Maps
from pneumonai.pipeline.study import Study

HEAT_OPACITY = 0.5
"""Of the strongest response, in pictures and where the report begins."""
_TILES = {"axial": (2, 3), "coronal": (1, 3), "sagittal": (1, 3), "picture": (1, 1)}
_TILE_WIDTH = 360
_PICTURE_WIDTH = 1024
_INK = (235, 240, 242)
BOX_COLOUR = (255, 209, 102)


def write_pictures(study: Study, maps: Maps, folder: str | Path) -> list[str]:
    """Write ``pictures/axial.png`` and ``pictures/coronal.png`` (``pictures/overlay.png`` for a picture).

    Args:
        study: the study.
        maps: what is laid over; without any map the plain planes are shown. With a truth the infection's agreement
            with it is coloured, and a legend below names the colours.
        folder: the study's folder of results; ``pictures`` is made in it.

    Returns:
        The names written, relative to ``folder``.

    Raises:
        OutputError: a file cannot be written.
    """
    names: list[str] = []
    display = display_of(study, maps)
    for plane in display.planes:
        if plane.name == "sagittal" and len(display.planes) == 3:
            continue
        name = "pictures/overlay.png" if plane.name == "picture" else f"pictures/{plane.name}.png"
        with whole_file(Path(folder) / name) as temporary:
            sheet = montage(display, plane)[0]
            if display.truth is not None:
                sheet = _with_legend(sheet, display.regions)
            sheet.save(temporary, format="PNG", compress_level=3)
        names.append(name)
    return names


def montage(display: Display, plane: View) -> tuple[Image.Image, list[int]]:
    """The most telling planes along one axis, the heat map and the infection laid over, sides marked.

    Returns:
        The picture (RGB), and the index of each plane from top left to bottom right: axial from the head down,
        coronal from anterior, sagittal from the right.
    """
    rows, columns = _TILES[plane.name]
    indices = telling_slices(display, plane.axis, rows * columns)
    if plane.axis == 0:
        indices.reverse()
    columns = min(columns, len(indices))
    rows = math.ceil(len(indices) / columns)
    tiles = [draw_plane(display, plane, index) for index in indices]
    width, height = tiles[0].size
    gap = 4
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * (width + gap), row * (height + gap)))
    return sheet, indices


def plane_of(array: np.ndarray, plane: View, index: int) -> np.ndarray:
    """One plane of a display array as a picture: rows down, columns to the right; head up in upright planes."""
    cut = np.take(array, index, axis=plane.axis)
    return cut if plane.axis == 0 else cut[::-1]


def draw_plane(display: Display, plane: View, index: int) -> Image.Image:
    """One plane (RGB) at its true aspect, overlaid and marked."""
    grey = display.grey(np.ascontiguousarray(plane_of(display.image, plane, index)))
    row_mm, column_mm = (mm for axis, mm in enumerate(display.spacing) if axis != plane.axis)
    height_mm, width_mm = grey.shape[0] * row_mm, grey.shape[1] * column_mm
    width = min(_PICTURE_WIDTH, grey.shape[1]) if plane.name == "picture" else _TILE_WIDTH
    size = (width, max(1, round(width * height_mm / width_mm)))
    tile = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    if display.heat_map is not None:
        heat = Image.fromarray(np.ascontiguousarray(plane_of(display.heat_map, plane, index)))
        coloured = heat_colours()[np.asarray(heat.resize(size, Image.Resampling.BILINEAR))]
        alpha = (coloured[..., 3] * HEAT_OPACITY).astype(np.uint8)
        tile.paste(Image.fromarray(np.ascontiguousarray(coloured[..., :3])), mask=Image.fromarray(alpha))
    if display.regions:
        _colour(tile, display.region_codes(lambda whole: plane_of(whole, plane, index)), display.regions, MASK_OPACITY)
    elif plane.name == "picture" and display.lungs is not None and display.heat_map is None:
        _colour(tile, plane_of(display.lungs, plane, index), LUNGS, MASK_OPACITY / 2)
    if plane.name == "picture":
        _frame(tile, display)
    _mark(tile, plane, index, display.image.shape[plane.axis])
    return tile


def _frame(tile: Image.Image, display: Display) -> None:
    """The boxes of a picture, in the colour that the report's viewer draws them in."""
    draw, line = ImageDraw.Draw(tile), max(2, tile.width // 256)
    down, across = (shown / n for shown, n in zip(tile.size[::-1], display.image.shape[1:], strict=True))
    for box in display.boxes:
        left, top = box["x"] * across, box["y"] * down
        right, bottom = left + box["width"] * across - 1, top + box["height"] * down - 1
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=BOX_COLOUR, width=line)


def _colour(tile: Image.Image, codes: np.ndarray, regions: tuple[Region, ...], opacity: float) -> None:
    """Lay regions over a plane, by their codes at the plane's own size."""
    resized = Image.fromarray(np.ascontiguousarray(codes)).resize(tile.size, Image.Resampling.NEAREST)
    shown = np.asarray(resized)
    for region in regions:
        mask = (shown == region.code) * np.uint8(round(255 * opacity))
        tile.paste(region.rgb, mask=Image.fromarray(mask))


def _mark(tile: Image.Image, plane: View, index: int, count: int) -> None:
    """Sides at the edges and the plane's number in the corner."""
    draw = ImageDraw.Draw(tile)
    font = ImageFont.load_default(size=max(12, tile.width // 24))
    width, height = tile.size
    pad = max(4, width // 60)

    def write(place: tuple[float, float], text: str, anchor: str) -> None:
        draw.text(place, text, fill=_INK, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))

    write((pad, height / 2), plane.left, "lm")
    write((width - pad, height / 2), plane.right, "rm")
    if count > 1:
        write((pad, height - pad), f"{index + 1}/{count}", "ls")


def _with_legend(sheet: Image.Image, regions: tuple[Region, ...]) -> Image.Image:
    """A picture with a band below it that names each colour, a line each; smaller letters where it is narrow."""
    texts = [f"{region.colour}: {region.words}" for region in regions]
    size = 18.0
    while size > 7 and max(ImageFont.load_default(size).getlength(text) for text in texts) > sheet.width - 3 * size:
        size -= 1
    font, line = ImageFont.load_default(size), round(1.5 * size)
    made = Image.new("RGB", (sheet.width, sheet.height + line * len(regions) + line // 2))
    made.paste(sheet)
    draw = ImageDraw.Draw(made)
    for number, (region, text) in enumerate(zip(regions, texts, strict=True)):
        middle = sheet.height + line // 4 + line * number + line // 2
        half = round(size / 2.5)
        draw.rectangle((half, middle - half, 3 * half, middle + half), fill=region.rgb)
        draw.text((5 * half, middle), text, fill=_INK, font=font, anchor="lm")
    return made

"""Pictures side by side on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw


def write_sheet(
    tiles: Sequence[tuple[Image.Image, str]], path: Path, *, columns: int, side: int = 256, quality: int = 85
) -> None:
    """Write a sheet of pictures, row by row, each with its words in its upper left corner.

    Args:
        tiles: pictures, which are reduced to fit, and words, of one or more lines.
        path: of the sheet; its ending says in which format.
        columns: tiles a row.
        side: pixels of a tile.
        quality: of a JPEG.
    """
    sheet = Image.new("RGB", (columns * side, -(-len(tiles) // columns) * side))
    draw = ImageDraw.Draw(sheet)
    for number, (picture, words) in enumerate(tiles):
        left, top = number % columns * side, number // columns * side
        tile = picture.convert("RGB")
        tile.thumbnail((side, side))
        sheet.paste(tile, (left, top))
        draw.multiline_text((left + 6, top + 4), words, "white", stroke_width=3, stroke_fill="black")
    sheet.save(path, quality=quality)

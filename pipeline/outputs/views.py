"""How a study is shown: its voxels in a radiologist's order, the lung window, and the heat map's colours.

Radiological convention, whatever the study's own orientation: axial slices seen from the feet (the patient's right on
the left of the picture, anterior up), coronal head up, sagittal head up with anterior on the left. The affine decides,
by the axes nearest to the body's; oblique scans keep their own planes and the tilt is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np

from pneumonai.pipeline.result import Maps, in_order_of
from pneumonai.pipeline.study import Modality, Study

WINDOW_HU = (-1350.0, 150.0)
"""The lung window: width 1500, level -600."""

MASK_OPACITY = 0.5
"""Of the infection's colours over the scan, in pictures and report."""

_SMALLEST_PLANE = 8
_INFERNO = ("000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4")
_TRANSPARENT_BELOW, _OPAQUE_FROM = 0.08, 0.55


@dataclass(frozen=True)
class View:
    """One plane of a display: the axis that is scrolled, and the marks at its edges (empty where unknown)."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str


PLANES = (
    View("axial", 0, "R", "L", "A", "P"),
    View("coronal", 1, "R", "L", "H", "F"),
    View("sagittal", 2, "A", "P", "H", "F"),
)


@dataclass(frozen=True)
class Region:
    """Voxels that are coloured alike.

    Attributes:
        code: 1 for the model's infection, plus 2 where the given truth has infection.
        rgb: the colour, red, green, blue 0..255.
        colour: its name.
        words: what is coloured so, for legends.
    """

    code: int
    rgb: tuple[int, int, int]
    colour: str
    words: str


INFECTION = Region(1, (64, 224, 208), "turquoise", "infection")
AGREEMENT = (
    Region(3, (56, 136, 255), "blue", "marked, and in the truth (true positive)"),
    Region(1, (0, 214, 96), "green", "marked, but not in the truth (false positive)"),
    Region(2, (255, 56, 48), "red", "in the truth, but not marked (false negative)"),
)
"""How the infection is coloured without and with a truth."""


LUNGS = (
    Region(1, (64, 224, 208), "turquoise", "right lung"),
    Region(2, (255, 170, 64), "orange", "left lung"),
)
"""How the lungs of a picture are coloured where nothing else is laid over it; the codes are the labels."""


@dataclass(frozen=True)
class Display:
    """A study's arrays in display order: ``[slice (feet to head), row (to posterior), column (to the left)]``.

    A picture is one slice, rows and columns as displayed. The arrays are views of the study's memory.

    Attributes:
        image: HU or grey values, three dimensions.
        lungs, heat_map, infection: uint8 of the same shape, or None.
        truth: the infection that the user gave, likewise; None where there is no infection to compare it with.
        affine: 4 x 4, display index -> millimetres, RAS+; None for pictures.
        spacing: millimetres (1.0 each for pictures) between slices, rows, columns.
        is_hu: True for CT volumes, shown in the lung window; False for grey values.
        boxes: around what is marked in a picture, in its pixels.
    """

    image: np.ndarray
    lungs: np.ndarray | None
    heat_map: np.ndarray | None
    infection: np.ndarray | None
    truth: np.ndarray | None
    affine: np.ndarray | None
    spacing: tuple[float, float, float]
    is_hu: bool
    boxes: tuple[Mapping[str, float], ...] = ()

    @property
    def planes(self) -> tuple[View, ...]:
        """The planes worth showing: those at least 8 voxels wide and high, the axial one if none is."""
        if self.affine is None:
            return (View("picture", 0, "", "", "", ""),)
        shape = self.image.shape
        wide = (p for p in PLANES if min(n for axis, n in enumerate(shape) if axis != p.axis) >= _SMALLEST_PLANE)
        return tuple(wide) or PLANES[:1]

    @property
    def regions(self) -> tuple[Region, ...]:
        """What is coloured beside the heat map: the infection, or how it agrees with the truth; nothing without it."""
        if self.infection is None:
            return ()
        return (INFECTION,) if self.truth is None else AGREEMENT

    def region_codes(self, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """:attr:`Region.code` of a part of the volume (0 where nothing is coloured), uint8.

        Args:
            cut: takes the part from the infection and from the truth.
        """
        if self.infection is None:
            raise ValueError("regions are coloured only where there is an infection mask, this display has none")
        codes = (cut(self.infection) > 0).astype(np.uint8)
        if self.truth is not None:
            codes |= (cut(self.truth) > 0) * np.uint8(2)
        return np.ascontiguousarray(codes)

    @property
    def tilt_degrees(self) -> float:
        """Largest angle between a scan axis and the body axis that it is shown as."""
        if self.affine is None:
            return 0.0
        columns = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        along = np.abs(columns[[2, 1, 0], [0, 1, 2]])
        return float(np.degrees(np.arccos(np.clip(along.min(), -1.0, 1.0))))

    def positions(self, axis: int) -> tuple[float, float]:
        """DICOM patient coordinate (mm; z, y or x) of index 0 along an axis through the middle, and its step."""
        return (0.0, 1.0) if self.affine is None else axis_positions(self.affine, self.image.shape, axis)

    @cached_property
    def window_table(self) -> np.ndarray | None:
        """Grey value 0..255 of each int16 HU, indexed by its bits as uint16; None where the image is not int16."""
        if self.image.dtype != np.int16 or not self.is_hu:
            return None
        values = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.float32)
        return _window(values)

    def grey(self, plane: np.ndarray) -> np.ndarray:
        """A plane of ``image`` as uint8 grey, CT in the lung window, pictures as they are."""
        table = self.window_table
        if table is not None:
            return table[plane.view(np.uint16)]
        if self.is_hu:
            return _window(plane.astype(np.float32))
        return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


def display_turn(affine: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How a volume is turned to be displayed: nibabel's orientation transform, and the affine of the turned volume."""
    orientations = nib.orientations
    target = orientations.axcodes2ornt(("S", "P", "L"))
    turn = orientations.ornt_transform(orientations.io_orientation(affine), target)
    return turn, affine @ orientations.inv_ornt_aff(turn, shape)


def axis_positions(affine: np.ndarray, shape: tuple[int, ...], axis: int) -> tuple[float, float]:
    """Of a volume in display order, :meth:`Display.positions`."""
    row, sign = ((2, 1.0), (1, -1.0), (0, -1.0))[axis]
    middle = [(n - 1) / 2.0 for n in shape]
    middle[axis] = 0.0
    start = float(affine[row, :3] @ middle + affine[row, 3])
    return sign * start, sign * float(affine[row, axis])


def display_of(study: Study, maps: Maps) -> Display:
    """A study and its maps in display order; nothing is copied but maps laid in memory unlike the image."""
    maps_given = (maps.lungs, maps.heat_map, maps.infection, None if maps.infection is None else maps.truth)
    for array in maps_given:
        if array is not None and array.shape != study.image.shape:
            raise ValueError(f"{study.id}: a map must have the image's shape {study.image.shape}, got {array.shape}")
    is_hu = study.modality is Modality.CT and study.image.ndim == 3 and study.image.dtype != np.uint8
    if study.image.ndim == 2:
        turn, affine, spacing = None, None, (1.0, 1.0, 1.0)
    else:
        turn, affine = display_turn(study.affine, study.image.shape)
        slices, rows, columns = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        spacing = (slices, rows, columns)

    def shown(array: np.ndarray) -> np.ndarray:
        return array[np.newaxis] if turn is None else nib.orientations.apply_orientation(array, turn)

    lungs, heat_map, infection, truth = (None if a is None else shown(in_order_of(study.image, a)) for a in maps_given)
    boxes = tuple(maps.boxes or ())
    return Display(shown(study.image), lungs, heat_map, infection, truth, affine, spacing, is_hu, boxes)


def heat_colours() -> np.ndarray:
    """Colour of a heat map's values: uint8 ``[256, 4]``, red, green, blue, alpha.

    The colours are matplotlib's inferno, interpolated between ten of its points; alpha is 0 below 0.08 of the range and
    rises to 255 at 0.55, so that weak responses leave the scan readable.
    """
    points = np.array([[int(text[i : i + 2], 16) for i in (0, 2, 4)] for text in _INFERNO], dtype=np.float64)
    values = np.linspace(0.0, 1.0, 256)
    places = np.linspace(0.0, 1.0, len(points))
    alpha = np.clip((values - _TRANSPARENT_BELOW) / (_OPAQUE_FROM - _TRANSPARENT_BELOW), 0.0, 1.0) * 255.0
    channels = [np.interp(values, places, points[:, channel]) for channel in range(3)]
    return np.rint(np.stack([*channels, alpha], axis=1)).astype(np.uint8)


def telling_slices(display: Display, axis: int, count: int) -> list[int]:
    """The planes along an axis that say most, in rising order.

    Most infection (the model's or the truth's) where there is any, else the strongest heat, else the most lung, else
    evenly spread; no two nearer than half of what an even spread would leave.
    """
    length = display.image.shape[axis]
    count = min(count, length)
    scores = _plane_scores(display, axis)
    if scores is None:
        return sorted({round((i + 0.5) * length / count - 0.5) for i in range(count)})
    shown = np.flatnonzero(scores)
    apart = max(1, (int(shown[-1]) - int(shown[0]) + 1) // (2 * count))
    chosen: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if scores[index] > 0 and all(abs(index - other) >= apart for other in chosen):
            chosen.append(index)
        if len(chosen) == count:
            break
    return sorted(chosen)


def telling_plane(displays: Sequence[Display], axis: int) -> int:
    """The one plane along an axis in which the heat maps of several displays of a study are strongest together.

    Each map counts the same, and inside the lungs only where they are known; the middle where no map has anything.
    """
    thin = _every_fourth(displays[0], axis)
    others = tuple(a for a in range(3) if a != axis)
    together = np.zeros(displays[0].image.shape[axis])
    for display in displays:
        if display.heat_map is None:
            continue
        heat = display.heat_map[thin] if display.lungs is None else display.heat_map[thin] * (display.lungs[thin] > 0)
        scores = heat.sum(axis=others, dtype=np.int64)
        together += scores / max(1, scores.max())
    return int(np.argmax(together)) if together.any() else len(together) // 2


def _every_fourth(display: Display, axis: int) -> tuple[slice, ...]:
    """Every plane along an axis, every fourth voxel within it along the axes that are long enough."""
    shape = display.image.shape
    return tuple(slice(None) if a == axis or shape[a] < 32 else slice(None, None, 4) for a in range(3))


def _plane_scores(display: Display, axis: int) -> np.ndarray | None:
    """Sum of the first map that has something, a plane each, from every fourth voxel within the plane."""
    thin = _every_fourth(display, axis)
    others = tuple(a for a in range(3) if a != axis)

    def thinned(whole: np.ndarray) -> np.ndarray:
        return whole[thin]

    for array in (display.infection, display.heat_map, display.lungs):
        if array is None:
            continue
        if array is display.infection:
            weighted = display.region_codes(thinned) > 0
        else:
            weighted = thinned(array) > 0 if array is not display.heat_map else thinned(array)
        scores: np.ndarray = weighted.sum(axis=others, dtype=np.int64)
        if scores.any():
            return scores
    return None


def _window(values: np.ndarray) -> np.ndarray:
    low, high = WINDOW_HU
    scaled = (values - low) * (255.0 / (high - low))
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)

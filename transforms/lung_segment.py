"""Lungs of a chest CT volume, classically: thresholds, connected components and distances, no network.

Array form :class:`LungSegment`, dictionary form :class:`LungSegmentd`. The anatomy is found on blocks of about 3 mm
(``lung_anatomy``), the border at full resolution (``lung_grid``).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from pneumonai.transforms.lung_anatomy import (
    AIR_MAX,
    distance,
    find_airways,
    find_lungs,
    grow,
    inside_body,
    part_sides,
)
from pneumonai.transforms.lung_envelope import dense_lung
from pneumonai.transforms.lung_grid import Blocks, Grid, as_int16, block_mean, refine

RIGHT, LEFT = 1, 2
CANONICAL = ("S", "P", "L")
TALL_STACK_MM = 100.0
LEAST_LUNG_ML = 500.0
LEAST_SLICE_CM2 = 10.0
EDGE_SLICE_CM2 = 1.0
LUNGS_CUT_OFF = "lungs cut off"
"""How the warning begins that is a reason to refer the study to a reader."""
VESSEL_MM = 12.0
ROOM_MM = 20.0


class LungsNotFoundError(ValueError):
    """The volume shows no lungs, or too little of them for a chest CT."""


class LungSegment(Transform):
    """Label map of the lungs in a CT volume: 0 background, 1 patient's right lung, 2 left lung.

    Trachea, main bronchi, bowel gas and table are out; vessels, lesions and consolidation at the pleura are in.
    The affine decides what is right and what is head, so any orientation and spacing will do, and the same study
    stored flipped or permuted gives the same labels voxel for voxel.

    The method follows Hu, Hoffman and Reinhardt, IEEE TMI 20 (2001) 490-498, with these differences: the anatomy is
    found on blocks of about 3 mm; lungs that touch are parted by a watershed instead of dynamic programming.

    Input: ``[1, *spatial]`` with three spatial axes, in HU: MetaTensor (its affine, RAS+ in mm, is used), tensor or
    array (without an affine: the house's order S, P, L at 1 mm is assumed). Values below -1024, the padding outside
    a round field of view, count as air.

    Output: the same type and shape as uint8; a MetaTensor keeps affine and meta.

    Raises:
        LungsNotFoundError: no lungs: under 0.5 litre in a stack of 10 cm or more; in a shorter one, or a single
            slice, under 10 cm2 in every slice.
        ValueError: the shape is not ``[1, X, Y, Z]``.

    Example:
        >>> labels = LungSegment()(image)  # image: MetaTensor [1, 512, 512, 300] in HU
        >>> right_ml = (labels == 1).sum() * voxel_ml
    """

    backend: ClassVar = [TransformBackends.NUMPY]

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """The label map of ``img`` (see the class)."""
        return self.with_warnings(img)[0]

    def with_warnings(self, img: NdarrayOrTensor) -> tuple[NdarrayOrTensor, list[str]]:
        """The label map, and what a reader should know about it, in words (lungs cut off)."""
        if img.ndim != 4 or img.shape[0] != 1:
            raise ValueError(
                f"LungSegment needs a volume of shape [1, X, Y, Z] in HU, got shape {list(img.shape)}; "
                "add the channel axis, and pass one volume at a time"
            )
        if isinstance(img, MetaTensor):
            affine = np.asarray(img.affine, dtype=np.float64)
            array = img.as_tensor()
        else:
            affine = inv_ornt_aff(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(CANONICAL)), (1, 1, 1))
            array = img
        values = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        order = ornt_transform(io_orientation(affine), axcodes2ornt(CANONICAL))
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        spacing = [float(lengths[np.flatnonzero(order[:, 0] == axis)[0]]) for axis in range(3)]
        # The map lies in memory as the image does, and is written through a reoriented view of it.
        mask = np.zeros_like(values, dtype=np.uint8)
        warnings = segment_canonical(
            as_int16(apply_orientation(values[0], order)), spacing, apply_orientation(mask[0], order)
        )
        return convert_to_dst_type(torch.from_numpy(mask), img, dtype=torch.uint8)[0], warnings


class SegmentsLungs(Protocol):
    """Finds the lungs in an image ``[1, *spatial]``."""

    def with_warnings(self, img: NdarrayOrTensor) -> tuple[NdarrayOrTensor, list[str]]:
        """Label map (1 right, 2 left), and what to warn of."""


class LungSegmentd(MapTransform):
    """Dictionary form of :class:`LungSegment`: writes the label map of ``keys`` under ``lungs_key``.

    Does nothing where ``lungs_key`` is already there. Warnings are appended to the image's ``meta["warnings"]``.

    Args:
        keys: the image, ``[1, *spatial]`` in HU; one key.
        lungs_key: where the label map goes.
        allow_missing_keys: pass over a missing image.

    Raises:
        ValueError: more than one key.
        LungsNotFoundError: as :class:`LungSegment`.
    """

    backend: ClassVar = LungSegment.backend

    def __init__(
        self, keys: KeysCollection = "image", lungs_key: str = "lungs", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            name = type(self).__name__
            raise ValueError(f"{name} needs one key, got {list(self.keys)}; use one {name} an image")
        self.lungs_key = lungs_key
        self.segment: SegmentsLungs = LungSegment()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of ``data`` with the label map added."""
        d = dict(data)
        if self.lungs_key in d:
            return d
        for key in self.key_iterator(d):
            d[self.lungs_key], warnings = self.segment.with_warnings(d[key])
            if warnings and isinstance(d[key], MetaTensor):
                d[key].meta["warnings"] = [*d[key].meta.get("warnings", []), *warnings]
        return d


LungSegmentD = LungSegmentDict = LungSegmentd


def segment_canonical(volume: np.ndarray, spacing: Sequence[float], out: np.ndarray) -> list[str]:
    """Segment an int16 volume ``[slice, row, column]`` in the order S, P, L into ``out``.

    Args:
        volume: HU.
        spacing: millimetres between slices, rows, columns.
        out: uint8 of the same shape, all zero: takes 1 right, 2 left.

    Returns:
        Warnings in words.

    Raises:
        LungsNotFoundError: as :class:`LungSegment`.
    """
    grid = Grid.over(volume.shape, spacing)
    hu = block_mean(volume, grid)
    inside = inside_body(hu)
    airways = find_airways(hu, inside, grid.block_mm)
    lungs = find_lungs(hu, inside, airways, grid.block_mm)
    if not lungs.any():
        raise _not_found(0.0, volume.shape[0] * spacing[0])
    box = _around(lungs, grid.block_mm)
    part = _outline(hu[box], inside[box], airways[box], lungs[box], grid.block_mm)
    blocks = Blocks(np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, bool), np.zeros(hu.shape, bool))
    blocks.side[box], blocks.near[box], blocks.fill[box] = part.side, part.near, part.fill
    voxels = refine(volume, blocks, AIR_MAX, grid, out)
    cm2 = voxels * (spacing[1] * spacing[2] / 100.0)
    _refuse_too_little(cm2, spacing[0])
    return _cut_off(cm2)


def _around(lungs: np.ndarray, block_mm: tuple[float, float, float]) -> tuple[slice, ...]:
    """The box of blocks around the lungs with room for their closing."""
    box = []
    for axis, mm in enumerate(block_mm):
        there = np.flatnonzero(lungs.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(ROOM_MM / mm))
        box.append(slice(max(int(there[0]) - margin, 0), int(there[-1]) + margin + 1))
    return tuple(box)


def _outline(
    hu: np.ndarray, inside: np.ndarray, airways: np.ndarray, lungs: np.ndarray, block_mm: tuple[float, float, float]
) -> Blocks:
    """The block anatomy of the lungs' air ``lungs`` with vessels and disease."""
    sides = part_sides(lungs, hu, inside, block_mm)
    right, left = (distance(sides == label, block_mm) for label in (RIGHT, LEFT))
    to_air, to_airways = np.minimum(right, left), distance(airways, block_mm)
    dense = dense_lung(hu, inside, sides, to_air, to_airways, block_mm)
    around_airways = (to_airways <= 1.5 * block_mm[2]) & ~lungs
    whole = (distance(right > VESSEL_MM, block_mm) > VESSEL_MM) | (distance(left > VESSEL_MM, block_mm) > VESSEL_MM)
    # At the border of aerated lung the voxels decide; inside it vessels are filled.
    core = distance(~whole | around_airways, block_mm) > 1.1 * max(block_mm)
    near = ((to_air <= 1.5 * max(block_mm)) | grow(dense, 1.5 * max(block_mm), block_mm)) & ~around_airways
    return Blocks(np.where(right <= left, RIGHT, LEFT).astype(np.uint8), near, core | dense)


def _refuse_too_little(cm2: np.ndarray, slice_mm: float) -> None:
    height, ml = len(cm2) * slice_mm, float(cm2.sum()) * slice_mm / 10.0
    if (ml < LEAST_LUNG_ML) if height >= TALL_STACK_MM else (cm2.max() < LEAST_SLICE_CM2):
        raise _not_found(ml, height)


def _not_found(ml: float, height: float) -> LungsNotFoundError:
    return LungsNotFoundError(
        f"no lungs found: {ml:.0f} ml of lung in {height / 10:.0f} cm of scan; a chest CT shows at least "
        f"{LEAST_LUNG_ML:.0f} ml, or {LEAST_SLICE_CM2:.0f} cm2 in some slice of a short stack; "
        "give a chest CT in Hounsfield units"
    )


def _cut_off(cm2: np.ndarray) -> list[str]:
    """Warnings for a volume whose first or last slice shows lung; a single slice is no volume and has none."""
    if len(cm2) == 1:
        return []
    return [
        f"{LUNGS_CUT_OFF} at the {end} end of the scan ({area:.0f} cm2 of lung in its last slice there): "
        "volumes and findings cover only the part that was scanned"
        for area, end in ((cm2[0], "feet"), (cm2[-1], "head"))
        if area >= EDGE_SLICE_CM2
    ]

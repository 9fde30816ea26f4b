"""Cutting every slice of a scan to the network's plane, around the lungs or at the paper's fixed place."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, TransformBackends, convert_to_dst_type, convert_to_tensor, ensure_tuple_rep

from pneumonai.transforms.resize import check_interpolation, resize
from pneumonai.transforms.spatial_trace import cast_like, image_and_voxels, traced_affine, with_affine

__all__ = ["AIR_HU", "LungCrop", "LungCropD", "LungCropDict", "LungCropd"]

AIR_HU = -1024.0

# Slices are resized in blocks, so that an int16 volume is never copied whole as float.
PIXELS_AT_ONCE = 2**21

Box = tuple[int, int, int, int]


class LungCrop(InvertibleTransform):
    """Cut every slice to one size in-plane; all slices are kept. Invertible.

    Two modes (NL-RAN, section III-A, cuts 160 x 160 "at a fixed position in the middle"; the rest is this project's
    choice):

    - ``lung``: one box a scan, the bounding box of the lungs over all slices. It is scaled by one in-plane factor,
      ``min(size[0] / height, size[1] / width, max_zoom)``, rounded to whole pixels, centred and surrounded by air.
    - ``center``: every slice is resized to ``resize_to`` in-plane and its middle is cut out.

    The affine moves with the voxels: a point in millimetres keeps its place in the anatomy. A pixel is its centre
    (``align_corners=False``). The inverse puts the plane back where it was cut out, gives 0 everywhere else and
    restores the affine to the last bit.

    Args:
        size: rows and columns of the result.
        mode: ``lung`` or ``center``.
        max_zoom: small lungs are not magnified beyond this, in source pixels (``lung`` only).
        padding: value around the box. None: air (-1024 HU) for interpolated images, 0 for labels (``nearest``).
        interp_mode: ``bilinear`` (with antialiasing where the plane shrinks), or ``nearest`` for labels.
        resize_to: rows and columns that the ``center`` mode cuts from.

    Raises:
        ValueError: for an unknown mode or interpolation, sizes or a zoom that are not positive.

    Example: lungs of 200 rows by 320 columns and the default size: the factor is ``min(0.8, 0.5, 1.25) = 0.5``, the
    box becomes 100 x 160, and 30 rows of air lie above and below. A pixel of 0.7 mm becomes one of 1.4 mm::

        >>> lungs = torch.zeros(1, 1, 512, 512)
        >>> lungs[..., 100:300, 90:410] = 1
        >>> crop = LungCrop(interp_mode="nearest")(lungs, lungs)
        >>> crop.shape, int(crop.sum())
        (torch.Size([1, 1, 160, 160]), 16000)
        >>> crop.affine.diagonal().tolist(), crop.affine[1, 3].item()  # row -30 is row 100 - 60 of the source
        ([1.0, 2.0, 2.0, 1.0], 40.5)
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(
        self,
        size: Sequence[int] = (160, 160),
        mode: str = "lung",
        max_zoom: float = 1.25,
        padding: float | None = None,
        interp_mode: str = "bilinear",
        resize_to: Sequence[int] = (256, 256),
    ) -> None:
        if mode not in ("lung", "center"):
            raise ValueError(f"LungCrop needs the mode 'lung' or 'center', got {mode!r}.")
        if not 0 < max_zoom < float("inf"):
            raise ValueError(f"LungCrop needs a finite max_zoom above 0, got {max_zoom}.")
        self.size = _plane("size", size)
        self.resize_to = _plane("resize_to", resize_to)
        self.mode = mode
        self.max_zoom = float(max_zoom)
        self.padding = padding
        self.interp_mode = check_interpolation(interp_mode, "LungCrop")

    def find_box(self, lungs: NdarrayOrTensor) -> Box:
        """The lungs' bounding box in-plane, over all channels and slices.

        Args:
            lungs: label map or mask ``[C, D, H, W]`` or ``[C, H, W]``, lungs above 0.

        Returns:
            First row, first column, and the row and column after the last.

        Raises:
            ValueError: where nothing is above 0.
        """
        mask: torch.Tensor = convert_to_tensor(lungs, track_meta=False)
        plane = mask.reshape(-1, *mask.shape[-2:]).amax(0) > 0
        rows = plane.any(1).nonzero().flatten().tolist()
        columns = plane.any(0).nonzero().flatten().tolist()
        if not rows:
            raise ValueError(
                f"LungCrop needs at least one lung voxel (above 0), got an empty mask of shape {tuple(mask.shape)}; "
                "segment the lungs again or leave the scan out."
            )
        return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1

    def __call__(
        self,
        img: NdarrayOrTensor,
        lungs: NdarrayOrTensor | None = None,
        box: Box | None = None,
        interp_mode: str | None = None,
        padding: float | None = None,
    ) -> torch.Tensor:
        """Cut an image.

        Args:
            img: ``[C, D, H, W]`` or ``[C, H, W]``.
            lungs: mask on the same grid (any number of channels), for the mode ``lung``.
            box: the box instead, as ``find_box`` gives it.
            interp_mode: instead of the constructor's.
            padding: instead of the constructor's.

        Returns:
            ``[C, D, *size]`` or ``[C, *size]``; float32 where whole numbers were interpolated, else ``img``'s type.

        Raises:
            ValueError: without lungs, with an empty mask or one on another grid, or for another number of dimensions.
        """
        interp_mode = self.interp_mode if interp_mode is None else check_interpolation(interp_mode, "LungCrop")
        img, voxels = image_and_voxels(img)
        if voxels.ndim not in (3, 4) or voxels.numel() == 0:
            raise ValueError(f"LungCrop needs [C, D, H, W] or [C, H, W] with voxels, got {tuple(voxels.shape)}.")
        box, scaled = self._fit(voxels, lungs, box)
        padding = self.padding if padding is None else padding
        if padding is None:
            padding = AIR_HU if interp_mode == "bilinear" else 0

        top, left, bottom, right = box
        source = voxels[..., top:bottom, left:right].reshape(-1, bottom - top, right - left)
        dtype = voxels.dtype if interp_mode == "nearest" or voxels.is_floating_point() else torch.float32
        result = torch.full((len(source), *self.size), padding, dtype=dtype, device=voxels.device)
        sides = [_overlap(length, full) for length, full in zip(scaled, self.size, strict=True)]
        (rows, kept_rows), (columns, kept_columns) = sides
        for block in _blocks(len(source), source[0].numel()):
            resized = resize(source[block], scaled, interp_mode)
            result[block, rows, columns] = cast_like(resized[:, kept_rows, kept_columns], dtype)

        result = result.reshape(*voxels.shape[:-2], *self.size)
        out = convert_to_dst_type(result, dst=img, dtype=dtype)[0]
        info = {"mode": interp_mode, "box": box, "scaled": scaled, "affine": traced_affine(img)}
        return self.push_transform(
            out,
            affine=_affine(voxels.ndim - 1, box, scaled, self.size),
            orig_size=tuple(voxels.shape[1:]),
            extra_info=info,
        )

    def _fit(self, voxels: torch.Tensor, lungs: NdarrayOrTensor | None, box: Box | None) -> tuple[Box, tuple[int, int]]:
        """The part of the source plane that is resized, and the rows and columns it is resized to."""
        height, width = voxels.shape[-2:]
        if self.mode == "center":
            return (0, 0, height, width), self.resize_to
        if box is None:
            if lungs is None:
                raise ValueError("LungCrop in the mode 'lung' needs the lungs' mask; give it, or take 'center'.")
            if tuple(lungs.shape[1:]) != tuple(voxels.shape[1:]):
                raise ValueError(
                    "LungCrop needs lungs on the image's grid, "
                    f"got {tuple(lungs.shape[1:])} and {tuple(voxels.shape[1:])}."
                )
            box = self.find_box(lungs)
        top, left, bottom, right = box
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(f"LungCrop needs a box inside the plane of {height} x {width}, got {box}.")
        zoom = min(self.size[0] / (bottom - top), self.size[1] / (right - left), self.max_zoom)
        return box, (max(1, round((bottom - top) * zoom)), max(1, round((right - left) * zoom)))

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Put a plane back to where it was cut out; 0 outside.

        Args:
            data: ``[C, D, *size]`` or ``[C, *size]`` with the trace of the cut image, any number of channels and any
                data type; whole numbers stay whole (rounded).

        Returns:
            ``[C, D, H, W]`` or ``[C, H, W]`` on the source's grid, with the source's affine.

        Raises:
            ValueError: for another plane than ``size``, or another number of slices than the source's.
        """
        transform = self.pop_transform(data)
        info = transform[TraceKeys.EXTRA_INFO]
        original = tuple(int(length) for length in transform[TraceKeys.ORIG_SIZE])
        voxels = convert_to_tensor(data, track_meta=False)
        if tuple(voxels.shape[1:]) != (*original[:-2], *self.size):
            raise ValueError(
                f"LungCrop's inverse needs [C, {', '.join(map(str, (*original[:-2], *self.size)))}], "
                f"got {tuple(voxels.shape)}."
            )
        top, left, bottom, right = (int(edge) for edge in info["box"])
        scaled = tuple(int(length) for length in info["scaled"])
        source, target = [], []
        for axis, (first, last) in enumerate(((top, bottom), (left, right))):
            index, kept = _way_back(scaled[axis], self.size[axis], last - first)
            source.append(index.to(voxels.device))
            target.append(kept)
        planes = voxels.reshape(-1, *self.size)
        result = torch.zeros((len(planes), *original[-2:]), dtype=voxels.dtype, device=voxels.device)
        window = result[:, top:bottom, left:right]
        for block in _blocks(len(planes), window[0].numel()):
            whole = planes[block][:, source[0]][:, :, source[1]]
            resized = resize(whole, (bottom - top, right - left), info["mode"])
            window[block, target[0], target[1]] = cast_like(resized[:, target[0], target[1]], voxels.dtype)
        return with_affine(result.reshape(*voxels.shape[:-2], *original[-2:]), data, info["affine"])


def _plane(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or any(int(length) != length or length < 1 for length in size):
        raise ValueError(f"LungCrop needs a {name} of two whole numbers of 1 or more, got {size}.")
    return int(size[0]), int(size[1])


def _blocks(number: int, pixels: int) -> Iterator[slice]:
    """Slices of a stack in blocks of bounded size."""
    step = max(1, PIXELS_AT_ONCE // pixels)
    return (slice(first, first + step) for first in range(0, number, step))


def _overlap(scaled: int, size: int) -> tuple[slice, slice]:
    """Where a centred side of ``scaled`` pixels lies within ``size`` pixels, and which of its pixels those are."""
    offset = (size - scaled) // 2
    first, last = max(offset, 0), min(offset + scaled, size)
    return slice(first, last), slice(first - offset, last - offset)


def _way_back(scaled: int, size: int, length: int) -> tuple[torch.Tensor, slice]:
    """How a side of the cut plane fills the scaled side again, and which source pixels it has a say in.

    Where the plane was smaller than the scaled side, its edge is repeated, so that 0 does not bleed into it; source
    pixels whose centre lies beyond it are then left out.
    """
    offset = (size - scaled) // 2
    inside, kept = _overlap(scaled, size)
    index = (torch.arange(scaled) + offset).clamp(inside.start, inside.stop - 1)
    first = -(-(2 * length * kept.start - scaled) // (2 * scaled))
    last = -(-(2 * length * kept.stop - scaled) // (2 * scaled))
    return index, slice(max(first, 0), min(last, length))


def _affine(spatial_dims: int, box: Box, scaled: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Index of the cut plane to index of the source, pixel centre to pixel centre."""
    affine = np.eye(spatial_dims + 1)
    for axis in range(2):
        step = (box[axis + 2] - box[axis]) / scaled[axis]
        offset = (size[axis] - scaled[axis]) // 2
        row = spatial_dims - 2 + axis
        affine[row, row] = step
        affine[row, -1] = box[axis] + (0.5 - offset) * step - 0.5
    return affine


class LungCropd(MapTransform, InvertibleTransform):
    """Dictionary form of :py:class:`LungCrop`: one box, found once, for all keys.

    Args:
        keys: keys to cut, all on the same grid.
        source_key: key of the lungs; it may be one of ``keys``. Not needed in the mode ``center``.
        size: see :py:class:`LungCrop`.
        mode: see :py:class:`LungCrop`.
        max_zoom: see :py:class:`LungCrop`.
        padding: one value, or one a key; None: air (-1024 HU), and 0 for keys with ``nearest``.
        interp_mode: ``bilinear`` or ``nearest``, one for all or one a key. None: ``nearest`` for ``source_key``,
            ``bilinear`` for the others.
        resize_to: see :py:class:`LungCrop`.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = LungCrop.backend

    def __init__(
        self,
        keys: KeysCollection,
        source_key: Hashable = "lungs",
        size: Sequence[int] = (160, 160),
        mode: str = "lung",
        max_zoom: float = 1.25,
        padding: Sequence[float | None] | float | None = None,
        interp_mode: Sequence[str] | str | None = None,
        resize_to: Sequence[int] = (256, 256),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.source_key = source_key
        self.cropper = LungCrop(size=size, mode=mode, max_zoom=max_zoom, resize_to=resize_to)
        if interp_mode is None:
            interp_mode = ["nearest" if key == source_key else "bilinear" for key in self.keys]
        self.interp_mode = tuple(
            check_interpolation(each, "LungCrop") for each in ensure_tuple_rep(interp_mode, len(self.keys))
        )
        self.padding = ensure_tuple_rep(padding, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the image of every key."""
        d = dict(data)
        box = None
        if self.cropper.mode == "lung":
            if self.source_key not in d:
                raise KeyError(f"LungCropd needs the lungs at the key {self.source_key!r}, got {sorted(map(str, d))}.")
            lungs = d[self.source_key]
            box = self.cropper.find_box(lungs)
            for key in self.key_iterator(d):
                if tuple(d[key].shape[1:]) != tuple(lungs.shape[1:]):
                    raise ValueError(
                        f"LungCropd needs all keys on one grid, got {tuple(d[key].shape[1:])} for {key!r} "
                        f"and {tuple(lungs.shape[1:])} for {self.source_key!r}."
                    )
        for key, interp_mode, padding in self.key_iterator(d, self.interp_mode, self.padding):
            d[key] = self.cropper(d[key], box=box, interp_mode=interp_mode, padding=padding)
        return d

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, Any]:
        """Put the plane of every key back."""
        d: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.cropper.inverse(d[key])
        return d


LungCropD = LungCropDict = LungCropd

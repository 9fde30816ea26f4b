"""Random crops of several scales around foreground, resized back, so that small lesions are seen large in training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable, RandomizableTransform
from monai.transforms.utils import create_translate, scale_affine
from monai.utils import TraceKeys, TransformBackends, convert_to_dst_type, convert_to_tensor, ensure_tuple_rep

from pneumonai.transforms.resize import LINEAR, check_interpolation, resize
from pneumonai.transforms.spatial_trace import cast_like, image_and_voxels, traced_affine, with_affine

__all__ = [
    "RandForegroundScaleCrop",
    "RandForegroundScaleCropD",
    "RandForegroundScaleCropDict",
    "RandForegroundScaleCropd",
]

# First voxel and voxel after the last, an axis each.
Window = tuple[tuple[int, int], ...]


class RandForegroundScaleCrop(RandomizableTransform, InvertibleTransform):
    """Cut a window of random scale around a random foreground voxel and resize it back. Invertible.

    "Full Scale Attention for Automated COVID-19 Diagnosis from CT Images", Section III.A: crops of 1/2, 1/4 and 1/8
    of the picture, around foreground, filled back to its size. The mix is this project's choice: the whole picture
    and the three scales equally often, one fraction for all sides. Window sides are rounded, to 1 at least.
    The window has the foreground voxel in its middle, or is moved inwards at the border. Without foreground it
    lies anywhere, each place equally likely.

    The affine moves with the voxels. A pixel is its centre (``align_corners=False``). The inverse puts the window
    back where it was cut out, gives 0 everywhere else and restores the affine to the last bit.

    Args:
        fractions: of each side, above 0 and at most 1.
        weights: how often each fraction is drawn, any scale; None: equally.
        prob: how often anything is drawn; else the whole picture is taken (and still resized to ``size``).
        mode: ``bilinear`` (linear in as many dimensions as there are; in 2D with antialiasing where sides shrink), or
            ``nearest`` for labels.
        size: sides of the result, one for all or one each; None: the input's.

    Raises:
        ValueError: for fractions, weights, an interpolation or sizes that are none of these.

    Example: an eighth of 16 x 16 around the only foreground voxel, whose window starts at row 4, column 14::

        >>> mask = torch.zeros(1, 16, 16)
        >>> mask[0, 5, 15] = 1
        >>> crop = RandForegroundScaleCrop(fractions=(0.125,), mode="nearest")(mask, mask)
        >>> crop.shape, int(crop.sum()), crop[0, 8:, 8:].min().item()  # the lower right quarter
        (torch.Size([1, 16, 16]), 64, 1.0)
        >>> crop.affine[:2, 3].tolist()  # the first pixel's centre, 1/16 of a pixel inside
        [3.5625, 13.5625]
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(
        self,
        fractions: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
        weights: Sequence[float] | None = None,
        prob: float = 1.0,
        mode: str = "bilinear",
        size: Sequence[int] | int | None = None,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.fractions = tuple(float(fraction) for fraction in fractions)
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"RandForegroundScaleCrop needs fractions above 0 and at most 1, got {fractions}.")
        shares = np.ones(len(self.fractions)) if weights is None else np.array(weights, dtype=np.float64)
        if shares.shape != (len(self.fractions),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            raise ValueError(
                "RandForegroundScaleCrop needs one weight of 0 or more for each fraction, one of them above 0, "
                f"got {weights} for {fractions}."
            )
        if size is not None and any(int(side) != side or side < 1 for side in np.ravel(size)):
            raise ValueError(f"RandForegroundScaleCrop needs a size of whole numbers of 1 or more, got {size}.")
        self.probabilities = shares / shares.sum()
        self.mode = check_interpolation(mode, "RandForegroundScaleCrop")
        self.size = size

    def draw_window(self, shape: Sequence[int], mask: NdarrayOrTensor | None = None) -> Window:
        """Draw a window.

        Args:
            shape: spatial shape of the image.
            mask: ``[C, *shape]``, foreground above 0 in any channel; None: no foreground.

        Returns:
            For each axis the window's first voxel and the one after its last.

        Raises:
            ValueError: for a mask of another shape.
        """
        self.randomize(None)
        fraction = self.R.choice(self.fractions, p=self.probabilities) if self._do_transform else 1.0
        sides = [max(1, round(side * fraction)) for side in shape]
        foreground = np.empty(0, dtype=np.intp)
        if mask is not None:
            if tuple(mask.shape[1:]) != tuple(shape):
                raise ValueError(
                    f"RandForegroundScaleCrop needs a mask of the image's shape {tuple(shape)}, "
                    f"got {tuple(mask.shape[1:])}."
                )
            voxels: torch.Tensor = convert_to_tensor(mask, track_meta=False)
            foreground = np.flatnonzero((voxels > 0).any(0).cpu().numpy())
        if foreground.size:
            centre = np.unravel_index(self.R.choice(foreground), tuple(shape))
            starts = [
                min(max(int(place) - side // 2, 0), full - side)
                for place, side, full in zip(centre, sides, shape, strict=True)
            ]
        else:
            starts = [int(self.R.randint(full - side + 1)) for side, full in zip(sides, shape, strict=True)]
        return tuple((start, start + side) for start, side in zip(starts, sides, strict=True))

    def __call__(
        self,
        img: NdarrayOrTensor,
        mask: NdarrayOrTensor | None = None,
        window: Window | None = None,
        mode: str | None = None,
    ) -> torch.Tensor:
        """Cut an image.

        Args:
            img: ``[C, *spatial]`` with one to three spatial dimensions.
            mask: see :py:meth:`draw_window`.
            window: instead of one that is drawn, as ``draw_window`` gives it.
            mode: instead of the constructor's.

        Returns:
            ``[C, *size]``, or ``[C, *spatial]`` without a size; float32 where whole numbers were interpolated, else
            ``img``'s type.

        Raises:
            ValueError: for another number of dimensions, a mask of another shape, or a window that is not inside.
        """
        mode = self.mode if mode is None else check_interpolation(mode, "RandForegroundScaleCrop")
        img, voxels = image_and_voxels(img)
        shape = tuple(voxels.shape[1:])
        if len(shape) not in LINEAR or voxels.numel() == 0:
            raise ValueError(
                "RandForegroundScaleCrop needs [C, *spatial] with one to three spatial dimensions and voxels, "
                f"got {tuple(voxels.shape)}."
            )
        size = shape if self.size is None else tuple(map(int, ensure_tuple_rep(self.size, len(shape))))
        window = self.draw_window(shape, mask) if window is None else window
        if len(window) != len(shape) or not all(
            0 <= first < last <= side for (first, last), side in zip(window, shape, strict=True)
        ):
            raise ValueError(f"RandForegroundScaleCrop needs a window inside {shape}, got {window}.")

        result = resize(voxels[_slices(window)], size, mode)
        out = convert_to_dst_type(result, dst=img, dtype=result.dtype)[0]
        sides = tuple(last - first for first, last in window)
        start = create_translate(len(shape), [first for first, _ in window])
        info = {"mode": mode, "window": window, "size": size, "affine": traced_affine(img)}
        return self.push_transform(out, affine=start @ scale_affine(sides, size), orig_size=shape, extra_info=info)

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Put a window back to where it was cut out; 0 outside.

        Args:
            data: ``[C, *size]`` with the trace of the cut image, any number of channels and any data type; whole
                numbers stay whole (rounded).

        Returns:
            ``[C, *spatial]`` on the source's grid, with the source's affine.

        Raises:
            ValueError: for another size than the cut image's.
        """
        transform = self.pop_transform(data)
        info = transform[TraceKeys.EXTRA_INFO]
        voxels = convert_to_tensor(data, track_meta=False)
        size = tuple(int(side) for side in info["size"])
        if tuple(voxels.shape[1:]) != size:
            raise ValueError(
                f"RandForegroundScaleCrop's inverse needs [C, {', '.join(map(str, size))}], got {tuple(voxels.shape)}."
            )
        window = tuple((int(first), int(last)) for first, last in info["window"])
        shape = [int(side) for side in transform[TraceKeys.ORIG_SIZE]]
        result = voxels.new_zeros((len(voxels), *shape))
        resized = resize(voxels, tuple(last - first for first, last in window), info["mode"])
        result[_slices(window)] = cast_like(resized, voxels.dtype)
        return with_affine(result, data, info["affine"])


def _slices(window: Window) -> tuple[slice, ...]:
    return (slice(None), *(slice(first, last) for first, last in window))


class RandForegroundScaleCropd(Randomizable, MapTransform, InvertibleTransform):
    """Dictionary form of :py:class:`RandForegroundScaleCrop`: one window, drawn once, for all keys.

    Args:
        keys: keys to cut, all on the same grid.
        source_key: key of the mask; it may be one of ``keys``. None: no foreground, windows lie anywhere.
        fractions: see :py:class:`RandForegroundScaleCrop`.
        weights: see :py:class:`RandForegroundScaleCrop`.
        prob: see :py:class:`RandForegroundScaleCrop`.
        modes: ``bilinear`` or ``nearest``, one for all or one a key. None: ``nearest`` for ``source_key``,
            ``bilinear`` for the others.
        size: see :py:class:`RandForegroundScaleCrop`.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = RandForegroundScaleCrop.backend

    def __init__(
        self,
        keys: KeysCollection,
        source_key: Hashable | None = "mask",
        fractions: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
        weights: Sequence[float] | None = None,
        prob: float = 1.0,
        modes: Sequence[str] | str | None = None,
        size: Sequence[int] | int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.source_key = source_key
        self.cropper = RandForegroundScaleCrop(fractions=fractions, weights=weights, prob=prob, size=size)
        if modes is None:
            modes = ["nearest" if key == source_key else "bilinear" for key in self.keys]
        self.modes = tuple(
            check_interpolation(each, "RandForegroundScaleCrop") for each in ensure_tuple_rep(modes, len(self.keys))
        )

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandForegroundScaleCropd:
        """Seed the drawing of windows, as in MONAI's random transforms."""
        super().set_random_state(seed, state)
        self.cropper.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the image of every key at one window."""
        d = dict(data)
        mask = None
        if self.source_key is not None:
            if self.source_key not in d:
                raise KeyError(
                    f"RandForegroundScaleCropd needs the mask at the key {self.source_key!r}, "
                    f"got {sorted(map(str, d))}."
                )
            mask = d[self.source_key]
        grids = {key: tuple(d[key].shape[1:]) for key in self.key_iterator(d)}
        if mask is not None:
            grids[self.source_key] = tuple(mask.shape[1:])
        if len(set(grids.values())) > 1:
            raise ValueError(f"RandForegroundScaleCropd needs all keys on one grid, got {grids}.")
        if grids:
            window = self.cropper.draw_window(next(iter(grids.values())), mask)
            for key, mode in self.key_iterator(d, self.modes):
                d[key] = self.cropper(d[key], window=window, mode=mode)
        return d

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, Any]:
        """Put the window of every key back."""
        d: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.cropper.inverse(d[key])
        return d


RandForegroundScaleCropD = RandForegroundScaleCropDict = RandForegroundScaleCropd

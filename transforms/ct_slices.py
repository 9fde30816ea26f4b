"""CT slices for 2D networks: volumes and single pictures in one form, and one grey scale for both.

Behind these two a volume is ``[1, S, H, W]`` and a picture the same with S = 1, so that one preprocessing serves both.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Transform
from monai.utils import TraceKeys, TransformBackends, convert_to_dst_type

from pneumonai.transforms.spatial_trace import image_and_voxels, traced_affine, with_affine

__all__ = [
    "LungWindow",
    "LungWindowD",
    "LungWindowDict",
    "LungWindowd",
    "PictureAsSlice",
    "PictureAsSliceD",
    "PictureAsSliceDict",
    "PictureAsSliced",
]

# Index of slice, row, column -> millimetres, RAS+: the axes S, P, L of a slice as a radiologist sees it, 1 mm each.
_UPRIGHT = torch.tensor(
    [[0.0, 0.0, -1.0, 0.0], [0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64
)


class PictureAsSlice(InvertibleTransform):
    """A picture ``[C, H, W]`` as a volume of one slice, ``[C, 1, H, W]``; a volume stays as it is. Invertible.

    The slice gets the affine of a slice that lies as a radiologist sees it (axes S, P, L; 1 mm, since the picture
    does not say), so that ``Orientation(axcodes="SPL")`` leaves it alone.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Map ``[C, H, W]`` to ``[C, 1, H, W]``, and ``[C, S, H, W]`` to itself.

        Raises:
            ValueError: for another number of dimensions.
        """
        img, voxels = image_and_voxels(img)
        if voxels.ndim not in (3, 4):
            raise ValueError(f"PictureAsSlice needs [C, H, W] or [C, S, H, W], got {tuple(voxels.shape)}.")
        is_picture = voxels.ndim == 3
        info = {"is_picture": is_picture, "affine": traced_affine(img)}
        out = convert_to_dst_type(voxels[:, None] if is_picture else voxels, dst=img, dtype=voxels.dtype)[0]
        if is_picture and isinstance(out, MetaTensor):
            out.affine = _UPRIGHT.clone()
        return self.push_transform(out, orig_size=tuple(voxels.shape[1:]), extra_info=info)

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Map ``[C, 1, H, W]`` back to ``[C, H, W]`` where the source was a picture; a volume stays as it is.

        Raises:
            ValueError: where a picture's slice became several.
        """
        info = self.pop_transform(data)[TraceKeys.EXTRA_INFO]
        _, voxels = image_and_voxels(data)
        if not info["is_picture"]:
            return data
        if voxels.ndim != 4 or voxels.shape[1] != 1:
            raise ValueError(f"PictureAsSlice's inverse needs one slice [C, 1, H, W], got {tuple(voxels.shape)}.")
        return with_affine(voxels[:, 0], data, info["affine"])


class PictureAsSliced(MapTransform, InvertibleTransform):
    """Dictionary form of :py:class:`PictureAsSlice`.

    Args:
        keys: keys to change.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = PictureAsSlice.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.converter = PictureAsSlice()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give every key a slice axis."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.converter(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the slice axis from every key that had none."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.converter.inverse(d[key])
        return d


class LungWindow(Transform):
    """One grey scale 0..1 for slices in HU and for pictures of slices.

    Hounsfield units go through the lung window, by default -1350..150 (the project's, level -600, width 1500);
    pictures, whose window is not known, are divided by 255. A chest CT in HU holds air, far below 0, so values that
    all lie in 0..255 are a picture's.

    Args:
        low: HU that becomes 0.
        high: HU that becomes 1.

    Raises:
        ValueError: unless ``low < high``.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, low: float = -1350.0, high: float = 150.0) -> None:
        if not low < high:
            raise ValueError(f"LungWindow needs low < high, got {low:g} and {high:g}.")
        self.low, self.high = float(low), float(high)

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Map HU or grey values of any shape to float32 in 0..1, values outside the window cut."""
        img, voxels = image_and_voxels(img)
        values = voxels.to(torch.float32)
        low, high = (0.0, 255.0) if is_grey(voxels) else (self.low, self.high)
        values = ((values - low) / (high - low)).clamp_(0.0, 1.0)
        return convert_to_dst_type(values, dst=img, dtype=torch.float32)[0]


def is_grey(voxels: torch.Tensor) -> bool:
    """Whether values are a picture's grey values, all in 0..255, and not HU."""
    low, high = voxels.aminmax()
    return bool(low >= 0 and high <= 255)


class LungWindowd(MapTransform):
    """Dictionary form of :py:class:`LungWindow`.

    Args:
        keys: keys to change.
        low: see :py:class:`LungWindow`.
        high: see :py:class:`LungWindow`.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = LungWindow.backend

    def __init__(
        self, keys: KeysCollection, low: float = -1350.0, high: float = 150.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = LungWindow(low, high)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring every key to 0..1."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.window(d[key])
        return d


PictureAsSliceD = PictureAsSliceDict = PictureAsSliced
LungWindowD = LungWindowDict = LungWindowd

"""Grey values of every slice brought to mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type

from pneumonai.transforms.spatial_trace import image_and_voxels

__all__ = ["StandardiseSlices", "StandardiseSlicesD", "StandardiseSlicesDict", "StandardiseSlicesd"]


class StandardiseSlices(Transform):
    """Z-score of every slice by itself: its mean taken away, then divided by its standard deviation.

    A slice is the last two dimensions; MONAI's ``NormalizeIntensity`` takes a volume's slices together, so that what a
    2D network sees of a slice would depend on its neighbours. A slice of one value becomes 0.

    Example:
        >>> StandardiseSlices()(torch.tensor([[[1.0, 3.0], [1.0, 3.0]]])).tolist()
        [[[-1.0, 1.0], [-1.0, 1.0]]]
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Map slices ``[..., H, W]`` to float32 of the same shape."""
        img, voxels = image_and_voxels(img)
        deviation, mean = torch.std_mean(voxels.to(torch.float32), dim=(-2, -1), correction=0, keepdim=True)
        # Rounding leaves a slice of one value a deviation that is not quite 0.
        flat = deviation <= 1e-6 * mean.abs().clamp_min(1e-6)
        scaled = (voxels - mean) / torch.where(flat, torch.inf, deviation)
        return convert_to_dst_type(scaled, dst=img, dtype=torch.float32)[0]


class StandardiseSlicesd(MapTransform):
    """Dictionary form of :py:class:`StandardiseSlices`.

    Args:
        keys: keys to change.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = StandardiseSlices.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.standardise = StandardiseSlices()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Standardise every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.standardise(d[key])
        return d


StandardiseSlicesD = StandardiseSlicesDict = StandardiseSlicesd

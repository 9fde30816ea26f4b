"""MONAI's door to :func:`~pneumonai.pipeline.mask_in.open_mask`: masks of a datalist on the grid of their images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from pneumonai.pipeline.mask_in import open_mask


class LoadMaskd(MapTransform):
    """Read masks onto the grid of an image that is loaded already and has its channel.

    Args:
        keys: keys of the masks; each holds a path and becomes a MetaTensor ``[1, *spatial]``, uint8, 0 or 1.
        image_key: the image ``[C, *spatial]``, a MetaTensor: its shape and affine are the mask's.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(self, keys: KeysCollection, image_key: Hashable = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read every mask.

        Raises:
            StudyError: a mask cannot be read, or is not on the image's grid.
        """
        d = dict(data)
        image = d[self.image_key]
        for key in self.key_iterator(d):
            mask = torch.from_numpy(open_mask(d[key], tuple(image.shape[1:]), image.affine.numpy()))
            d[key] = MetaTensor(mask[None], affine=image.affine.clone(), meta={"filename_or_obj": str(d[key])})
        return d

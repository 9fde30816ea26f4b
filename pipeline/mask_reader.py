"""MONAI's door to masks of a datalist on the grid of their images: infection (``mask_in``), lungs (``lungs_in``)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from pneumonai.pipeline.lungs_in import open_lungs
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
            mask = torch.from_numpy(self.read(d[key], image))
            d[key] = MetaTensor(mask[None], affine=image.affine.clone(), meta={"filename_or_obj": str(d[key])})
        return d

    def read(self, path: str, image: MetaTensor) -> np.ndarray:
        """The values of one mask, ``[*spatial]``."""
        return open_mask(path, tuple(image.shape[1:]), image.affine.numpy())


class LoadLungsd(LoadMaskd):
    """Read lung masks of X-rays as :class:`LoadMaskd` reads infection: uint8, 0, 1 right, 2 left.

    A mask of one value is parted as ``pneumonai predict --lungs`` parts it.
    """

    def read(self, path: str, image: MetaTensor) -> np.ndarray:
        """The labels of one mask, ``[row, column]``."""
        return open_lungs(path, tuple(image.shape[1:]))[0]

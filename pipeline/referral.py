"""Why a reader should decide."""

from __future__ import annotations

from pneumonai.pipeline.bundle import Bundle
from pneumonai.pipeline.image_checks import WRONG_WAY
from pneumonai.pipeline.result import Result
from pneumonai.pipeline.xray_checks import PICTURE_LOOKS
from pneumonai.transforms.lung_segment import LUNGS_CUT_OFF
from pneumonai.transforms.picture_lungs import LUNG_NOT_FOUND, LUNGS_UNEQUAL


def refer_reason(result: Result, bundle: Bundle, refer_below: float | None = None) -> str | None:
    """Low confidence, or a scan that is cut off, lies wrongly, or is of another kind; None where there is no reason.

    Args:
        result: with its confidence and warnings.
        bundle: whose threshold the confidence is held against.
        refer_below: another threshold instead.
    """
    below = bundle.refer_below if refer_below is None else refer_below
    telling = (LUNGS_CUT_OFF, LUNG_NOT_FOUND, LUNGS_UNEQUAL, PICTURE_LOOKS, *WRONG_WAY)
    reasons = [warning for warning in result.warnings if warning.startswith(telling)]
    if result.confidence is not None and result.confidence < below:
        reasons.insert(0, f"confidence {result.confidence:.2f} is below {below:g}")
    return "; ".join(reasons) or None

"""Severity of COVID-19 in a frontal chest X-ray, 0 to 8, from the explanation's map and the lungs."""

from __future__ import annotations

from typing import Any

import numpy as np

from pneumonai.pipeline.bundle import Bundle
from pneumonai.pipeline.lungs_in import NO_SEVERITY
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.study import Modality, Study
from pneumonai.transforms.lung_segment import LEFT, RIGHT

CLASS = "covid"
MAXIMUM = 8
METHOD = (
    "share of each lung where the heat map is above half of its range within the lungs, 0 to 4 a lung; "
    "not checked against readers unless the model's card says so"
)
_LUNGS = {"right": RIGHT, "left": LEFT}


def severity_score(heat_map: np.ndarray, lungs: np.ndarray) -> dict[str, Any] | None:
    """The score of a map, whatever the verdict.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, eq. 9 and Table III: the map, cut to both lungs, is scaled to 0..1 within
    them; of each lung the share of pixels above 0.5 is taken. None is 0 (our choice), below a quarter 1, below a half
    2, up to three quarters 3, above 4; both lungs' scores are added.

    Args:
        heat_map: ``[H, W]``, any scale.
        lungs: the same shape, 1 right lung, 2 left lung.

    Returns:
        ``score, maximum, method, parts`` (right, left), as ``Result.severity`` has them; None where a lung is empty.
    """
    inside = lungs > 0
    if not all((lungs == label).any() for label in _LUNGS.values()):
        return None
    values = heat_map[inside].astype(np.float64)
    marked = np.zeros(lungs.shape, bool)
    marked[inside] = 2 * (values - values.min()) > values.max() - values.min()
    parts = {name: share_score(float(marked[lungs == label].mean())) for name, label in _LUNGS.items()}
    return {"score": sum(parts.values()), "maximum": MAXIMUM, "method": METHOD, "parts": parts}


def share_score(share: float) -> int:
    """Score of one lung by the share of it that is marked (Table III).

    Examples:
        >>> [share_score(share) for share in (0, 0.01, 0.25, 0.49, 0.5, 0.75, 0.76)]
        [0, 1, 2, 2, 3, 3, 4]
    """
    if share <= 0:
        return 0
    return 4 if share > 0.75 else 1 + int(share >= 0.25) + int(share >= 0.5)


def add_severity(result: Result, study: Study, bundle: Bundle, maps: Maps) -> None:
    """Give a result its severity where there is one: an X-ray whose verdict is covid, with both lungs known.

    Where a lung is empty a warning says why there is none.
    """
    if study.modality is not Modality.CXR or CLASS not in bundle.answers or result.verdict != CLASS:
        return
    if maps.heat_map is None or maps.lungs is None:
        return
    result.severity = severity_score(maps.heat_map, maps.lungs)
    if result.severity is None and not any(NO_SEVERITY in warning for warning in result.warnings):
        missing = " and ".join(name for name, label in _LUNGS.items() if not (maps.lungs == label).any())
        result.warnings.append(f"the {missing} lung is empty in the lung mask, {NO_SEVERITY}")

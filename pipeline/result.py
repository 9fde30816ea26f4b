"""The answer for one study, as data: what ``result.json`` holds, and the maps that lie beside it.

Every field of :class:`Result` is a field of ``result.json`` (schema: ``outputs/result.schema.json``); what a bundle
does not have is None. :class:`Maps` are the arrays on the study's own grid that the writers turn into files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass
class Maps:
    """Arrays on the study's own grid (``Study.image``'s shape), best laid in memory as it is (:func:`in_order_of`).

    Attributes:
        lungs: uint8, 0 background, 1 right lung, 2 left lung.
        heat_map: uint8, 0..255 for the explanation's 0..1.
        infection: uint8, 0 or 1.
        truth: uint8, 0 or 1: the infection as a mask that the user gave, against which ours is shown.
        more_heat_maps: what other explainers gave for the same answer, likewise, by their names.
        boxes: those of :class:`Result`, of a picture.
    """

    lungs: np.ndarray | None = None
    heat_map: np.ndarray | None = None
    infection: np.ndarray | None = None
    truth: np.ndarray | None = None
    more_heat_maps: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: list[dict[str, Any]] | None = None


def in_order_of(image: np.ndarray, array: np.ndarray) -> np.ndarray:
    """``array`` with its axes laid in memory as ``image``'s are; copied only where they are not.

    Maps so laid are measured and written several times faster: the writers read planes along the image's own order.
    """
    order = np.argsort([-abs(stride) for stride in image.strides], kind="stable")
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


@dataclass
class Result:
    """What ``result.json`` says of one study (design: one file a study).

    Attributes:
        study: id, path, modality, kind, series_uid, study_uid, shape, spacing, converted, fingerprint,
            synthetic (and identifiers, where asked for); made by ``outputs.result_json.describe_study``.
        bundle: name, version, weights_sha256, trained_on, options.
        classes: ``[{"name": str, "probability": float}, ...]`` in the network's order.
        verdict: name of the most probable class.
        confidence: its probability, after temperature scaling; ``confidence_raw`` before.
        refer: True where a reader should decide; ``refer_reason`` says why.
        lungs: right_ml, left_ml, total_ml (or right_pixels, left_pixels, total_pixels where no ml is known).
            Made by ``outputs.lung_measures.lung_measures``.
        infection: right_ml, left_ml, total_ml (left out where no ml is known), right_percent, left_percent,
            total_percent; without lungs total_ml and percent_of_picture (``lung_measures.infection_measures``).
            Of a CT in HU also hu_histogram (edges, counts), ground_glass_percent and consolidation_percent of the
            voxels inside the infection (``lung_measures.infection_densities``).
        slices: ``[{"index": int, "position_mm": float | None, "classes": [{"name", "probability"}, ...] | None,
            "infection_percent": float | None}, ...]``, the index counted from the feet, the first slice of the
            volume 0. A classification gives ``classes``; a segmentation ``infection_percent``, the share of the
            slice's lung, of the whole slice where no lungs are (``lung_measures.infection_profile``).
        severity: score, maximum, method, parts.
        boxes: ``[{"x", "y", "width", "height", "score"}, ...]`` in pixels as displayed, origin top left, the highest
            score first; around what the heat map marks, none where the verdict is that there is nothing to mark.
        hu_histogram: ``{"edges": [...], "counts": [...]}`` of the voxels inside the lungs.
        truth: dice, precision, recall where a truth was given; iou of a bundle with boxes.
        explanation: method and file names of the bundle's own; ``maps``: ``[{"name", "method", "shows", "file"},
            ...]`` of all, the bundle's own first.
        warnings: what the checks and transforms noticed.
        files: files of this study, relative to its folder.
        timing_s: seconds a step.
        software: versions, device, precision.
        notice: what data stands behind the answer, and "not for clinical use".
    """

    study: dict[str, Any]
    bundle: dict[str, Any]
    classes: list[dict[str, Any]] | None = None
    verdict: str | None = None
    confidence: float | None = None
    confidence_raw: float | None = None
    refer: bool | None = None
    refer_reason: str | None = None
    lungs: dict[str, float] | None = None
    infection: dict[str, Any] | None = None
    slices: list[dict[str, Any]] | None = None
    severity: dict[str, Any] | None = None
    boxes: list[dict[str, Any]] | None = None
    hu_histogram: dict[str, Any] | None = None
    truth: dict[str, Any] | None = None
    explanation: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    timing_s: dict[str, float] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    notice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data, ready for JSON."""
        return asdict(self)

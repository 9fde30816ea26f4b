"""Scores of segmentations: one case at a time, kept as a few numbers, so that volumes never lie in memory together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pneumonai.pipeline.metrics.resampling import bootstrap_record, draw_patients, patient_index, score, sum_by_patient

SEGMENTATION_SCORES = (
    "dice_pooled",
    "dice_patient_mean",
    "dice_slice_mean",
    "precision_pooled",
    "precision_patient_mean",
    "recall_pooled",
    "recall_patient_mean",
    "surface_distance_mm",
    "hausdorff95_mm",
    "volume_error_ml",
    "absolute_volume_error_ml",
)
"""Scores of a report, in its order."""


@dataclass(frozen=True)
class SegmentedCase:
    """Scores of one image: a volume, or a picture.

    Attributes:
        image: what the case is called.
        patient_id: its patient; empty where unknown.
        true_positive, false_positive, false_negative: voxels.
        dice, precision, recall: 0..1; 1 where both masks are empty, 0 where one is.
        slice_dice_sum: sum of the Dice of its slices, each by the same rule.
        slices: how many there are; a picture is one.
        surface_distance_mm: mean distance between the surfaces, both ways; None where a mask is empty or no
            spacing is known.
        hausdorff95_mm: 95th percentile of that distance, the larger of both ways; None likewise.
        volume_error_ml: predicted minus true volume; None for pictures and where no spacing is known.
    """

    image: str
    patient_id: str
    true_positive: int
    false_positive: int
    false_negative: int
    dice: float
    precision: float
    recall: float
    slice_dice_sum: float
    slices: int
    surface_distance_mm: float | None = None
    hausdorff95_mm: float | None = None
    volume_error_ml: float | None = None


def overlap(
    true_positive: np.ndarray, false_positive: np.ndarray, false_negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dice, precision and recall of counts of any shape: 1 where both masks are empty, 0 where one is."""
    hits, extra, missed = (np.asarray(n, dtype=float) for n in (true_positive, false_positive, false_negative))
    agreed = (hits + extra + missed) == 0

    def share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.where(agreed, 1.0, np.divide(above, below, out=np.zeros_like(above), where=below > 0))

    return share(2 * hits, 2 * hits + extra + missed), share(hits, hits + extra), share(hits, hits + missed)


def score_case(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    spacing_mm: Sequence[float] | None = None,
    slice_axis: int = 0,
    image: str = "",
    patient_id: str = "",
) -> SegmentedCase:
    """Compare a predicted mask with the true one.

    Args:
        prediction: ``[*spatial]``, 2D or 3D; bool, or numbers of which those above 0.5 are infection.
        truth: the same shape.
        spacing_mm: millimetres between voxels along each axis; None where not known (then no mm and no ml).
        slice_axis: the axis along which a volume's slices lie.
        image: what the case is called.
        patient_id: its patient; empty where unknown.

    Raises:
        ValueError: shapes that differ, or not 2D or 3D, or a spacing of another length.
    """
    if prediction.shape != truth.shape or truth.ndim not in (2, 3):
        raise ValueError(f"two masks of one 2D or 3D shape are required, got {prediction.shape} and {truth.shape}")
    if spacing_mm is not None and (len(spacing_mm) != truth.ndim or not min(spacing_mm) > 0):
        raise ValueError(f"{truth.ndim} positive spacings are required, got {list(spacing_mm)}")
    predicted, true = (mask if mask.dtype == bool else mask > 0.5 for mask in (prediction, truth))
    within = tuple(n for n in range(true.ndim) if true.ndim == 2 or n != slice_axis % true.ndim)
    hits, marked, real = (np.count_nonzero(m, axis=within) for m in (predicted & true, predicted, true))
    counts = [np.atleast_1d(n) for n in (hits, marked - hits, real - hits)]
    hit, extra, missed = (int(n.sum()) for n in counts)
    dice, precision, recall = overlap(*(np.array(n) for n in (hit, extra, missed)))
    distances: tuple[float | None, float | None] = (None, None)
    if spacing_mm is not None and hit + extra and hit + missed:
        distances = _surface_distances(predicted, true, spacing_mm)
    volume_error = None
    if spacing_mm is not None and true.ndim == 3:
        volume_error = (extra - missed) * float(np.prod(spacing_mm)) / 1000.0
    slice_dice = overlap(*counts)[0]
    return SegmentedCase(
        image,
        patient_id,
        hit,
        extra,
        missed,
        float(dice),
        float(precision),
        float(recall),
        float(slice_dice.sum()),
        len(slice_dice),
        *distances,
        volume_error,
    )


def _surface_distances(predicted: np.ndarray, true: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, float]:
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    # MONAI makes several copies of both masks: only of the box that holds them.
    either = predicted | true
    box = []
    for axis in range(true.ndim):
        held = np.flatnonzero(either.any(axis=tuple(n for n in range(true.ndim) if n != axis)))
        box.append(slice(held[0], held[-1] + 1))
    masks = [torch.from_numpy(np.ascontiguousarray(mask[tuple(box)])) for mask in (predicted, true)]
    # What compute_average_surface_distance and compute_hausdorff_distance call: once, not twice.
    _, distances, _ = get_edge_surface_distance(*masks, spacing=[float(s) for s in spacing_mm], symmetric=True)
    both_ways = [np.asarray(one_way, dtype=float) for one_way in distances]
    return float(np.concatenate(both_ways).mean()), max(float(np.percentile(d, 95)) for d in both_ways)


class SegmentationScores:
    """Collects cases one by one and reports on all of them.

    Args:
        slice_axis: the axis along which a volume's slices lie (0 in the bundles' orientation, SPL).
    """

    def __init__(self, *, slice_axis: int = 0) -> None:
        self.slice_axis = slice_axis
        self.cases: list[SegmentedCase] = []

    def add(
        self,
        prediction: np.ndarray,
        truth: np.ndarray,
        *,
        spacing_mm: Sequence[float] | None = None,
        image: str = "",
        patient_id: str = "",
    ) -> SegmentedCase:
        """Score a case (see :func:`score_case`) and keep its numbers; the masks are not kept."""
        case = score_case(
            prediction,
            truth,
            spacing_mm=spacing_mm,
            slice_axis=self.slice_axis,
            image=image,
            patient_id=patient_id,
        )
        self.cases.append(case)
        return case

    def report(self, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """The scores of all cases (see :func:`segmentation_report`)."""
        return segmentation_report(self.cases, resamples=resamples, seed=seed)


def segmentation_report(cases: Sequence[SegmentedCase], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """The scores of segmented cases, ready for JSON.

    Every score has the form ``{"value": v, "interval": [low, high]}``; the interval is the 95 % percentile bootstrap
    by patient (None with one patient). FUSA's printed Dice fits no one definition, so three are given:

    - ``dice_pooled``: of the voxels of all cases together.
    - ``dice_patient_mean``: mean over patients, each of all its voxels together.
    - ``dice_slice_mean``: mean over slices; a slice empty in both masks counts 1.

    Empty masks: both empty = 1, one empty = 0, for Dice, precision and recall alike. ``precision_pooled,
    recall_pooled, precision_patient_mean, recall_patient_mean`` are named in the same way. Means over cases:

    - ``surface_distance_mm``: average symmetric surface distance; ``hausdorff95_mm``: 95th percentile of the Hausdorff
      distance; both over the ``n_distances`` cases with two masks that are not empty and a known spacing.
    - ``volume_error_ml``: predicted minus true volume, signed; ``absolute_volume_error_ml``: its size; both over the
      ``n_volumes`` volumes with a known spacing.

    They are None where there is no such case.

    Args:
        cases: scores of the cases.
        resamples: bootstrap samples; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        ``n_images, n_patients, n_slices, n_distances, n_volumes``, ``bootstrap`` (how the intervals were made) and the
        scores above.

    Raises:
        ValueError: no cases.
    """
    if not cases:
        raise ValueError("at least one case is required, got none")
    patients, count = patient_index([case.patient_id for case in cases], len(cases))
    sums = _patient_sums(cases, patients, count)
    values = _scores(np.ones((1, count)), sums)
    blocks = [_scores(w, sums) for w in draw_patients(count, resamples if count > 1 else 0, seed)]
    samples = {name: np.concatenate([b[name] for b in blocks]) for name in SEGMENTATION_SCORES} if blocks else {}
    return {
        "n_images": len(cases),
        "n_patients": count,
        "n_slices": sum(case.slices for case in cases),
        "n_distances": sum(case.surface_distance_mm is not None for case in cases),
        "n_volumes": sum(case.volume_error_ml is not None for case in cases),
        "bootstrap": bootstrap_record(count, len(cases), resamples, seed),
    } | {name: score(float(values[name][0]), samples.get(name)) for name in SEGMENTATION_SCORES}


def _patient_sums(cases: Sequence[SegmentedCase], patients: np.ndarray, count: int) -> np.ndarray:
    """What the scores are made of, a row a patient: all of them are ratios of sums of these columns."""

    def known(values: list[float | None]) -> list[np.ndarray]:
        numbers = np.array(values, dtype=float)
        return [np.nan_to_num(numbers), np.isfinite(numbers).astype(float)]

    errors = [case.volume_error_ml for case in cases]
    columns = [
        np.array([case.true_positive for case in cases], dtype=float),
        np.array([case.false_positive for case in cases], dtype=float),
        np.array([case.false_negative for case in cases], dtype=float),
        np.array([case.slice_dice_sum for case in cases]),
        np.array([case.slices for case in cases], dtype=float),
        *known([case.surface_distance_mm for case in cases]),
        *known([case.hausdorff95_mm for case in cases])[:1],
        *known(errors),
        *known([None if error is None else abs(error) for error in errors])[:1],
    ]
    sums = sum_by_patient(np.column_stack(columns), patients, count)
    return np.column_stack([sums, *overlap(*sums[:, :3].T)])


def _scores(weights: np.ndarray, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Every score under each row of weights ``[R, patients]``."""
    total = weights @ sums
    hits, extra, missed, slice_dice, slices, surface, distances, hausdorff, error, volumes, absolute = total[:, :11].T
    dice, precision, recall = overlap(hits, extra, missed)
    means = total[:, 11:] / weights.sum(axis=1, keepdims=True)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    return {
        "dice_pooled": dice,
        "dice_patient_mean": means[:, 0],
        "dice_slice_mean": slice_dice / slices,
        "precision_pooled": precision,
        "precision_patient_mean": means[:, 1],
        "recall_pooled": recall,
        "recall_patient_mean": means[:, 2],
        "surface_distance_mm": ratio(surface, distances),
        "hausdorff95_mm": ratio(hausdorff, distances),
        "volume_error_ml": ratio(error, volumes),
        "absolute_volume_error_ml": ratio(absolute, volumes),
    }

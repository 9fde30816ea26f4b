"""Scores of segmentations against values worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from sklearn.metrics import f1_score, precision_score, recall_score

from pneumonai.pipeline.metrics.resampling import is_score
from pneumonai.pipeline.metrics.segmentation import (
    SEGMENTATION_SCORES,
    SegmentationScores,
    overlap,
    score_case,
    segmentation_report,
)


def volume(*slices: list[int]) -> np.ndarray:
    """A volume of slices of four voxels each, 2 x 2."""
    return np.array(slices, dtype=np.uint8).reshape(len(slices), 2, 2)


def values(report: dict[str, Any]) -> dict[str, Any]:
    return {key: entry["value"] for key, entry in report.items() if is_score(entry)}


def test_three_means_by_hand() -> None:
    scores = SegmentationScores()
    # A: 1 of 2 found (Dice 2/3); empty in both (1). B: 1 found, 1 too many, 1 missed (1/2); 4 missed (0).
    scores.add(volume([1, 0, 0, 0], [0, 0, 0, 0]), volume([1, 1, 0, 0], [0, 0, 0, 0]), patient_id="A")
    scores.add(volume([1, 1, 0, 0], [0, 0, 0, 0]), volume([1, 0, 1, 0], [1, 1, 1, 1]), patient_id="B")
    report = scores.report()
    assert (report["n_images"], report["n_patients"], report["n_slices"]) == (2, 2, 4)
    found = values(report)
    expected = {
        "dice_pooled": 2 * 2 / (3 + 8),
        "dice_patient_mean": (2 / 3 + 2 * 1 / (2 + 6)) / 2,
        "dice_slice_mean": (2 / 3 + 1 + 1 / 2 + 0) / 4,
        "precision_pooled": 2 / 3,
        "precision_patient_mean": (1 + 1 / 2) / 2,
        "recall_pooled": 2 / 8,
        "recall_patient_mean": (1 / 2 + 1 / 6) / 2,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    unknown = found.keys() - expected.keys()
    assert unknown == {"surface_distance_mm", "hausdorff95_mm", "volume_error_ml", "absolute_volume_error_ml"}
    assert all(report[key] == {"value": None, "interval": None} for key in unknown)


def test_pictures_of_one_patient_are_pooled_for_the_patient() -> None:
    scores = SegmentationScores()
    for predicted, true in (([1, 0], [1, 0]), ([0, 0], [1, 1])):
        scores.add(np.array([predicted]), np.array([true]), patient_id="A")
    scores.add(np.array([[0, 0]]), np.array([[0, 0]]))
    report = scores.report()
    # Patient A: 1 hit, 2 missed; the third picture is its own patient, empty in both.
    assert report["n_patients"] == 2
    assert values(report)["dice_patient_mean"] == pytest.approx((2 / 4 + 1) / 2)
    assert values(report)["dice_slice_mean"] == pytest.approx((1 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [([0, 0, 0, 0], [0, 0, 0, 0], 1.0), ([1, 0, 0, 0], [0, 0, 0, 0], 0.0), ([0, 0, 0, 0], [0, 1, 1, 0], 0.0)],
)
def test_empty_masks(predicted: list[int], true: list[int], expected: float) -> None:
    case = score_case(volume(predicted), volume(true), spacing_mm=(1, 1, 1))
    assert (case.dice, case.precision, case.recall, case.slice_dice_sum) == (expected,) * 4
    assert (case.surface_distance_mm, case.hausdorff95_mm) == (None, None)
    assert case.volume_error_ml == pytest.approx((sum(predicted) - sum(true)) / 1000)
    report = segmentation_report([case])
    assert values(report)["dice_pooled"] == expected
    assert (report["n_distances"], report["n_volumes"]) == (0, 1)
    json.dumps(report, allow_nan=False)


def test_distances_and_volume_by_hand() -> None:
    predicted, true = np.zeros((6, 4, 9), dtype=bool), np.zeros((6, 4, 9), dtype=bool)
    predicted[1, 1:3, 1:8] = True
    true[3, 1:3, 1:8] = True
    true[4, 1:3, 1:8] = True
    case = score_case(predicted, true, spacing_mm=(5.0, 0.5, 2.0))
    # Every voxel of the plane is 10 mm from the truth; the truth's two planes are 10 and 15 mm from it.
    assert case.surface_distance_mm == pytest.approx((10 + 10 + 15) / 3)
    assert case.hausdorff95_mm == pytest.approx(15)
    assert case.volume_error_ml == pytest.approx(-14 * 5.0 * 0.5 * 2.0 / 1000)
    # One way 0 and the other 0 and 4 mm; the 95th percentile of the latter is 3.8.
    single, pair = np.zeros((1, 7)), np.zeros((1, 7))
    single[0, 1], pair[0, [1, 5]] = 1, 1
    picture = score_case(single, pair, spacing_mm=(1.0, 1.0))
    assert picture.surface_distance_mm == pytest.approx(4 / 3)
    assert picture.hausdorff95_mm == pytest.approx(3.8)
    assert picture.volume_error_ml is None


def test_distances_equal_monai() -> None:
    generator = np.random.default_rng(8)
    for dimensions in (2, 3, 3):
        shape = tuple(generator.integers(3, 9, size=dimensions))
        predicted, true = generator.random((2, *shape)) < generator.uniform(0.2, 0.8)
        spacing = generator.uniform(0.5, 5, size=dimensions).tolist()
        case = score_case(predicted, true, spacing_mm=spacing)
        batch: dict[str, Any] = {"y_pred": predicted[None, None], "y": true[None, None], "include_background": True}
        average = compute_average_surface_distance(**batch, symmetric=True, spacing=spacing)
        hausdorff = compute_hausdorff_distance(**batch, percentile=95, spacing=spacing)
        assert case.surface_distance_mm == pytest.approx(float(average), rel=1e-5)
        assert case.hausdorff95_mm == pytest.approx(float(hausdorff), rel=1e-5)


def test_means_of_distances_and_volumes_leave_out_what_has_none() -> None:
    full, empty = volume([1, 1, 1, 1], [0, 0, 0, 0]), volume([0] * 4, [0] * 4)
    other = volume([0, 0, 0, 0], [1, 1, 1, 1])
    half = volume([1, 1, 0, 0], [0, 0, 0, 0])
    spacing = (3.0, 10.0, 10.0)
    cases = [
        score_case(full, other, spacing_mm=spacing, patient_id="a"),
        score_case(full, full, spacing_mm=spacing, patient_id="b"),
        score_case(empty, full, spacing_mm=spacing, patient_id="c"),
        score_case(half, full, patient_id="d"),
        score_case(full, half, spacing_mm=spacing, patient_id="e"),
    ]
    report = segmentation_report(cases)
    found = values(report)
    assert (report["n_distances"], report["n_volumes"]) == (3, 4)
    # e: both voxels of the truth lie in the prediction, two of its four lie 10 mm away.
    assert found["surface_distance_mm"] == pytest.approx((3 + 0 + 20 / 6) / 3)
    assert found["volume_error_ml"] == pytest.approx((0 + 0 - 1.2 + 0.6) / 4)
    assert found["absolute_volume_error_ml"] == pytest.approx((1.2 + 0.6) / 4)


def test_slices_lie_along_the_axis_named() -> None:
    generator = np.random.default_rng(5)
    predicted, true = generator.random((2, 3, 4, 5)) > 0.6
    for axis in (0, 1, 2, -1):
        case = score_case(predicted, true, slice_axis=axis)
        pairs = zip(np.moveaxis(predicted, axis, 0), np.moveaxis(true, axis, 0), strict=True)
        expected = [f1_score(t.ravel(), p.ravel(), zero_division=1.0) for p, t in pairs]
        assert (case.slices, case.slice_dice_sum) == (len(expected), pytest.approx(sum(expected)))


def test_overlap_equals_scikit_learn() -> None:
    generator = np.random.default_rng(11)
    for _ in range(20):
        share_predicted, share_true = generator.random(2)
        predicted, true = generator.random(30) < share_predicted, generator.random(30) < share_true
        true[0] = predicted[0] = True
        counts = [np.array(np.count_nonzero(m)) for m in (predicted & true, predicted & ~true, true & ~predicted)]
        scores = [f(true, predicted) for f in (f1_score, precision_score, recall_score)]
        assert [float(s) for s in overlap(*counts)] == pytest.approx(scores)


def test_intervals_draw_patients() -> None:
    generator = np.random.default_rng(2)
    cases = []
    for patient in range(12):
        predicted, true = generator.random((2, 3, 4, 4)) < generator.random()
        cases.append(score_case(predicted, true, spacing_mm=(2, 1, 1), patient_id=f"P{patient}"))
    report = segmentation_report(cases, seed=1)
    copies = segmentation_report(cases * 4, seed=1)
    assert (copies["n_images"], copies["n_patients"], copies["bootstrap"]["unit"]) == (48, 12, "patient")
    for name in SEGMENTATION_SCORES:
        low, high = report[name]["interval"]
        assert low <= report[name]["value"] <= high
        assert copies[name]["interval"] == pytest.approx([low, high])
    dice = np.array([case.dice for case in cases])
    spread = 1.96 * dice.std() / np.sqrt(12)
    assert report["dice_patient_mean"]["interval"] == pytest.approx(
        [dice.mean() - spread, dice.mean() + spread], abs=0.02
    )
    assert segmentation_report(cases[:1])["dice_pooled"]["interval"] is None


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 1\)"):
        score_case(np.zeros((1, 2)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="3 positive spacings"):
        score_case(volume([0] * 4), volume([0] * 4), spacing_mm=(1, 1))
    with pytest.raises(ValueError, match="at least one case"):
        segmentation_report([])

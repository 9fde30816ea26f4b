"""Scores of heat maps, on maps small enough to be scored by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pneumonai.pipeline.metrics.explanation import (
    EXPLANATION_SCORES,
    ExplainedCase,
    compare_maps,
    explanation_report,
    lung_mask_map,
    perturbation_curves,
    pointing_score,
    random_map,
    replacement,
    score_map,
    share_inside,
    top_k_dice,
    verdict,
)

MAP = np.array([[0.9, 0.4, 0.1], [0.6, 0.6, 0.0]])
TRUTH = np.array([[1, 0, 0], [0, 1, 0]], bool)
EMPTY = np.zeros((2, 3), bool)


def test_pointing_game_by_hand() -> None:
    assert pointing_score(MAP, TRUTH) == 1
    assert pointing_score(MAP, ~TRUTH) == 0
    assert pointing_score(np.minimum(MAP, 0.6), TRUTH) == pytest.approx(2 / 3)  # three voxels share the maximum
    assert pointing_score(np.zeros((2, 3)), TRUTH) == pytest.approx(2 / 6)  # a constant map points at random
    region = np.array([[0, 1, 1], [1, 1, 1]], bool)
    assert pointing_score(MAP, TRUTH, region) == 0.5
    assert math.isnan(pointing_score(MAP, EMPTY))
    assert math.isnan(pointing_score(MAP, TRUTH, EMPTY))


def test_top_k_dice_by_hand() -> None:
    # The two largest: 0.9, which is true, and one of two 0.6, of which one is true.
    assert top_k_dice(MAP, TRUTH) == pytest.approx((1 + 0.5) / 2)
    assert top_k_dice(-MAP, TRUTH) == 0
    assert top_k_dice(TRUTH.astype(float), TRUTH) == 1
    assert top_k_dice(MAP**3 * 7, TRUTH) == top_k_dice(MAP, TRUTH)
    assert top_k_dice(np.zeros((2, 3)), TRUTH) == pytest.approx(2 / 6)
    only_first_row = np.array([[1, 1, 1], [0, 0, 0]], bool)
    assert top_k_dice(MAP, TRUTH, only_first_row) == pytest.approx(1 / 2)  # 0.9 and 0.4; the other true one is outside
    assert top_k_dice(MAP, ~EMPTY, only_first_row) == pytest.approx(2 * 3 / (6 + 3))
    assert math.isnan(top_k_dice(MAP, EMPTY))


def test_share_inside_by_hand() -> None:
    assert share_inside(MAP, TRUTH) == pytest.approx(1.5 / 2.6)
    assert math.isnan(share_inside(np.zeros((2, 3)), TRUTH))


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        pointing_score(MAP, TRUTH[:1])


def test_the_baselines_lie_inside_the_lungs() -> None:
    lungs = np.zeros((12, 14, 10), np.uint8)
    lungs[2:10, 1:6], lungs[2:10, 8:13] = 1, 2
    assert np.array_equal(lung_mask_map(lungs), lungs > 0)
    noise = random_map(lungs, sigma=2.0, seed=3)
    assert noise.dtype == np.float32
    assert (noise.min(), noise.max()) == (0.0, 1.0)
    assert not noise[lungs == 0].any()
    assert np.array_equal(noise, random_map(lungs, sigma=2.0, seed=3))
    assert not np.array_equal(noise, random_map(lungs, sigma=2.0, seed=4))
    step = np.abs(np.diff(noise[2:10, 1:6], axis=0)).mean()
    assert step < 0.5 * np.abs(np.diff(random_map(lungs, sigma=0.0, seed=3)[2:10, 1:6], axis=0)).mean()
    assert not random_map(np.zeros((3, 3, 3))).any()


def test_replacement_by_hand() -> None:
    image = torch.tensor([[[1.0, 3.0, 9.0]], [[0.0, 4.0, 9.0]]])
    lungs = np.array([[1, 2, 0]])
    assert replacement(image, lungs).tolist() == [[[2.0, 2.0, 9.0]], [[2.0, 2.0, 9.0]]]
    flat = torch.full((1, 9, 9), 5.0)
    inside = np.ones((9, 9), int)
    inside[:4] = 0
    assert torch.allclose(replacement(flat, inside, "blur", sigma=2.0), flat, atol=1e-3)
    spot = flat.clone()
    spot[0, 7, 4] = 50.0
    blurred = replacement(spot, inside, "blur", sigma=2.0)
    assert 5.0 < blurred[0, 7, 4] < 15.0
    with pytest.raises(ValueError, match="'mean' or 'blur', got 'zero'"):
        replacement(image, lungs, "zero")  # type: ignore[arg-type]


def test_curves_by_hand() -> None:
    """The probability is the mean of the first four voxels, of which two are 1; the last two are no lung."""
    image = torch.tensor([[1.0, 1.0, 0.0, 0.0, 5.0, 5.0]])
    lungs = np.array([1, 1, 2, 2, 0, 0])
    seen: list[int] = []

    def probability(batch: torch.Tensor) -> torch.Tensor:
        assert (batch[..., 4:] == 5.0).all()
        seen.append(len(batch))
        return batch[:, 0, :4].mean(dim=1)

    filled = replacement(image, lungs) * torch.tensor([0.0, 0, 0, 0, 1, 1])  # voxels turn to 0
    best = perturbation_curves(
        probability, image, np.array([4.0, 3, 2, 1, 9, 9]), lungs, filled=filled, steps=4, batch_size=3
    )
    assert best.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert best.deletion.tolist() == [0.5, 0.25, 0, 0, 0]
    assert best.insertion.tolist() == [0, 0.25, 0.5, 0.5, 0.5]
    assert best.deletion_area == pytest.approx(0.125)
    assert best.insertion_area == pytest.approx(0.375)
    assert seen == [3, 3, 2]  # 5 deletions and 3 insertions: the ends are shared
    worst = perturbation_curves(probability, image, np.array([1.0, 2, 3, 4, 9, 9]), lungs, filled=filled, steps=4)
    assert worst.deletion.tolist() == [0.5, 0.5, 0.5, 0.25, 0]
    assert worst.deletion_area > best.deletion_area
    assert worst.insertion_area < best.insertion_area


def test_voxels_of_one_value_go_in_a_seeded_order() -> None:
    image = torch.rand(1, 6, 7)
    lungs = np.ones((6, 7))

    def run(seed: int) -> list[float]:
        curves = perturbation_curves(lambda x: x[:, 0, 0].mean(1), image, lung_mask_map(lungs), lungs, seed=seed)
        return curves.deletion.tolist()

    assert run(1) == run(1)
    assert run(1) != run(2)
    with pytest.raises(ValueError, match="got 0 lung voxels"):
        perturbation_curves(lambda x: x, image, lungs, np.zeros((6, 7)))


def test_a_map_without_truth_is_scored_by_the_lungs_alone() -> None:
    lungs = np.array([[1, 1, 0], [2, 2, 0]])
    made = score_map(MAP, lungs, TRUTH.astype(np.uint8))
    in_lungs = {"pointing_in_lungs": 1, "dice_in_lungs": 0.75}
    assert made == pytest.approx(
        {"share_in_lungs": 2.5 / 2.6, "pointing": 1, "dice": 0.75, "iou": 2 / 3} | in_lungs  # 0.9, 0.6, 0.6 are marked
    )
    assert list(score_map(MAP, lungs, EMPTY)) == list(score_map(MAP, lungs, None)) == ["share_in_lungs"]


def cases() -> list[ExplainedCase]:
    """Six patients and a normal one, who has no pointing game; the second map is better by 0.1 to 0.5."""
    numbers = [("a", 0.1, 0.3), ("a", 0.3, 0.5), ("b", 0.0, 0.5), ("c", 0.4, 0.5), ("d", 0, 0.2), ("e", 0.1, 0.5)]
    made = [
        ExplainedCase(f"{n}", patient, {"one": {"pointing": x, "deletion": x}, "two": {"pointing": y, "deletion": y}})
        for n, (patient, x, y) in enumerate([*numbers, ("f", 0.5, 0.6)])
    ]
    return [*made, ExplainedCase("normal", "g", {"one": {"deletion": 0.2}, "two": {"deletion": 0.2}})]


def test_the_report_leaves_undefined_cases_out() -> None:
    report = explanation_report(cases(), resamples=200)
    assert (report["n_images"], report["n_patients"]) == (8, 7)
    assert report["counts"] == dict.fromkeys(EXPLANATION_SCORES, 0) | {"pointing": 7, "deletion": 8}
    assert report["maps"]["one"]["pointing"]["value"] == pytest.approx(1.4 / 7)
    assert report["maps"]["two"]["pointing"]["value"] == pytest.approx(3.1 / 7)
    assert report["maps"]["one"]["deletion"]["value"] == pytest.approx(1.6 / 8)
    assert report["maps"]["one"]["dice"] == {"value": None, "interval": None}
    low, high = report["maps"]["two"]["pointing"]["interval"]
    assert 0.2 < low < 3.1 / 7 < high < 0.6  # the values of two's cases lie between these
    assert report["bootstrap"]["unit"] == "patient"
    with pytest.raises(ValueError, match="at least one case"):
        explanation_report([])


def test_paired_differences_say_which_map_is_better() -> None:
    test = compare_maps(cases(), "one", "two", "pointing", resamples=500)
    assert (test.first, test.second) == pytest.approx((1.4 / 7, 3.1 / 7))
    assert test.difference == pytest.approx(1.7 / 7)
    assert test.interval is not None
    assert 0.1 < test.interval[0] < 1.7 / 7 < test.interval[1] < 0.5
    assert test.p_value is not None
    assert test.p_value == pytest.approx(2 / 501)
    assert verdict(test) == "better"
    assert verdict(compare_maps(cases(), "two", "one", "pointing", resamples=500)) == "worse"
    # Of deletion less is better.
    assert verdict(compare_maps(cases(), "one", "two", "deletion", resamples=500)) == "worse"
    same = compare_maps(cases(), "one", "one", "pointing", resamples=100)
    assert (same.difference, same.p_value, verdict(same)) == (0.0, 1.0, "no difference shown")


def test_comparisons_that_cannot_be_made_say_so() -> None:
    undefined = compare_maps(cases(), "one", "two", "dice")
    assert (undefined.difference, undefined.interval, undefined.note) == (None, None, "the score is not defined")
    alone = compare_maps(cases()[:1], "one", "two", "pointing")
    assert alone.difference == pytest.approx(0.2)
    assert (alone.interval, alone.note) == (None, "one patient gives no interval")
    few = compare_maps(cases()[:4], "one", "two", "pointing", resamples=100)
    assert few.interval is not None
    assert few.interval[0] > 0
    assert (few.note, verdict(few)) == ("3 patients are too few to judge by", "not judged")

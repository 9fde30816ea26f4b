"""Splits by patient: no unit crosses, classes keep their shares, and the same seed gives the same parts."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.split import split_folds, split_ratio, unit_of


def draw(rng: np.random.Generator, *, largest: int = 6) -> list[dict[str, Any]]:
    """Patients with 1 to ``largest`` images of one of a few classes; some have groups only, some nothing."""
    items: list[dict[str, Any]] = []
    classes = [f"class{n}" for n in range(rng.integers(1, 5))]
    for patient in range(rng.integers(30, 120)):
        label, kind = str(rng.choice(classes)), int(rng.integers(0, 4))
        keys = ({"patient_id": f"P{patient}", "group": f"g{patient % 3}"}, {"group": f"G{patient}"}, {}, {})[kind]
        size = 1 if not keys else int(rng.integers(1, largest + 1))
        items += [{"image": f"{patient}_{n}.png", "label": label, **keys} for n in range(size)]
    rng.shuffle(items)  # type: ignore[arg-type]
    return items


def test_a_unit_is_the_patient_else_the_group_else_the_image() -> None:
    assert unit_of({"image": "a", "patient_id": "P", "group": "g"}) == ("patient", "P")
    assert unit_of({"image": "a", "patient_id": "", "group": "g"}) == ("group", "g")
    assert unit_of({"image": "a"}) == ("image", "a")


@pytest.mark.parametrize("seed", range(12))
def test_no_unit_crosses_and_every_item_has_a_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, ratios, k = draw(rng), list(rng.uniform(0.1, 8, 3)), int(rng.integers(2, 8))
    for parts, count in ((split_ratio(items, ratios, seed), 3), (split_folds(items, k, seed), k)):
        assert len(parts) == len(items) and set(parts) <= set(range(count))
        sides = defaultdict(set)
        for item, part in zip(items, parts, strict=True):
            sides[unit_of(item)].add(part)
        assert all(len(where) == 1 for where in sides.values())


@pytest.mark.parametrize("seed", range(12))
def test_single_images_meet_every_class_target_within_one(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    labels = rng.choice(["normal", "ncp", "cp"], size=int(rng.integers(20, 400)), p=[0.6, 0.3, 0.1])
    items = [{"image": f"{n}.png", "label": str(label)} for n, label in enumerate(labels)]
    ratios = rng.uniform(0.5, 8, size=int(rng.integers(2, 6)))
    parts = np.array(split_ratio(items, list(ratios), seed))
    for label in set(labels):
        wanted = ratios / ratios.sum() * (labels == label).sum()
        got = np.bincount(parts[labels == label], minlength=len(ratios))
        assert np.abs(got - wanted).max() < 1 + 1e-9


def test_eight_one_one_of_a_hundred_by_hand() -> None:
    items = [{"image": str(n), "label": "a" if n < 70 else "b"} for n in range(100)]
    parts = split_ratio(items, [8, 1, 1], seed=3)
    assert Counter(zip(parts, (item["label"] for item in items), strict=True)) == {
        (0, "a"): 56, (1, "a"): 7, (2, "a"): 7, (0, "b"): 24, (1, "b"): 3, (2, "b"): 3,
    }  # fmt: skip


def test_roundings_of_two_classes_do_not_fall_on_one_part() -> None:
    """Six images of each class at 8:1:1 are 4.8, 0.6, 0.6: validation and test get one image each, of either class."""
    items = [{"image": str(n), "label": "ab"[n % 2]} for n in range(12)]
    for seed in range(5):
        assert sorted(Counter(split_ratio(items, [8, 1, 1], seed)).values()) == [1, 1, 10]


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_are_at_least_as_even_as_scikit_learns() -> None:
    """Sum of squared deviations of class counts from a fold's share, summed over draws."""
    ours = theirs = 0.0
    for seed in range(15):
        items = [item for item in draw(np.random.default_rng(seed)) if "patient_id" in item]
        labels = np.array([item["label"] for item in items])
        units = [item["patient_id"] for item in items]
        other = np.zeros(len(items), dtype=int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for fold, (_, test) in enumerate(splitter.split(labels, labels, units)):
            other[test] = fold

        def deviation(folds: np.ndarray, labels: np.ndarray = labels) -> float:
            counts = [np.bincount(folds[labels == label], minlength=5) for label in sorted(set(labels))]
            return float(sum(((count - count.mean()) ** 2).sum() for count in counts))

        ours += deviation(np.array(split_folds(items, 5, seed)))
        theirs += deviation(other)
    assert ours < theirs


def test_large_and_small_patients_are_dealt_to_every_part() -> None:
    """Dealing the largest first to the largest part would leave validation and test with single images."""
    sizes = [12] * 20 + [1] * 200
    items = [
        {"image": f"{patient}_{n}", "label": "a", "patient_id": patient}
        for patient, size in enumerate(sizes)
        for n in range(size)
    ]
    parts = split_ratio(items, [8, 1, 1], seed=0)
    large = {(i["patient_id"], part) for i, part in zip(items, parts, strict=True) if i["patient_id"] < 20}
    assert Counter(part for _, part in large) == {0: 16, 1: 2, 2: 2}


def test_seeds_decide_and_repeat() -> None:
    items = draw(np.random.default_rng(5))
    assert split_ratio(items, [8, 1, 1], 1) == split_ratio(items, [8, 1, 1], 1)
    assert split_ratio(items, [8, 1, 1], 1) != split_ratio(items, [8, 1, 1], 2)
    # Ratios, not their scale, decide.
    assert split_ratio(items, [8, 1, 1], 1) == split_ratio(items, [0.8, 0.1, 0.1], 1)


def test_a_ratio_of_zero_leaves_a_part_empty() -> None:
    items = draw(np.random.default_rng(6))
    assert set(split_ratio(items, [7, 0, 3], 0)) == {0, 2}


@pytest.mark.parametrize("ratios", [[0, 0], [-1, 2], [], [float("nan"), 1]])
def test_wrong_ratios_are_refused(ratios: list[float]) -> None:
    with pytest.raises(ManifestError, match="ratios must be 0 or more and not all 0"):
        split_ratio([{"image": "a"}], ratios)


def test_more_folds_than_patients_are_refused() -> None:
    items = [{"image": str(n), "patient_id": str(n % 3)} for n in range(9)]
    with pytest.raises(ManifestError, match=r"4 folds need 4 patients .* 3 are there"):
        split_folds(items, 4)
    with pytest.raises(ManifestError, match="folds must be 2 or more, got 1"):
        split_folds(items, 1)

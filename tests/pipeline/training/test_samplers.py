"""Order and balance of the training items."""

from __future__ import annotations

from collections import Counter

import pytest
from monai.data import Dataset

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.training.samplers import EpochSampler

# Class 0: one patient with 6 images, two with 1; class 1: two patients with 1.
ITEMS = [
    *({"image": f"a{n}", "label": 0, "patient_id": "A"} for n in range(6)),
    {"image": "b", "label": 0, "patient_id": "B"},
    {"image": "c", "label": 0, "patient_id": "C"},
    {"image": "d", "label": 1, "patient_id": "D"},
    {"image": "e", "label": 1, "patient_id": "E"},
]


def epoch(sampler: EpochSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


def test_every_item_once_in_an_order_of_the_epoch() -> None:
    sampler = EpochSampler(Dataset(ITEMS), seed=3)
    assert sorted(epoch(sampler, 1)) == list(range(10))
    assert epoch(sampler, 1) == epoch(EpochSampler(Dataset(ITEMS), seed=3), 1)
    assert epoch(sampler, 1) != epoch(sampler, 2)
    assert epoch(sampler, 1) != epoch(EpochSampler(Dataset(ITEMS), seed=4), 1)


@pytest.mark.parametrize("balanced", [False, True])
def test_processes_share_one_process_s_batches(balanced: bool) -> None:
    one = epoch(EpochSampler(Dataset(ITEMS), balanced=balanced), 5)
    ranks = [epoch(EpochSampler(Dataset(ITEMS), balanced=balanced, num_replicas=2, rank=rank), 5) for rank in range(2)]
    for step in range(5):
        assert {ranks[0][step], ranks[1][step]} == set(one[2 * step : 2 * step + 2])


def test_uneven_processes_repeat_from_the_start() -> None:
    ranks = [epoch(EpochSampler(Dataset(ITEMS), num_replicas=3, rank=rank), 0) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [4, 4, 4]
    assert set().union(*ranks) == set(range(10))


def test_balance_by_class_then_by_patient() -> None:
    sampler = EpochSampler(Dataset(ITEMS), balanced=True)
    drawn = Counter(ITEMS[index]["patient_id"] for number in range(300) for index in epoch(sampler, number))
    total = sum(drawn.values())
    assert total == 3000
    assert drawn["D"] + drawn["E"] == total / 2
    assert [drawn[name] / total for name in "ABC"] == pytest.approx([1 / 6] * 3, abs=0.01)
    images = Counter(ITEMS[index]["image"] for number in range(300) for index in epoch(sampler, number))
    assert min(images[f"a{n}"] for n in range(6)) > 50


def test_balance_by_another_entry_and_without_it() -> None:
    items = [{"image": str(n), "infected": n == 0} for n in range(8)]
    sampler = EpochSampler(Dataset(items), balanced=True, balance_key="infected")
    assert epoch(sampler, 0).count(0) == 4
    with pytest.raises(ManifestError, match="0: has no 'label' to balance by"):
        EpochSampler(Dataset(items), balanced=True)

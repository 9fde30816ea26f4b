"""Caches and class weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, Lambdad

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.training.datasets import cached_dataset, class_weights


@pytest.mark.parametrize(("cache", "kind"), [("disk", PersistentDataset), ("memory", CacheDataset)])
def test_caches_give_what_no_cache_gives(tmp_path: Path, cache: Any, kind: type) -> None:
    items = [{"image": str(tmp_path / f"{n}.txt"), "label": n} for n in range(3)]
    for item in items:
        Path(item["image"]).write_text("7" * (int(item["label"]) + 1))
    transform = Compose([Lambdad("image", lambda path: torch.tensor(float(Path(path).read_text())))])
    cached = cached_dataset(items, transform, cache=cache, cache_dir=tmp_path / "cache")
    plain = cached_dataset(items, transform, cache="none")
    assert isinstance(cached, kind)
    assert [cached[n]["image"] for n in range(3)] == [plain[n]["image"] for n in range(3)] == [7, 77, 777]


def test_a_file_written_anew_is_prepared_anew(tmp_path: Path) -> None:
    path = tmp_path / "image.txt"
    transform = Compose([Lambdad("image", lambda path: torch.tensor(float(Path(path).read_text())))])
    dataset = cached_dataset([{"image": str(path)}], transform, cache_dir=tmp_path / "cache")
    path.write_text("1")
    assert dataset[0]["image"] == 1
    path.write_text("2")
    os.utime(path, ns=(1, 1))
    assert dataset[0]["image"] == 2


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(ManifestError, match="unknown cache 'ram'; use disk, memory or none"):
        cached_dataset([], lambda item: item, cache="ram")  # type: ignore[arg-type]


def test_class_weights_by_hand() -> None:
    items = [{"label": 0}] * 3 + [{"label": 1}]
    assert class_weights(items, 2, None) is None
    assert class_weights(items, 2, "balanced").tolist() == pytest.approx([4 / 6, 2.0])  # type: ignore[union-attr]
    assert class_weights(items, 2, [1, 5]).tolist() == [1, 5]  # type: ignore[union-attr]
    with pytest.raises(ManifestError, match="class 2 has no training item"):
        class_weights(items, 3, "balanced")
    with pytest.raises(ManifestError, match="has 3 weights for 2 classes"):
        class_weights(items, 2, [1, 2, 3])


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_balance_weights_and_caches_are_settings_of_the_train_config(train: Any, tmp_path: Path, cache: str) -> None:
    train(tmp_path, max_epochs=1, cache=cache, balanced_sampling=True, class_weights="balanced")
    assert (tmp_path / "model.pt").is_file()
    assert not (tmp_path / "cache").exists()

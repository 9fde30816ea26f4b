"""Training data behind a cache, and class weights from it; what the bundles' train configs name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.data.utils import json_hashing

from pneumonai.data_manifests.errors import ManifestError

Cache = Literal["disk", "memory", "none"]


def cached_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Callable[[Any], Any],
    *,
    cache: Cache = "disk",
    cache_dir: str | Path | None = None,
    num_workers: int = 1,
    track_meta: bool = False,
) -> Dataset:
    """MONAI's dataset for a kind of cache; only the transforms before the first random one are cached.

    Args:
        data: items.
        transform: preprocessing, then augmentation.
        cache: ``disk`` (``PersistentDataset``: prepared once, kept for later runs, memory stays flat), ``memory``
            (``CacheDataset``: prepared at every start) or ``none`` (prepared in every epoch).
        cache_dir: folder of the disk's cache; name it after the preprocessing, which the file names do not hold.
        num_workers: threads that fill the memory's cache.
        track_meta: keep on disk what inverting the preprocessing needs, too; such a cache is read by ``pickle``.

    Raises:
        ManifestError: another word for ``cache``.
    """
    items = list(data)
    if cache == "disk":
        return PersistentDataset(
            items,
            transform,
            cache_dir=cache_dir,
            hash_func=_item_hash,
            track_meta=track_meta,
            weights_only=not track_meta,
        )
    if cache == "memory":
        return CacheDataset(items, transform, num_workers=num_workers)
    if cache == "none":
        return Dataset(items, transform)
    raise ManifestError("cache", f"unknown cache {cache!r}", "use disk, memory or none")


def _item_hash(item: Mapping[str, Any]) -> bytes:
    """An item's hash that changes when one of its files was written anew."""
    files = (Path(item[key]) for key in ("image", "mask") if key in item)
    states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()]
    return json_hashing([dict(item), states])


def grey_statistics(dataset: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels of a data set's ``image``, for one z-score that serves every picture.

    Args:
        dataset: items with ``image``, ``[C, *spatial]``; each is read once.

    Returns:
        Both rounded to six digits, as a config keeps them.

    Raises:
        ManifestError: every pixel has the same value.
    """
    total, squares, count = 0.0, 0.0, 0
    for item in dataset:
        pixels = torch.as_tensor(item["image"]).double()
        total += pixels.sum().item()
        squares += pixels.square().sum().item()
        count += pixels.numel()
    mean = total / max(1, count)
    deviation = max(0.0, squares / max(1, count) - mean**2) ** 0.5
    if deviation < 1e-6:
        raise ManifestError("training", f"all pixels have the value {mean:g}", "give pictures that show something")
    return round(mean, 6), round(deviation, 6)


def class_weights(
    data: Sequence[Mapping[str, Any]],
    num_classes: int,
    rule: Literal["balanced"] | Sequence[float] | None,
    *,
    device: torch.device | str = "cpu",
) -> torch.Tensor | None:
    """Weights of the classes for a loss.

    Args:
        data: training items with an integer ``label``.
        num_classes: C.
        rule: None for none, ``balanced`` for N / (C n_c) (scikit-learn's rule, whose mean over items is 1), or C
            numbers.
        device: where the loss is computed.

    Returns:
        ``[C]`` or None.

    Raises:
        ManifestError: a class without items under ``balanced``, or another number of weights.

    Examples:
        >>> class_weights([{"label": 0}, {"label": 0}, {"label": 0}, {"label": 1}], 2, "balanced")
        tensor([0.6667, 2.0000])
    """
    if rule is None:
        return None
    if rule == "balanced":
        counts = Counter(int(item["label"]) for item in data)
        empty = [index for index in range(num_classes) if not counts[index]]
        if empty:
            raise ManifestError("class_weights", f"class {empty[0]} has no training item", "add some or drop the class")
        shares = [len(data) / (num_classes * counts[index]) for index in range(num_classes)]
        return torch.tensor(shares, device=device)
    weights = torch.tensor([float(weight) for weight in rule], device=device)
    if len(weights) != num_classes:
        raise ManifestError(
            "class_weights", f"has {len(weights)} weights for {num_classes} classes", "give one a class"
        )
    return weights

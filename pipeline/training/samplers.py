"""The order in which training sees its items: one sampler for one process and for many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset, DistributedSampler

from pneumonai.data_manifests.errors import ManifestError


class EpochSampler(DistributedSampler):
    """Draws an epoch's items from (seed, epoch) alone; under ``torchrun`` each process takes every n-th of them.

    n processes with batches of b therefore see, step by step, the same items as one process with batches of n b.
    MONAI's engines tell it the epoch (they do for every ``DistributedSampler``).

    Args:
        dataset: MONAI dataset; ``dataset.data`` is its list of items (dictionaries).
        seed: of the run.
        balanced: False visits every item once an epoch; True draws as many items as there are, equally often from
            each class, within a class from patients in turn, and of a patient one item at random.
        balance_key: entry of an item that holds its class.
        num_replicas: number of processes; that of the process group, or 1, when None.
        rank: this process.

    Raises:
        ManifestError: balanced, and an item has no entry ``balance_key``.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int = 0,
        balanced: bool = False,
        balance_key: str = "label",
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        super().__init__(
            dataset,
            num_replicas=(dist.get_world_size() if grouped else 1) if num_replicas is None else num_replicas,
            rank=(dist.get_rank() if grouped else 0) if rank is None else rank,
            seed=seed,
        )
        self.classes = _patients_of_classes(dataset.data, balance_key) if balanced else []  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[int]:
        """Indices of this process, all drawn from (seed, epoch)."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        number = len(self.dataset)  # type: ignore[arg-type]
        order = self._balanced_order(number, generator) if self.classes else _shuffled(range(number), generator)
        return iter(list(islice(cycle(order), self.total_size))[self.rank :: self.num_replicas])

    def _balanced_order(self, number: int, generator: torch.Generator) -> list[int]:
        share = math.ceil(number / len(self.classes))
        drawn: list[int] = []
        for patients in self.classes:
            turns: list[int] = []
            while len(turns) < share:
                turns += _shuffled(range(len(patients)), generator)
            for turn in turns[:share]:
                items = patients[turn]
                drawn.append(items[int(torch.randint(len(items), (1,), generator=generator))])
        return _shuffled(drawn, generator)[:number]


def _shuffled(values: Sequence[int], generator: torch.Generator) -> list[int]:
    return [values[i] for i in torch.randperm(len(values), generator=generator).tolist()]


def _patients_of_classes(items: Sequence[Mapping[str, Any]], key: str) -> list[list[list[int]]]:
    """For each class, for each of its patients, the indices of the items."""
    classes: dict[Any, dict[Any, list[int]]] = {}
    for index, item in enumerate(items):
        if key not in item:
            raise ManifestError(item.get("image", f"item {index}"), f"has no '{key}' to balance by", "add it")
        patient = item.get("patient_id", item.get("group", f"item {index}"))
        classes.setdefault(item[key], {}).setdefault(patient, []).append(index)
    return [list(patients.values()) for _, patients in sorted(classes.items(), key=lambda entry: str(entry[0]))]

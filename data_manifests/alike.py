"""Groups of pictures that look alike: what must lie on one side of a split where the patients are not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pneumonai.data_manifests.duplicates import find_alike
from pneumonai.data_manifests.file_figures import FileFigures, read_figures
from pneumonai.data_manifests.split import unit_of
from pneumonai.data_manifests.workers import work_through

Progress = Callable[[str, int, int], None]


def group_alike(items: Sequence[dict[str, Any]], root: str | Path, progress: Progress | None = None) -> int:
    """Give items without a patient a ``group`` shared by all that look alike, chained, and by their former group.

    Alike is what ``pneumonai manifest check`` calls identical, nearly identical or probably one patient.

    Args:
        items: datalist items; changed in place. Those that name a patient stay as they are.
        root: folder that their paths start from.
        progress: told how far it is.

    Returns:
        How many groups have more than one item.
    """
    loose = [item for item in items if not item.get("patient_id")]
    jobs = [(str(Path(root) / item["image"]),) for item in loose]
    figures: list[FileFigures | None] = [None] * len(jobs)
    for done, (number, known) in enumerate(work_through(read_figures, jobs), start=1):
        figures[number] = known
        if progress is not None:
            progress("comparing", done, len(jobs))
    ends = [(pair.first, pair.second) for pair in find_alike(figures, range(len(figures)))]
    first_of: dict[Any, int] = {}
    for number, item in enumerate(loose):
        ends.append((first_of.setdefault(unit_of(item), number), number))
    rows, columns = np.array(ends, dtype=int).reshape(-1, 2).T
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(loose), len(loose)))
    count, component = connected_components(links, directed=False)
    names: dict[int, str] = {}
    for item, which in zip(loose, component.tolist(), strict=True):
        names.setdefault(which, str(item.get("group") or item["image"]))
        item["group"] = names[which]
    return int((np.bincount(component, minlength=count) > 1).sum())

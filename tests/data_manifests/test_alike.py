"""Pictures that look alike become one group, chained, with whom they were grouped already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumonai.data_manifests.alike import group_alike
from pneumonai.data_manifests.from_csv import build_from_csv
from pneumonai.data_manifests.split import split_folds
from pneumonai.pipeline.phantom import make_phantom
from pneumonai.pipeline.phantom.projections import axial_picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients: a.png with two altered copies, b.png, c.png with a smaller copy."""
    path = tmp_path_factory.mktemp("alike")
    a, b, c = (
        Image.fromarray(axial_picture(make_phantom(kind, seed, shape=(128, 128, 32)), 16))
        for seed, kind in enumerate(("ncp", "normal", "cp"))
    )
    a.save(path / "a.png")
    a.save(path / "a2.jpg", quality=40)
    Image.fromarray(np.clip(np.asarray(a) * 0.9 + 12, 0, 255).astype(np.uint8)).save(path / "a3.png")
    b.save(path / "b.png")
    c.save(path / "c.png")
    c.resize((96, 96), Image.Resampling.BILINEAR).save(path / "c2.png")
    return path


def groups_of(items: list[dict[str, Any]]) -> list[set[str]]:
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item["group"], set()).add(item["image"])
    return sorted(found.values(), key=sorted)


def test_copies_share_a_group(folder: Path) -> None:
    items = [{"image": name} for name in ("a.png", "b.png", "c.png", "a2.jpg", "c2.png", "a3.png")]
    assert group_alike(items, folder) == 2
    assert groups_of(items) == [{"a.png", "a2.jpg", "a3.png"}, {"b.png"}, {"c.png", "c2.png"}]
    assert len({fold for item, fold in zip(items, split_folds(items, 3), strict=True) if "a" in item["group"]}) == 1


def test_former_groups_are_chained_and_patients_left_alone(folder: Path) -> None:
    items = [
        {"image": "a.png", "group": "g"},
        {"image": "b.png", "group": "g"},
        {"image": "a2.jpg"},
        {"image": "c.png", "patient_id": "P1"},
        {"image": "c2.png", "patient_id": "P2"},
    ]
    assert group_alike(items, folder) == 1
    assert [item.get("group") for item in items] == ["g", "g", "g", None, None]


def test_a_table_with_alike_pictures_together(folder: Path) -> None:
    (folder / "table.csv").write_text("image,label\na.png,covid\na2.jpg,covid\nb.png,noncovid\nc.png,covid\n")
    datalist = build_from_csv(folder / "table.csv", folder, alike_together=True)
    items = [item for part in ("training", "validation", "test") for item in datalist[part]]
    assert groups_of(items) == [{"a.png", "a2.jpg"}, {"b.png"}, {"c.png"}]
    assert "1 groups of several" in " ".join(datalist["pneumonai"]["warnings"])

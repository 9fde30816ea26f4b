"""Datalists: paths joined for images and masks alone, errors that name the item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pneumonai.data_manifests.datalist import load_datalist
from pneumonai.data_manifests.errors import ManifestError


def write(folder: Path, items: list[dict[str, Any]]) -> Path:
    """A datalist with one part, and the files a.nii.gz and P1 beside it."""
    for name in ("a.nii.gz", "P1"):
        (folder / name).touch()
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": items}))
    return path


def test_paths_are_joined_for_image_and_mask_alone(tmp_path: Path) -> None:
    path = write(tmp_path, [{"image": "a.nii.gz", "mask": "a.nii.gz", "label": "ncp", "patient_id": "P1"}])
    (item,) = load_datalist(path, "training", class_names=["normal", "ncp"])
    # P1 exists as a file here, yet a patient id stays what it is.
    assert item == {
        "image": str(tmp_path / "a.nii.gz"),
        "mask": str(tmp_path / "a.nii.gz"),
        "label": 1,
        "patient_id": "P1",
    }


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": "b.nii.gz"}, r"training\[0\]: image b.nii.gz is not in"),
        ({"image": "a.nii.gz", "mask": "m.nii.gz"}, "mask m.nii.gz is not in"),
        ({"label": 0}, "needs an entry 'image'"),
        ({"image": "a.nii.gz", "label": 2}, "unknown label 2; use one of normal, ncp"),
        ({"image": "a.nii.gz", "label": "flu"}, "unknown label 'flu'"),
    ],
)
def test_a_wrong_item_is_named(tmp_path: Path, item: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        load_datalist(write(tmp_path, [item]), "training", class_names=["normal", "ncp"])


def test_a_missing_datalist_or_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such datalist"):
        load_datalist(tmp_path / "none.json", "training")
    with pytest.raises(ManifestError, match="no items under 'test'"):
        load_datalist(write(tmp_path, [{"image": "a.nii.gz"}]), "test")


def test_what_belongs_to_no_fold_is_trained_on_with_each(tmp_path: Path) -> None:
    items = [{"image": "a.nii.gz", "label": n, "fold": n % 3 if n < 6 else None} for n in range(8)]
    path = write(tmp_path, items)

    def labels(part: str, fold: int) -> list[int]:
        return [item["label"] for item in load_datalist(path, part, fold=fold)]

    assert labels("test", 2) == [2, 5]
    assert labels("validation", 2) == [0, 3]
    assert labels("training", 2) == [1, 4, 6, 7]


def test_folds_keep_choice_and_score_apart(tmp_path: Path) -> None:
    path = write(tmp_path, [{"image": "a.nii.gz", "label": n, "fold": n % 3} for n in range(6)])

    def labels(part: str, fold: int) -> list[int]:
        return [item["label"] for item in load_datalist(path, part, fold=fold)]

    assert labels("test", 2) == [2, 5]
    assert labels("validation", 2) == [0, 3]
    assert labels("training", 2) == [1, 4]
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"validation": [{"image": "a.nii.gz", "label": 9}]}))
    assert labels("validation", 2) == [9]
    assert labels("training", 2) == [0, 1, 3, 4]
    with pytest.raises(ManifestError, match="has folds 0 to 2, not 3; choose one of them"):
        load_datalist(path, "test", fold=3)
    with pytest.raises(ManifestError, match=r"training\[0\]: has no fold; build the datalist with --split folds=K"):
        load_datalist(write(tmp_path, [{"image": "a.nii.gz"}]), "test", fold=0)

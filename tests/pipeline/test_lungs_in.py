"""Lung masks that a user gives: two values or one, of the picture's size, found by name; anything else in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from pneumonai.pipeline.bundle import find_bundle
from pneumonai.pipeline.errors import BundleError, StudyError
from pneumonai.pipeline.lungs_in import lungs_bundle, lungs_of, open_lungs
from pneumonai.pipeline.mask_reader import LoadLungsd

SHAPE = (50, 70)


def labels() -> np.ndarray:
    made = np.zeros(SHAPE, np.uint8)
    made[10:40, 5:30], made[12:36, 40:60] = 1, 2
    return made


def save(folder: Path, name: str, values: np.ndarray) -> Path:
    Image.fromarray(values).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    "values", [labels(), (labels() > 0) * np.uint8(255), (labels() > 0) * np.uint8(2), labels() > 0]
)
def test_two_values_and_one_give_the_same(values: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.bmp"):
        read, warnings = open_lungs(save(tmp_path, name, values), SHAPE)
        assert np.array_equal(read, labels()) and warnings == []


def test_a_jpeg_is_cut_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray((labels() > 0) * np.uint8(255)).save(path, quality=95)
    assert (open_lungs(path, SHAPE)[0] != labels()).mean() < 0.01


def test_one_lung_is_told(tmp_path: Path) -> None:
    read, warnings = open_lungs(save(tmp_path, "a.png", (labels() == 2) * np.uint8(255)), SHAPE)
    assert set(np.unique(read)) == {0, 2}
    assert warnings[-1] == "the right lung is empty in the lung mask, so no severity is given"


@pytest.mark.parametrize(
    ("values", "shape", "reason"),
    [
        (
            np.zeros(SHAPE, np.uint8),
            SHAPE,
            "is an empty lung mask; mark the lungs: 1 right, 2 left, or both with one value",
        ),
        (labels(), (50, 71), "is 70 x 50 pixels, the study 71 x 50; put it on its grid"),
        (
            labels() * np.uint8(100),
            SHAPE,
            "holds the values 100, 200; give 1 for the right lung and 2 for the left, or one",
        ),
    ],
)
def test_masks_that_cannot_be_used(values: np.ndarray, shape: tuple[int, int], reason: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=reason):
        open_lungs(save(tmp_path, "a.png", values), shape)


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"none")
    (tmp_path / "a.txt").write_text("none")
    for name, reason in (("a.png", "damaged or no picture"), ("a.txt", "no lung mask"), ("b.png", "no such mask")):
        with pytest.raises(StudyError, match=reason):
            open_lungs(tmp_path / name, SHAPE)


def test_masks_are_found_by_name(tmp_path: Path) -> None:
    whole = save(tmp_path, "x.png", labels())
    marked = save(tmp_path, "y_lungs.png", labels())
    save(tmp_path, "y.png", labels())
    assert lungs_of("anything", whole) == whole
    assert lungs_of("x", tmp_path) == whole
    assert lungs_of("y", tmp_path) == marked
    with pytest.raises(StudyError, match=r"z: no lung mask in .* is named as it; add z.png"):
        lungs_of("z", tmp_path)


def test_where_lungs_may_come_from(tmp_path: Path) -> None:
    ct = find_bundle("fusa_resunet_ct_segmentation")
    with pytest.raises(BundleError, match="reads CT, whose lungs are found without help: --lungs is of no use"):
        lungs_bundle(tmp_path, ct)


def test_training_reads_them_alike(tmp_path: Path) -> None:
    path = save(tmp_path, "a.png", labels() > 0)
    image = MetaTensor(torch.zeros(1, *SHAPE))
    read = LoadLungsd("mask")({"image": image, "mask": str(path)})["mask"]
    assert read.shape == (1, *SHAPE) and np.array_equal(read[0].numpy(), labels())
    assert "mask" not in LoadLungsd("mask", allow_missing_keys=True)({"image": image})

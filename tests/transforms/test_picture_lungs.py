"""Lungs of a picture: one value becomes two by place, and a network's map comes back on the picture's grid."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from dark_lungs_network import DarkLungsNetwork
from monai.data import MetaTensor
from PIL import Image

from pneumonai.transforms import LungsNotFoundError, PictureLungSegment, PictureLungSegmentd, split_lungs
from pneumonai.transforms.picture_lungs import lungs_not_found

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
CUT = "the lung mask is not in two parts: it was cut into right and left near the midline"


def two_lungs(rows: int = 60, columns: int = 80, shift: int = 0) -> np.ndarray:
    """Labels 1 and 2: two unlike rectangles, the patient's right at the picture's left."""
    labels = np.zeros((rows, columns), np.uint8)
    labels[10:50, 8 + shift : 30 + shift] = 1
    labels[12:44, 42 + shift : 60 + shift] = 2
    return labels


@pytest.mark.parametrize("shift", [0, 18, -6])
def test_two_parts_are_told_wherever_they_lie(shift: int) -> None:
    labels = two_lungs(shift=shift)
    for value in (1, 255):
        parted, warnings = split_lungs((labels > 0) * value)
        assert np.array_equal(parted, labels) and parted.dtype == np.uint8 and warnings == []


def test_a_lung_in_pieces_stays_one_lung() -> None:
    labels = two_lungs()
    labels[30] = 0
    labels[2, 70] = 2
    parted, warnings = split_lungs(labels > 0)
    assert np.array_equal(parted, labels) and warnings == []


def test_touching_lungs_are_cut_where_they_are_thinnest() -> None:
    labels = two_lungs()
    bridge = (labels > 0).copy()
    bridge[20:23, 30:42] = True
    bridge[21:22, 36:40] = True
    bridge[20:21, 34] = bridge[22:23, 34] = False
    parted, warnings = split_lungs(bridge)
    assert warnings == [CUT]
    assert np.array_equal(parted[labels > 0], labels[labels > 0])
    assert (parted[21, 30:34] == 1).all() and (parted[21, 34:42] == 2).all()


def test_a_single_lung_leaves_the_other_side_empty() -> None:
    for label in (1, 2):
        only = np.where(two_lungs() == label, label, 0)
        parted, warnings = split_lungs(only)
        assert np.array_equal(parted, only) and warnings == [CUT]
    assert split_lungs(np.zeros((20, 20)))[0].sum() == 0


def test_real_masks_are_in_two_parts() -> None:
    if not (DATA / "cxr").exists():
        pytest.skip("the shared chest X-rays are not here")
    with (DATA / "cxr" / "manifest.csv").open(newline="") as file:
        masks = [row["lung_mask"] for row in csv.DictReader(file) if row["lung_mask"]]
    assert len(masks) == 73
    for name in masks:
        labels, warnings = split_lungs(np.asarray(Image.open(DATA / "cxr" / name)))
        assert warnings == []
        share = (labels == 1).sum() / (labels > 0).sum()
        assert 0.25 < share < 0.75


def picture_of(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 30.0, 200.0).astype(np.float32)[None]


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor, MetaTensor])
def test_the_map_lies_on_the_pictures_grid(kind: type) -> None:
    labels = np.kron(two_lungs(), np.ones((7, 5), np.uint8))
    labels[100, 60] = 0  # a hole
    labels[3:9, 3:9] = 1  # a speck
    picture = picture_of(labels)
    given = (
        picture if kind is np.ndarray else torch.from_numpy(picture) if kind is torch.Tensor else MetaTensor(picture)
    )
    found = PictureLungSegment(DarkLungsNetwork(), size=(128, 128))(given)
    assert type(found) is kind and found.shape == picture.shape
    map_ = np.asarray(found)[0]
    assert map_.dtype == np.uint8
    labels[100, 60], labels[3:9, 3:9] = 1, 0
    assert (map_ != labels).mean() < 0.01


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.save(
        {name: tensor.half() for name, tensor in DarkLungsNetwork(0.4).state_dict().items()}, tmp_path / "lungs.pt"
    )
    segment = PictureLungSegment(DarkLungsNetwork(-1.0), tmp_path / "lungs.pt")
    assert segment.network.threshold.dtype == torch.float32
    assert segment(picture_of(two_lungs())).max() == 2
    with pytest.raises(ValueError, match=r"there is no weights file .*none.pt for the lungs"):
        PictureLungSegment(DarkLungsNetwork(), tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("bad.pt", "other.pt"):
        with pytest.raises(ValueError, match=f"{name} is corrupt or no weights of the lungs' network"):
            PictureLungSegment(DarkLungsNetwork(), tmp_path / name)


def test_no_lungs_and_one_lung() -> None:
    segment = PictureLungSegmentd("image", DarkLungsNetwork())
    with pytest.raises(LungsNotFoundError, match="no lungs found in the picture"):
        segment({"image": torch.full((1, 80, 80), 250.0)})
    image = MetaTensor(torch.from_numpy(picture_of(np.where(two_lungs() == 1, 1, 0))))
    item = segment({"image": image})
    assert item["image"].meta["warnings"] == ["lung not found: the left one; look at the lung mask"]
    given = torch.ones(1, 60, 80)
    assert segment({"image": image, "lungs": given})["lungs"] is given
    with pytest.raises(ValueError, match="needs one key"):
        PictureLungSegmentd(["image", "other"], DarkLungsNetwork())
    with pytest.raises(ValueError, match=r"shape \[1, H, W\], got \[80, 80\]"):
        PictureLungSegment(DarkLungsNetwork())(np.zeros((80, 80)))


def test_a_lung_far_smaller_than_the_other_is_told() -> None:
    labels = two_lungs()
    assert lungs_not_found(labels) == []
    labels[20:, :][labels[20:, :] == 2] = 0
    (warning,) = lungs_not_found(torch.from_numpy(labels))
    # 8 of the left lung's 32 rows of 18 pixels are left, beside 40 rows of 22.
    assert warning == "lungs of unequal size: the left one is 16 % of the right one; look at the lung mask"

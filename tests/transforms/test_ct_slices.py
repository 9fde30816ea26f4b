"""Volumes and pictures in one form, and on one grey scale."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd, Orientation, Orientationd, Resized

from pneumonai.transforms import LungWindow, LungWindowd, PictureAsSlice, PictureAsSliced


def picture(rows: int = 5, columns: int = 7) -> MetaTensor:
    values = torch.arange(rows * columns, dtype=torch.float32).reshape(1, rows, columns)
    return MetaTensor(values, affine=torch.eye(4, dtype=torch.float64))


def test_a_picture_becomes_one_upright_slice_and_comes_back() -> None:
    source = picture()
    converter = PictureAsSlice()
    one = converter(source)
    assert one.shape == (1, 1, 5, 7)
    torch.testing.assert_close(one[:, 0].as_tensor(), source.as_tensor())
    # Its axes are S, P, L already, so that the orientation of volumes leaves it alone.
    torch.testing.assert_close(Orientation(axcodes="SPL", labels=None)(one).as_tensor(), one.as_tensor())
    back = converter.inverse(converter(source))
    torch.testing.assert_close(back.as_tensor(), source.as_tensor())
    torch.testing.assert_close(back.affine, source.affine)
    assert not back.applied_operations


def test_a_volume_stays_as_it_is() -> None:
    affine = torch.diag(torch.tensor([0.7, 0.7, 2.0, 1.0], dtype=torch.float64))
    volume = MetaTensor(torch.rand(1, 4, 5, 6), affine=affine)
    converter = PictureAsSlice()
    there = converter(volume)
    torch.testing.assert_close(there.as_tensor(), volume.as_tensor())
    torch.testing.assert_close(there.affine, affine)
    back = converter.inverse(there)
    torch.testing.assert_close(back.affine, affine)
    assert not back.applied_operations


@pytest.mark.parametrize("shape", [(1, 7), (1, 2, 3, 4, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="PictureAsSlice needs"):
        PictureAsSlice()(torch.zeros(shape))


def test_several_slices_are_no_picture() -> None:
    converter = PictureAsSlice()
    one = converter(picture())
    several = one.repeat(1, 2, 1, 1)
    several.applied_operations = one.applied_operations
    with pytest.raises(ValueError, match="needs one slice"):
        converter.inverse(several)


@pytest.mark.parametrize("is_volume", [False, True])
def test_a_mask_finds_its_way_back_through_the_bundles_geometry(is_volume: bool) -> None:
    """What is marked on the network's grid lies on the same pixels of the source."""
    if is_volume:
        affine = torch.tensor([[-1.0, 0, 0, 9], [0, 1.0, 0, 3], [0, 0, -2.0, 5], [0, 0, 0, 1]], dtype=torch.float64)
        source = MetaTensor(torch.rand(1, 12, 10, 6), affine=affine)
        lungs = MetaTensor(torch.zeros(1, 12, 10, 6, dtype=torch.uint8), affine=affine)
        lungs[0, 2:10, 1:9, 1:5] = 1
    else:
        source = picture(12, 10)
        lungs = MetaTensor(torch.zeros(1, 12, 10, dtype=torch.uint8), affine=source.affine)
        lungs[0, 2:10, 1:9] = 1
    keys = ["image", "lungs"]
    chain = Compose(
        [
            PictureAsSliced(keys=keys),
            Orientationd(keys=keys, axcodes="SPL", labels=None),
            CropForegroundd(keys=keys, source_key="lungs", start_coord_key=None, end_coord_key=None),
            Resized(keys=keys, spatial_size=(-1, 16, 16), mode=["trilinear", "nearest"]),
        ]
    )
    item = chain({"image": source, "lungs": lungs})
    item["pred"] = MetaTensor(torch.ones(1, *item["image"].shape[1:]))
    back = Invertd(keys="pred", transform=chain, orig_keys="image", nearest_interp=True, to_tensor=True)(item)["pred"]
    torch.testing.assert_close(back.as_tensor() > 0.5, lungs.as_tensor() > 0)


def test_the_window_by_hand() -> None:
    hu = torch.tensor([[-2000.0, -1350.0, -600.0, 150.0, 3000.0]])
    torch.testing.assert_close(LungWindow()(hu), torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]))
    narrow = LungWindowd(keys="image", low=-1000, high=0)({"image": hu})["image"]
    torch.testing.assert_close(narrow, torch.tensor([[0.0, 0.0, 0.4, 1.0, 1.0]]))


def test_grey_values_are_divided_by_255() -> None:
    grey = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    torch.testing.assert_close(LungWindow()(grey), torch.tensor([[0.0, 0.2, 1.0]]))


def test_a_window_must_have_a_width() -> None:
    with pytest.raises(ValueError, match="low < high, got 5 and 5"):
        LungWindow(5, 5)

"""Masks onto the grid of their study."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.mask_in import find_mask, open_mask
from pneumonai.pipeline.mask_reader import LoadMaskd

AFFINE = np.array([[-0.8, 0, 0, 40], [0, -0.8, 0, 50], [0, 0, 2.0, -300], [0, 0, 0, 1.0]])
SHAPE = (6, 7, 4)


def marked() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 2, 3] = 2
    mask[4, 5, 0] = 1
    return mask


def test_a_mask_stored_with_other_axes_is_turned_onto_the_study(tmp_path: Path) -> None:
    image = nib.Nifti1Image(marked(), AFFINE)
    nib.save(image, tmp_path / "same.nii.gz")
    turn = nib.orientations.axcodes2ornt(("S", "L", "A"))
    other = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(AFFINE), turn))
    assert other.shape == (4, 6, 7)
    nib.save(other, tmp_path / "turned.nii")
    for name in ("same.nii.gz", "turned.nii"):
        mask = open_mask(tmp_path / name, SHAPE, AFFINE)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, marked() > 0)


@pytest.mark.parametrize(
    ("shape", "shift", "message"),
    [
        ((6, 7, 5), 0.0, "is 6 x 7 x 5 voxels, the study 6 x 7 x 4; put it on its grid"),
        (SHAPE, 1.0, r"lies up to 1\.0 mm from the study"),
    ],
)
def test_a_mask_of_another_grid_is_refused(shape: tuple[int, ...], shift: float, message: str, tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), tmp_path / "m.nii.gz")
    with pytest.raises(StudyError, match=message):
        open_mask(tmp_path / "m.nii.gz", SHAPE, AFFINE)


def test_a_small_rounding_of_the_affine_is_no_other_grid(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] += 0.05
    nib.save(nib.Nifti1Image(marked(), affine), tmp_path / "m.nii.gz")
    assert open_mask(tmp_path / "m.nii.gz", SHAPE, AFFINE).sum() == 2


@pytest.mark.parametrize(("value", "name"), [(255, "m.png"), (1, "m.png"), (255, "m.jpg"), (True, "m.png")])
def test_pictures_of_masks(value: int, name: str, tmp_path: Path) -> None:
    mask = np.zeros((16, 24), bool if value is True else np.uint8)
    mask[4:12, 8:16] = value
    Image.fromarray(mask).save(tmp_path / name)
    np.testing.assert_array_equal(open_mask(tmp_path / name, (16, 24), np.eye(4)), mask > 0)


def test_what_is_no_mask_of_the_study_is_said_in_words(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(tmp_path / "m.png")
    nib.save(nib.Nifti1Image(marked(), AFFINE), tmp_path / "m.nii")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "broken.nii").write_bytes(b"no volume")
    for path, shape, message in (
        ("m.png", (24, 16), "is 24 x 16 pixels, the study 16 x 24"),
        ("m.png", SHAPE, "is a picture, where the study is a volume"),
        ("m.nii", (6, 7), "is a volume, where the study is a picture"),
        ("broken.png", (4, 4), "is damaged or no picture"),
        ("broken.nii", SHAPE, "is damaged or no NIfTI file"),
        ("nothing.png", (4, 4), "no such mask"),
    ):
        with pytest.raises(StudyError, match=message):
            open_mask(tmp_path / path, shape, AFFINE)


def test_masks_are_found_by_the_studys_name(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz", "b_infection.nii.gz", "c_mask.png", "c_mask.nii.gz", "ab.nii.gz"):
        (tmp_path / name).touch()
    assert find_mask(tmp_path, "a") == tmp_path / "a.nii.gz"
    assert find_mask(tmp_path, "b") == tmp_path / "b_infection.nii.gz"
    assert find_mask(tmp_path, "nobody") is None
    assert find_mask(tmp_path / "a.nii.gz", "any") == tmp_path / "a.nii.gz"
    with pytest.raises(StudyError, match="are both named as its mask"):
        find_mask(tmp_path, "c")
    with pytest.raises(StudyError, match="no such mask or folder"):
        find_mask(tmp_path / "nothing", "a")


def test_the_transform_gives_the_mask_the_images_geometry(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(marked(), AFFINE), tmp_path / "m.nii.gz")
    image = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.from_numpy(AFFINE))
    item = LoadMaskd(keys="mask")({"image": image, "mask": tmp_path / "m.nii.gz"})
    assert item["mask"].shape == (1, *SHAPE)
    torch.testing.assert_close(item["mask"].affine, image.affine)
    assert LoadMaskd(keys="mask", allow_missing_keys=True)({"image": image}).keys() == {"image"}

"""NIfTI files: values kept, geometry kept, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.study import InputKind, open_study

AFFINE = np.array([[-3.0, 0, 0, 90], [0, 3.0, 0, -80], [0, 0, 5.0, -200], [0, 0, 0, 1]])


def volume(dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (8, 9, 10)).astype(dtype)


def saved(folder: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE, name: str = "a.nii.gz") -> Path:
    path = folder / name
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize("dtype", ["int16", ">i2", "int32", "float32", "float64", "int8"])
def test_whole_numbers_become_int16(tmp_path: Path, dtype: str) -> None:
    values = volume("int16") // (16 if dtype == "int8" else 1)
    study = open_study(saved(tmp_path, values.astype(dtype)))
    assert study.image.dtype == np.int16
    assert study.image.dtype.isnative
    assert np.array_equal(study.image, values)
    assert np.allclose(study.affine, AFFINE)
    assert study.kind is InputKind.VOLUME


def test_fractions_stay(tmp_path: Path) -> None:
    values = volume().astype(np.float64) + 0.25
    study = open_study(saved(tmp_path, values, name="a.nii"))
    assert study.image.dtype == np.float32
    assert np.array_equal(study.image, values)


def test_scaled_integers(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume(), AFFINE)
    image.header.set_slope_inter(2, -24)
    nib.save(image, tmp_path / "a.nii")
    written = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    expected = np.where(written < -1500, -1024, written)
    assert np.array_equal(open_study(tmp_path / "a.nii").image, expected)


def test_filling_outside_the_field_of_view_becomes_air(tmp_path: Path) -> None:
    values = volume()
    values[0] = -3024
    study = open_study(saved(tmp_path, values))
    assert (study.image[0] == -1024).all()
    assert np.array_equal(study.image[1:], values[1:])
    assert "values below -1500 HU" in study.converted[0]


def test_a_trailing_axis_of_one_and_single_slices(tmp_path: Path) -> None:
    assert open_study(saved(tmp_path, volume()[..., None])).image.shape == (8, 9, 10)
    single = open_study(saved(tmp_path, volume()[..., :1], name="one.nii.gz"))
    assert single.kind is InputKind.SLICE


def test_differing_affines_are_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume(), AFFINE)
    image.set_qform(np.diag([3.0, 3, 5, 1]), 1)
    image.set_sform(AFFINE, 2)
    nib.save(image, tmp_path / "a.nii")
    study = open_study(tmp_path / "a.nii")
    assert np.allclose(study.affine, AFFINE)
    assert "sform and qform" in study.warnings[0]


def with_nan(value: float) -> np.ndarray:
    values = volume(np.float32)
    values[3, 4, 5] = value
    return values


RGB = np.zeros((8, 9, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
REFUSED = [
    (with_nan(np.nan), AFFINE, "no numbers (NaN or infinite)"),
    (with_nan(np.inf), AFFINE, "no numbers (NaN or infinite)"),
    (np.zeros((8, 9, 10, 3), np.int16), AFFINE, "is 4D, of shape (8, 9, 10, 3); one volume is wanted"),
    (RGB, AFFINE, "is in colour (RGB)"),
    (volume(np.complex64), AFFINE, "of type complex64"),
    (volume(), None, "says nothing of its orientation"),
]


@pytest.mark.parametrize(("values", "affine", "gist"), REFUSED)
def test_refused_in_words(tmp_path: Path, values: np.ndarray, affine: np.ndarray | None, gist: str) -> None:
    with pytest.raises(StudyError) as caught:
        open_study(saved(tmp_path, values, affine))
    assert gist in caught.value.line()
    assert caught.value.remedy


@pytest.mark.parametrize("step", [np.nan, 0.0])
def test_an_affine_without_volume_is_refused(tmp_path: Path, step: float) -> None:
    image = nib.Nifti1Image(volume(), AFFINE)
    nib.save(image, tmp_path / "a.nii")
    broken = bytearray((tmp_path / "a.nii").read_bytes())
    broken[312:328] = np.array([0, 0, step, -200], "<f4").tobytes()  # srow_z
    (tmp_path / "a.nii").write_bytes(broken)
    with pytest.raises(StudyError, match="affine is not finite or has no volume"):
        open_study(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_damaged_files_give_words(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, volume(), name=name)
    whole, random = path.read_bytes(), np.random.default_rng(3)
    for cut in [0, 10, *random.integers(0, len(whole) - 8, 25)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(StudyError):
            open_study(path)
    for _ in range(60):
        broken = bytearray(whole)
        for at in random.integers(0, min(len(whole), 352), 3):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken)
        try:
            open_study(path)
        except StudyError as error:
            assert "\n" not in error.line()

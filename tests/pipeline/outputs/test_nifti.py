from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs import nifti
from pneumonai.pipeline.outputs.nifti import write_map, write_maps
from pneumonai.pipeline.result import Maps
from pneumonai.pipeline.study import InputKind, Modality, Study


def random_study(rng: np.random.Generator, shape: tuple[int, ...] = (7, 9, 5)) -> Study:
    """A study on an oblique, flipped grid with random spacing and origin."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.5, 5.0, size=3)
    affine[:3, 3] = rng.uniform(-300, 300, size=3)
    image = rng.integers(-1000, 400, size=shape, dtype=np.int16)
    return Study("s", "s.nii.gz", Modality.CT, InputKind.VOLUME, image, affine)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, bool])
def test_nibabel_reads_back_values_shape_and_affine(tmp_path: Path, order: str, dtype: type) -> None:
    rng = np.random.default_rng(1)
    study = random_study(rng)
    array = np.asarray(rng.integers(0, 2 if dtype is bool else 100, size=study.image.shape), dtype=dtype, order=order)
    write_map(array, study, tmp_path / "map.nii.gz")
    back = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), array)
    np.testing.assert_allclose(back.affine, study.affine, atol=1e-4)
    np.testing.assert_allclose(back.get_qform(), study.affine, atol=1e-3)
    assert (back.get_sform(coded=True)[1], back.get_qform(coded=True)[1]) == (1, 1)
    np.testing.assert_allclose(back.header.get_zooms(), study.spacing, rtol=1e-6)


def test_itk_finds_the_map_in_the_same_place(tmp_path: Path) -> None:
    study = random_study(np.random.default_rng(2))
    array = np.zeros(study.image.shape, np.uint8)
    array[6, 2, 3] = 2
    write_map(array, study, tmp_path / "lungs.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "lungs.nii.gz"))
    assert image[6, 2, 3] == 2
    expected = (study.affine @ [6, 2, 3, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((6, 2, 3)), expected, atol=1e-3)


def test_a_heat_map_is_stored_as_bytes_and_read_as_0_to_1(tmp_path: Path) -> None:
    study = random_study(np.random.default_rng(3))
    heat = np.zeros(study.image.shape, np.uint8)
    heat[0, 0, 0], heat[1, 2, 3] = 255, 51
    further = {"gradcam++": heat[::-1]}
    names = ["heat_map.nii.gz", "heat_map_gradcam++.nii.gz"]
    assert write_maps(study, Maps(heat_map=heat, more_heat_maps=further), tmp_path) == names
    assert nib.load(tmp_path / names[1]).get_fdata()[-1, 0, 0] == pytest.approx(1.0)
    back = nib.load(tmp_path / "heat_map.nii.gz")
    assert back.header.get_data_dtype() == np.uint8
    values = back.get_fdata()
    assert values[0, 0, 0] == pytest.approx(1.0)
    assert values[1, 2, 3] == pytest.approx(0.2)


def test_the_file_is_one_gzip_member_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "_BLOCK_BYTES", 64)
    study = random_study(np.random.default_rng(4))
    array = np.random.default_rng(5).integers(0, 256, size=study.image.shape, dtype=np.uint8)
    write_map(array, study, tmp_path / "map.nii.gz")
    packed = (tmp_path / "map.nii.gz").read_bytes()
    first = zlib.decompressobj(wbits=31)
    raw = first.decompress(packed)
    assert first.eof
    assert first.unused_data == b""
    assert raw == gzip.decompress(packed)
    assert raw[352:] == array.tobytes(order="F")


def test_a_picture_s_maps_are_png_of_its_own_size(tmp_path: Path) -> None:
    picture = Study("p", "p.png", Modality.CXR, InputKind.PICTURE, np.zeros((6, 4), np.uint8), np.eye(4))
    lungs = np.zeros((6, 4), np.uint8)
    lungs[1, 0], lungs[1, 3] = 1, 2
    infection = (lungs == 2).astype(np.uint8)
    heat = np.full((6, 4), 77, np.uint8)
    names = write_maps(picture, Maps(lungs=lungs, heat_map=heat, infection=infection), tmp_path)
    assert names == ["lungs.png", "heat_map.png", "infection.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "lungs.png")), lungs)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "heat_map.png")), heat)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "infection.png")), infection * 255)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    study = random_study(np.random.default_rng(6))
    with pytest.raises(ValueError, match=r"image's shape \(7, 9, 5\), got \(5, 9, 7\)"):
        write_map(np.zeros((5, 9, 7), np.uint8), study, tmp_path / "map.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = random_study(np.random.default_rng(7))
    target = tmp_path / "map.nii.gz"
    target.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    # The module alone: the test runner packs its messages with struct too.
    monkeypatch.setattr(nifti, "struct", SimpleNamespace(pack=full))
    with pytest.raises(OutputError, match="the disk is full; free some space"):
        write_map(np.zeros(study.image.shape, np.uint8), study, target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]

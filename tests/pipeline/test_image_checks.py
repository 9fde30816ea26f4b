"""What a scan says of itself: told where it is so, silent on sound scans, phantoms' and patients'."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pneumonai.pipeline.image_checks import WRONG_WAY, canonical, coarse_chest, look, noise_level
from pneumonai.pipeline.phantom import Phantom, make_phantom, shifts
from pneumonai.pipeline.study import open_checked

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@cache
def phantom_of(kind: str, seed: int, difficulty: str = "usual") -> Phantom:
    return make_phantom(kind, seed, shape=(96, 96, 48), difficulty=difficulty)


def generator() -> np.random.Generator:
    return np.random.default_rng(8)


def shifted(shift: shifts.Shift, **values: object) -> list[str]:
    phantom = phantom_of("ncp", 5)
    return look(*shift(phantom.image, phantom.affine, generator(), **values))


@pytest.mark.parametrize("difficulty", ["usual", "hard"])
@pytest.mark.parametrize("kind", ["normal", "ncp", "cp"])
def test_sound_phantoms_raise_nothing(kind: str, difficulty: str) -> None:
    phantom = phantom_of(kind, 5, difficulty)
    assert look(phantom.image, phantom.affine) == []


def test_flips_that_the_affine_tells_raise_nothing() -> None:
    for axes in ((0,), (1,), (2,), (0, 1, 2)):
        assert shifted(shifts.flip, axes=axes) == []


def test_wrong_labels_are_suspected() -> None:
    assert [w.split(":")[0] for w in shifted(shifts.mislabel, axis=1)] == ["the spine seems to lie in front"]
    assert [w.split(":")[0] for w in shifted(shifts.mislabel, axis=2)] == ["the heart seems to lie at the upper end"]
    assert all(shifted(shifts.mislabel, axis=axis)[0].startswith(WRONG_WAY) for axis in (1, 2))  # these refer
    # Left for right: only where the heart lies far enough from the middle.
    phantom = phantom_of("normal", 0)
    mirrored = shifts.mislabel(phantom.image, phantom.affine, generator(), axis=0)
    assert [w.split(":")[0] for w in look(*mirrored)] == ["the heart seems to lie on the right"]


def test_noise_is_measured_and_told() -> None:
    phantom = phantom_of("ncp", 5)
    heights = np.arange(12, 36, 2)
    before = noise_level(*_view(phantom.image, phantom.affine), heights)
    for sigma in (30.0, 60.0):
        noisy, affine = shifts.add_noise(phantom.image, phantom.affine, generator(), sigma=sigma)
        found = noise_level(*_view(noisy, affine), heights)
        assert before is not None and found == pytest.approx(np.hypot(sigma, before), rel=0.15)
    assert shifted(shifts.add_noise, sigma=60)[0].startswith("noisy image (about 6")
    assert shifted(shifts.add_noise, sigma=10) == []


def _view(image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray]:
    return (canonical(image, affine)[0],)


def test_metal_and_few_slices_are_told() -> None:
    assert any(w.startswith("metal in ") for w in shifted(shifts.add_metal))
    few = shifted(shifts.reslice, count=20)
    assert [w.split(" slices")[0][:5] for w in few] == ["only "]
    assert shifted(shifts.reslice, count=90) == []


def test_what_is_no_chest_is_passed_over() -> None:
    block = np.full((40, 40, 40), 40, np.int16)
    assert coarse_chest(block, (5.0, 5.0, 5.0)) is None
    assert look(block, np.diag([-5.0, -5, 5, 1])) == []


@pytest.mark.parametrize("name", ["imlab_id001_ct.nii.gz", "imlab_id002_ct.nii.gz"])
def test_real_volumes_raise_nothing(name: str) -> None:
    if not (DATA / "ct3d" / name).exists():
        pytest.skip("the shared volumes of ct3d are not here")
    scan = nib.load(DATA / "ct3d" / name)
    assert look(np.asarray(scan.dataobj), scan.affine) == []


def test_a_real_study_raises_nothing() -> None:
    if not (DATA / "dicom_study" / "P001").exists():
        pytest.skip("the shared DICOM study P001 is not here")
    study = open_checked(DATA / "dicom_study" / "P001")
    assert look(study.image, study.affine) == []

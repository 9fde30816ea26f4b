"""What a picture looks like: silent on frontal chest X-rays, in words on anything else."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonai.pipeline.checks import check
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.phantom import Phantom, View, make_phantom, project_xray
from pneumonai.pipeline.phantom.projections import axial_picture, slice_positions
from pneumonai.pipeline.study import Modality, open_checked
from pneumonai.pipeline.xray_checks import PICTURE_LOOKS, Appearance, appearance, look_at_xray, without_border

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TURNS = {1: Appearance.TURNED_LEFT, 2: Appearance.UPSIDE_DOWN, 3: Appearance.TURNED_RIGHT}


@cache
def phantom_of(kind: str) -> Phantom:
    return make_phantom(kind, 7, shape=(128, 128, 64))


@cache
def real_xrays() -> list[np.ndarray]:
    if not (DATA / "cxr").exists():
        pytest.skip("the shared chest X-rays are not here")
    with (DATA / "cxr" / "manifest.csv").open(newline="") as file:
        return [np.asarray(Image.open(DATA / "cxr" / row["file"]).convert("L")) for row in csv.DictReader(file)]


@pytest.mark.parametrize("kind", ["normal", "ncp", "cp"])
def test_phantoms_are_told(kind: str) -> None:
    phantom = phantom_of(kind)
    frontal = project_xray(phantom)
    assert look_at_xray(frontal) == [] == look_at_xray(frontal[:, ::-1])
    lateral = project_xray(phantom, view=View.LATERAL)
    assert appearance(lateral) is appearance(lateral[:, ::-1]) is Appearance.LATERAL
    assert appearance(255 - frontal) is Appearance.INVERTED
    for quarters, looks in TURNS.items():
        assert appearance(np.rot90(frontal, quarters)) is looks
    for k in slice_positions(phantom, 3):
        assert appearance(axial_picture(phantom, k)) is Appearance.CT_SLICE


def test_size_scale_and_border_do_not_matter() -> None:
    frontal = project_xray(phantom_of("ncp"))
    larger = np.asarray(Image.fromarray(frontal).resize((1000, 900)))
    framed = np.pad(frontal, ((40, 0), (10, 60)))
    for picture in (larger, framed, frontal / 3 + 100, frontal.astype(np.float32)):
        assert appearance(picture) is Appearance.FRONTAL
    assert without_border(framed).shape[0] <= frontal.shape[0]
    assert np.array_equal(without_border(np.zeros((70, 80))), np.zeros((70, 80)))


def test_photographs_and_drawings_are_told() -> None:
    from skimage import data
    from sklearn.datasets import load_sample_images

    noise = np.random.default_rng(2).integers(0, 255, (200, 200)).astype(np.uint8)
    pictures = [data.camera(), noise, *(picture.mean(axis=2) for picture in load_sample_images().images)]
    assert all(appearance(picture) is not Appearance.FRONTAL for picture in pictures)
    warning = look_at_xray(data.camera())[0]
    assert warning.startswith(f"{PICTURE_LOOKS} like no chest X-ray") and warning.endswith("send a frontal chest X-ray")


def test_real_xrays_raise_little() -> None:
    pictures = real_xrays()
    false = sum(bool(look_at_xray(picture)) for picture in pictures)
    assert len(pictures) == 191 and false <= 0.03 * len(pictures)
    some = pictures[::8]
    told = [appearance(np.rot90(picture, q)) is looks for picture in some for q, looks in TURNS.items()]
    told += [appearance(255 - picture) is Appearance.INVERTED for picture in some]
    assert np.mean(told) > 0.9


@pytest.mark.parametrize("pack", ["ct2d", "sars_cov_2_ct"])
def test_real_slices_are_told(pack: str) -> None:
    files = sorted((DATA / pack).rglob("*.jpg"))[::20] + sorted((DATA / pack).rglob("*.png"))[::20]
    if not files:
        pytest.skip(f"the shared slices of {pack} are not here")
    found = [appearance(np.asarray(Image.open(file).convert("L"))) for file in files]
    assert np.mean([one is not Appearance.FRONTAL for one in found]) > 0.95
    assert np.mean([one is Appearance.CT_SLICE for one in found]) > 0.9


def test_the_check_warns_and_refuses(tmp_path: Path) -> None:
    frontal = project_xray(phantom_of("ncp"))
    Image.fromarray(255 - frontal).save(tmp_path / "inverted.png")
    study = open_checked(tmp_path / "inverted.png", modality="CXR", input_kind="picture")
    assert study.warnings == ["the picture looks inverted (bone black, air white): invert it, or send the DICOM file"]
    # As a CT slice it is none of this check's business.
    study.modality = Modality.CT
    assert not any("inverted" in warning for warning in check(study, modality="CT", input_kind="slice"))
    black = np.random.default_rng(0).integers(0, 3, (100, 100)).astype(np.uint8)
    for name, picture, tone in (
        ("a", black, "black"),
        ("b", 255 - black, "white"),
        ("c", black + 90, "of one grey value"),
    ):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        with pytest.raises(StudyError, match=f"is {tone} throughout; check the export"):
            open_checked(tmp_path / f"{name}.png", modality="CXR", input_kind="picture")
